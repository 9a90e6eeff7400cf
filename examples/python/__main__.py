"""A builder, declared with the package that `pulumi package add` generates."""

import pulumi
import pulumi_docker_build_machine as machine

config = pulumi.Config()
builder = machine.DockerBuilder(
    "builder",
    host=config.require("host"),
    ssh_address="127.0.0.1",
    cache_size="20GB",
    private_networks=machine.PrivateNetworks.BLOCK,
    keys=[
        {
            "name": "ada",
            "public_key": config.require("publicKey"),
            "until": "2030-12-31",
            "role": machine.Role.ADMIN,
        }
    ],
)

pulumi.export("dockerHost", builder.docker_host)
pulumi.export("knownHosts", builder.known_hosts)
pulumi.export("sshConfig", builder.ssh_config)
