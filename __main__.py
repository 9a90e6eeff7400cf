"""Settings -> builder -> exports."""

import pulumi

from components import DockerBuilder, load_settings

builder = DockerBuilder("builder", load_settings().arguments)

pulumi.export("sshDestination", builder.ssh_destination)
pulumi.export("dockerHost", builder.docker_host)
pulumi.export("sshAlias", builder.ssh_alias)
pulumi.export("sshConfig", builder.ssh_config)
pulumi.export("knownHosts", builder.known_hosts)
