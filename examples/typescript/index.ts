// A builder, declared with the package that `pulumi package add` generates.
import * as machine from "@pulumi/docker-build-machine";
import * as pulumi from "@pulumi/pulumi";

const config = new pulumi.Config();
const builder = new machine.DockerBuilder("builder", {
    host: config.require("host"),
    sshAddress: "127.0.0.1",
    cacheSize: "20GB",
    privateNetworks: machine.PrivateNetworks.Block,
    keys: [
        {
            name: "ada",
            publicKey: config.require("publicKey"),
            until: "2030-12-31",
            role: machine.Role.Admin,
        },
    ],
});

export const dockerHost = builder.dockerHost;
export const knownHosts = builder.knownHosts;
export const sshConfig = builder.sshConfig;
