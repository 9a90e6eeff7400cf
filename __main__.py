"""Settings -> registry, where one is asked for -> builders, one a host -> exports."""

from typing import cast

import pulumi

from components import Registry, RegistryArgs, load_settings
from components.fleet import builder_entries, declare_builders, fleet_exports, last_on, settled

given = load_settings()
settings = given.known
request = settings.placed_registry
registry = None
if request:
    registry = Registry("registry", cast("RegistryArgs", request.arguments), on_host=False)
builders = declare_builders("builder", given, registry.client if registry else None)
if registry and request:
    # A cache that may fail comes last on its host, and holds up no builder.
    registry.declare_on_host(last_on(request.host, settings, builders))
entries = builder_entries(settings, builders)

pulumi.export("builders", entries)
if settings.hosts:
    for name, value in fleet_exports(pulumi.get_stack(), settings, entries).items():
        pulumi.export(name, value)
else:
    builder = builders[""]
    pulumi.export("sshDestination", builder.ssh_destination)
    pulumi.export("dockerHost", builder.docker_host)
    pulumi.export("sshAlias", builder.ssh_alias)
    pulumi.export("sshConfig", builder.ssh_config)
    pulumi.export("knownHosts", builder.known_hosts)
if registry:
    pulumi.export("registry", registry.store)
    pulumi.export("registryClient", pulumi.Output.all(**registry.client))
pulumi.run(lambda: settled(builders))
