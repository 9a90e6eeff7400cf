"""Settings -> Docker host -> builder -> exports."""

import pulumi

from components import DockerBuilder, DockerHost, load_settings

settings = load_settings()
host = DockerHost.from_settings(settings)
builder = DockerBuilder(
    "builder",
    settings=settings,
    host=host,
    opts=pulumi.ResourceOptions(providers=[host.provider("host")]),
)

pulumi.export("sshDestination", builder.ssh_destination)
pulumi.export("dockerHost", builder.docker_host)
pulumi.export("sshAlias", builder.ssh_alias)
pulumi.export("sshConfig", builder.ssh_config)
pulumi.export("knownHosts", builder.known_hosts)
