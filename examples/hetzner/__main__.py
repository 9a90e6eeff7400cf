"""A server of Hetzner Cloud and its builder in one `pulumi up`.

The server's host key is made here and handed to it, so that it is known before the first
connection; cloud-init installs Docker.
"""

import json
from pathlib import Path

import pulumi
import pulumi_command as command
import pulumi_docker_build_machine as machine
import pulumi_hcloud as hcloud
import pulumi_tls as tls

config = pulumi.Config()
host_key = tls.PrivateKey("host-key", algorithm="ED25519")
operator = hcloud.SshKey("operator", public_key=config.require("operatorKey"))
cloud_init = host_key.private_key_openssh.apply(
    lambda private: (
        "#cloud-config\n"
        + json.dumps(
            {
                "ssh_deletekeys": True,
                "ssh_keys": {"ed25519_private": private},
                "package_update": True,
                "packages": ["docker.io"],
            }
        )
    )
)
server = hcloud.Server(
    "server",
    server_type=config.require("serverType"),
    location=config.require("location"),
    image="debian-13",
    ssh_keys=[operator.id],
    user_data=cloud_init,
)
known = host_key.public_key_openssh.apply(lambda key: key.strip())
# The builder's first look at the host expects Docker there.
installed = command.local.Command(
    "installed",
    create=(Path(__file__).parent / "wait-for-cloud-init").read_text(),
    environment={"ADDRESS": server.ipv4_address, "HOST_KEY": known},
    triggers=[server.id],
)
builder = machine.DockerBuilder(
    "builder",
    host=server.ipv4_address.apply(lambda address: f"ssh://root@{address}"),
    host_key=known,
    prepare=True,
    cache_size="60%",
    keys=[{"name": "ada", "public_key": config.require("publicKey")}],
    opts=pulumi.ResourceOptions(depends_on=[installed]),
)

pulumi.export("dockerHost", builder.docker_host)
pulumi.export("sshConfig", builder.ssh_config)
