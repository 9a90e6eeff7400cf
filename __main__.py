"""Settings -> registry, if there is one -> a builder for each host -> exports."""

# ruff: noqa: E402
import gc

# Loading makes no garbage, and what is loaded stays: searches for garbage would only take time,
# while modules load and once more at the end of Python.
gc.disable()

from typing import cast

import pulumi

from components import Registry, RegistryArgs, load_settings
from components.fleet import builder_entries, declare_builders, fleet_exports, last_on, settled

gc.freeze()
gc.enable()

given = load_settings()
settings = given.known
placed = settings.placed_registry
registry = None
if placed:
    registry = Registry("registry", cast("RegistryArgs", placed.arguments), on_host=False)
builders = declare_builders("builder", given, registry.client if registry else None)
if registry and placed:
    # The registry is a cache that may fail. It is created last on its host, so no builder waits.
    registry.declare_on_host(last_on(placed.host, settings, builders))
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
