// A builder, declared with the package that `pulumi package add` generates.
package main

import (
	machine "example.com/pulumi-docker-build-machine/sdk/go/dockerbuildmachine"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi/config"
)

func main() {
	pulumi.Run(func(ctx *pulumi.Context) error {
		settings := config.New(ctx, "")
		private := machine.PrivateNetworksBlock
		builder, err := machine.NewDockerBuilder(ctx, "builder", &machine.DockerBuilderArgs{
			Host:            pulumi.String(settings.Require("host")),
			SshAddress:      pulumi.StringRef("127.0.0.1"),
			CacheSize:       pulumi.StringRef("20GB"),
			PrivateNetworks: &private,
			Keys: machine.KeyArray{
				machine.KeyArgs{
					Name:      "ada",
					PublicKey: pulumi.String(settings.Require("publicKey")),
					Until:     pulumi.StringRef("2030-12-31"),
				},
			},
		})
		if err != nil {
			return err
		}
		ctx.Export("dockerHost", builder.DockerHost)
		ctx.Export("knownHosts", builder.KnownHosts)
		ctx.Export("sshConfig", builder.SshConfig)
		return nil
	})
}
