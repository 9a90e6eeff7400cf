package main

import (
	"context"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	pulumirpc "github.com/pulumi/pulumi/sdk/v3/proto/go"
	"github.com/pulumi/pulumi/sdk/v3/python"
)

// The engine of today ends a host with SIGINT and waits 5 seconds for one that ignores it, as all do from
// their start that a shell without job control has put in the background.
func init() {
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt)
	go func() {
		<-interrupted
		os.Exit(0)
	}()
}

// The engine of today names the folder of a plugin or policy pack in the field `info` of the request,
// which this host does not know: field 5, a ProgramInfo with the program's folder in field 2 and the
// runtime's options in field 4 (pulumi/language.proto).
func info(req *pulumirpc.RunPluginRequest) []byte {
	return field(req.ProtoReflect().GetUnknown(), 5)
}

// pluginProgram is what python is to run.
func pluginProgram(req *pulumirpc.RunPluginRequest) string {
	if folder := field(info(req), 2); len(folder) > 0 {
		return string(folder)
	}
	return req.Program
}

// pluginCommand is the command of a plugin for which this host was started without an environment.
// Unbuffered: a policy pack writes its port and flushes nothing, and the engine would wait for ever.
func pluginCommand(
	ctx context.Context, req *pulumirpc.RunPluginRequest, args ...string,
) (*exec.Cmd, error) {
	args = append([]string{"-u"}, args...)
	options := &structpb.Struct{}
	if err := proto.Unmarshal(field(info(req), 4), options); err != nil {
		return nil, err
	}
	virtualenv := options.GetFields()["virtualenv"].GetStringValue()
	if virtualenv == "" {
		return python.Command(ctx, args...)
	}
	if !filepath.IsAbs(virtualenv) {
		virtualenv = filepath.Join(pluginProgram(req), virtualenv)
	}
	if !python.IsVirtualEnv(virtualenv) {
		return nil, python.NewVirtualEnvError(virtualenv, virtualenv)
	}
	return python.VirtualEnvCommand(virtualenv, "python", args...), nil
}

// field is the last value of a field with a length in an encoded message; nil when there is none.
func field(message []byte, number protowire.Number) []byte {
	var found []byte
	for len(message) > 0 {
		tag, kind, length := protowire.ConsumeTag(message)
		if length < 0 {
			return found
		}
		message = message[length:]
		if tag == number && kind == protowire.BytesType {
			value, length := protowire.ConsumeBytes(message)
			if length < 0 {
				return found
			}
			found, message = value, message[length:]
			continue
		}
		length = protowire.ConsumeFieldValue(tag, kind, message)
		if length < 0 {
			return found
		}
		message = message[length:]
	}
	return found
}
