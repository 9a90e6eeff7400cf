"""A machine and its builder in one `pulumi up`.

The machine is an sshd with a host key of its own in front of this host's Docker. Whatever makes
your machines takes its place: what counts is that its address and host key are outputs.
"""

import getpass
from pathlib import Path

import pulumi
import pulumi_command as command
import pulumi_docker_build_machine as machine

config = pulumi.Config()
here = Path(__file__).parent
sshd = command.local.Command(
    "sshd",
    create=(here / "start-sshd").read_text(),
    delete='kill "$(cat "$FOLDER/pid")"',
    environment={
        "FOLDER": str(here / "sshd"),
        "PORT": config.require("port"),
        "OPERATOR": config.require("operatorKey"),
    },
)
# Both are known when the machine is there.
url = sshd.stdout.apply(lambda _: f"ssh://{getpass.getuser()}@127.0.0.1:{config.require('port')}")
builder = machine.DockerBuilder(
    "builder",
    host=url,
    host_key=sshd.stdout,
    ssh_address="127.0.0.1",
    keys=[{"name": "ada", "public_key": config.require("publicKey")}],
)

pulumi.export("dockerHost", builder.docker_host)
pulumi.export("sshConfig", builder.ssh_config)
