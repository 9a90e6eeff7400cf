"""Settings -> registry, where one is asked for -> builders, one a host -> exports."""

import pulumi

from components import Registry, load_settings
from components.fleet import builder_entries, declare_builders, fleet_exports, settled

settings = load_settings()
registry = Registry("registry", settings, settings.registry) if settings.registry else None
builders = declare_builders(settings, registry)
entries = builder_entries(settings, builders)

pulumi.export("builders", entries)
if settings.hosts:
    for name, value in fleet_exports(settings, entries).items():
        pulumi.export(name, value)
else:
    builder = builders["builder"]
    pulumi.export("sshDestination", builder.ssh_destination)
    pulumi.export("dockerHost", builder.docker_host)
    pulumi.export("sshAlias", builder.ssh_alias)
    pulumi.export("sshConfig", builder.ssh_config)
    pulumi.export("knownHosts", builder.known_hosts)
if registry:
    pulumi.export("registry", registry.access.store)
    pulumi.export("registryClient", registry.access.client())
pulumi.run(lambda: settled(builders))
