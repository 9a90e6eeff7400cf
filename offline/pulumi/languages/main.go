// The language hosts for Go and TypeScript, and the generator of packages for Go, TypeScript and Python,
// as far as the tests need them: they run a program whose dependencies are there, and generate an SDK.
// The hosts that Pulumi releases are in no module that can be had; the generators are Pulumi's own.
// The name by which this program is started says which language it serves.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	gogen "github.com/pulumi/pulumi/pkg/v3/codegen/go"
	nodegen "github.com/pulumi/pulumi/pkg/v3/codegen/nodejs"
	pygen "github.com/pulumi/pulumi/pkg/v3/codegen/python"
	"github.com/pulumi/pulumi/pkg/v3/codegen/schema"
	"github.com/pulumi/pulumi/sdk/v3/go/common/util/rpcutil"
	"github.com/pulumi/pulumi/sdk/v3/go/common/version"
	pulumirpc "github.com/pulumi/pulumi/sdk/v3/proto/go"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

type host struct {
	pulumirpc.UnimplementedLanguageRuntimeServer
	language, engine string
}

func main() {
	language := strings.TrimPrefix(filepath.Base(os.Args[0]), "pulumi-language-")
	engine := ""
	for _, word := range os.Args[1:] {
		if !strings.HasPrefix(word, "-") {
			engine = word
		}
	}
	server, err := rpcutil.ServeWithOptions(rpcutil.ServeOptions{
		Init: func(server *grpc.Server) error {
			pulumirpc.RegisterLanguageRuntimeServer(server, &host{language: language, engine: engine})
			return nil
		},
		Options: rpcutil.TracingServerInterceptorOptions(nil),
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(server.Port)
	if err := <-server.Done; err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func (h *host) GetPluginInfo(context.Context, *emptypb.Empty) (*pulumirpc.PluginInfo, error) {
	return &pulumirpc.PluginInfo{Version: version.Version}, nil
}

// GetRequiredPackages names none: whoever starts a program has its plugins.
func (h *host) GetRequiredPackages(
	context.Context, *pulumirpc.GetRequiredPackagesRequest,
) (*pulumirpc.GetRequiredPackagesResponse, error) {
	return &pulumirpc.GetRequiredPackagesResponse{}, nil
}

func (h *host) Run(ctx context.Context, req *pulumirpc.RunRequest) (*pulumirpc.RunResponse, error) {
	config, err := json.Marshal(req.GetConfig())
	if err != nil {
		return nil, err
	}
	secrets, err := json.Marshal(req.GetConfigSecretKeys())
	if err != nil {
		return nil, err
	}
	env := append(os.Environ(), "PULUMI_CONFIG="+string(config), "PULUMI_CONFIG_SECRET_KEYS="+string(secrets))
	var command *exec.Cmd
	switch h.language {
	case "go":
		command = exec.CommandContext(ctx, "go", "run", ".")
		env = append(env,
			"PULUMI_PROJECT="+req.GetProject(),
			"PULUMI_ROOT_DIRECTORY="+req.GetInfo().GetRootDirectory(),
			"PULUMI_STACK="+req.GetStack(),
			"PULUMI_ORGANIZATION="+req.GetOrganization(),
			fmt.Sprintf("PULUMI_DRY_RUN=%v", req.GetDryRun()),
			fmt.Sprintf("PULUMI_PARALLEL=%d", req.GetParallel()),
			"PULUMI_MONITOR="+req.GetMonitorAddress(),
			"PULUMI_ENGINE="+h.engine,
		)
	case "nodejs":
		command = exec.CommandContext(ctx, "node", "node_modules/@pulumi/pulumi/cmd/run",
			"--monitor", req.GetMonitorAddress(),
			"--engine", h.engine,
			"--project", req.GetProject(),
			"--root-directory", req.GetInfo().GetRootDirectory(),
			"--stack", req.GetStack(),
			"--organization", req.GetOrganization(),
			"--parallel", fmt.Sprint(req.GetParallel()),
			fmt.Sprintf("--dry-run=%v", req.GetDryRun()),
			"--pwd", req.GetPwd(),
			".",
		)
		env = append(env, "PULUMI_NODEJS_TYPESCRIPT=true")
	default:
		return nil, fmt.Errorf("%s programs have a host of their own", h.language)
	}
	command.Dir, command.Env = req.GetPwd(), env
	command.Stdout, command.Stderr = os.Stdout, os.Stderr
	err = command.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() == 32:
		// The program has shown why.
		return &pulumirpc.RunResponse{Bail: true}, nil
	case err != nil:
		return &pulumirpc.RunResponse{Error: err.Error()}, nil
	}
	return &pulumirpc.RunResponse{}, nil
}

// Link makes the program use the generated packages from their folders.
func (h *host) Link(ctx context.Context, req *pulumirpc.LinkRequest) (*pulumirpc.LinkResponse, error) {
	folder := req.GetInfo().GetProgramDirectory()
	var used []string
	for _, dependency := range req.GetPackages() {
		place := "./" + dependency.GetPath()
		switch h.language {
		case "go":
			said, err := inFolder(ctx, filepath.Join(folder, place), "go", "list", "-m")
			if err != nil {
				return nil, err
			}
			module := strings.TrimSpace(string(said))
			if _, err := inFolder(ctx, folder, "go", "mod", "edit",
				"-require="+module+"@v0.0.0", "-replace="+module+"="+place); err != nil {
				return nil, err
			}
			used = append(used, module)
		case "nodejs":
			name := "@pulumi/" + dependency.GetPackage().GetName()
			if _, err := inFolder(ctx, folder, "npm", "pkg", "set", "dependencies."+name+"=file:"+place); err != nil {
				return nil, err
			}
			used = append(used, name)
		default:
			return nil, fmt.Errorf("%s programs have a host of their own", h.language)
		}
	}
	return &pulumirpc.LinkResponse{ImportInstructions: "import " + strings.Join(used, ", ")}, nil
}

// InstallDependencies brings what the program's own file of dependencies names.
func (h *host) InstallDependencies(
	req *pulumirpc.InstallDependenciesRequest,
	stream grpc.ServerStreamingServer[pulumirpc.InstallDependenciesResponse],
) error {
	command := []string{"go", "mod", "tidy"}
	if h.language == "nodejs" {
		command = []string{"npm", "install", "--no-audit", "--no-fund"}
	}
	said, err := inFolder(stream.Context(), req.GetInfo().GetProgramDirectory(), command...)
	if err != nil {
		return err
	}
	return stream.Send(&pulumirpc.InstallDependenciesResponse{Stdout: said})
}

// inFolder is the standard output of a command; its error has what the command wrote otherwise.
func inFolder(ctx context.Context, folder string, words ...string) ([]byte, error) {
	command := exec.CommandContext(ctx, words[0], words[1:]...)
	command.Dir = folder
	said, err := command.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil, fmt.Errorf("%s: %w: %s", strings.Join(words, " "), err, exit.Stderr)
	}
	return said, err
}

func (h *host) GeneratePackage(
	_ context.Context, req *pulumirpc.GeneratePackageRequest,
) (*pulumirpc.GeneratePackageResponse, error) {
	loader, err := schema.NewLoaderClient(req.GetLoaderTarget())
	if err != nil {
		return nil, err
	}
	var spec schema.PackageSpec
	if err := json.Unmarshal([]byte(req.GetSchema()), &spec); err != nil {
		return nil, err
	}
	pkg, diagnostics, err := schema.BindSpec(spec, loader, schema.ValidationOptions{AllowDanglingReferences: true})
	if err != nil {
		return nil, err
	}
	if diagnostics.HasErrors() {
		return nil, diagnostics
	}
	files, err := h.generate(pkg, req, loader)
	if err != nil {
		return nil, err
	}
	for name, content := range files {
		path := filepath.Join(req.GetDirectory(), name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return nil, err
		}
	}
	return &pulumirpc.GeneratePackageResponse{}, nil
}

func (h *host) generate(
	pkg *schema.Package, req *pulumirpc.GeneratePackageRequest, loader schema.ReferenceLoader,
) (map[string][]byte, error) {
	tool := "pulumi-language-" + h.language
	switch h.language {
	case "go":
		return gogen.GeneratePackage(tool, pkg, req.GetLocalDependencies())
	case "nodejs":
		return nodegen.GeneratePackage(
			tool, pkg, req.GetExtraFiles(), req.GetLocalDependencies(), req.GetLocal(), loader)
	case "python":
		return pygen.GeneratePackage(tool, pkg, req.GetExtraFiles(), loader)
	}
	return nil, fmt.Errorf("no generator for %s", h.language)
}
