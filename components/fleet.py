"""Several hosts with a builder on each, and what they are for clients."""

# No postponed annotations here: the SDK's analyzer reads them to make the package's schema.
import asyncio
import shlex
from collections.abc import Iterator, Mapping
from typing import Any, Literal, cast

import pulumi
from pydantic.alias_generators import to_camel

from components.advisories import warnings
from components.arguments import BuilderArgs, FleetArgs, FleetBuilder
from components.builder import DockerBuilder
from components.docker_host import DockerHost
from components.registry_access import without_client
from components.scope import without_dependencies
from components.settings import Given, StackSettings

_Text = Literal["sshConfig", "knownHosts", "sshDestination", "dockerHost", "sshAlias"]


class Fleet(pulumi.ComponentResource):
    """A builder on each of several hosts, with the same settings.

    Outputs are known even while the hosts are down. `sshConfig` and `knownHosts` cover all
    builders; `sshDestination`, `dockerHost` and `sshAlias` belong to the first one.
    """

    builders: pulumi.Output[list[FleetBuilder]]
    """Each builder: how clients reach it, and by what they choose it."""
    buildx_create: pulumi.Output[str]
    """Lines for a shell that make one multi-platform buildx builder with a node on each host."""
    ssh_config: pulumi.Output[str]
    """Blocks for the client's ~/.ssh/config, the pinned host keys included."""
    known_hosts: pulumi.Output[str]
    """Lines for the client's known_hosts."""
    ssh_destination: pulumi.Output[str]
    """user@host of the first builder's gateway."""
    docker_host: pulumi.Output[str]
    """Value for DOCKER_HOST of the first builder."""
    ssh_alias: pulumi.Output[str]
    """Host name that `ssh_config` defines for the first builder."""

    def __init__(
        self, name: str, args: FleetArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        """Declare a builder for each entry of `hosts`; names are in camelCase or in snake_case.

        Raises ValueError that names every wrong setting, before any resource is declared.
        Everything on the hosts is created after the resources of `opts.depends_on`.
        """
        arguments, client = without_client(args)
        given = Given.of(StackSettings, arguments)
        if not given.known.hosts:
            raise ValueError("hosts is empty; next: give it a host, or declare a DockerBuilder")
        opts, before = without_dependencies(opts)
        # A fleet does not have the settings of a single builder.
        names = {to_camel(field) for field in FleetArgs.__annotations__}
        inputs = {n: value for n, value in given.arguments.items() if n in names}
        super().__init__("docker-build-machine:index:Fleet", name, inputs, opts)
        builders = declare_builders(
            name,
            given,
            client,
            pulumi.ResourceOptions(parent=self, depends_on=before),
        )
        self.builders = builder_entries(given.known, builders)
        exports = fleet_exports(f"{pulumi.get_stack()}-{name}", given.known, self.builders)
        self.buildx_create = exports["buildxCreate"]
        self.ssh_config = exports["sshConfig"]
        self.known_hosts = exports["knownHosts"]
        self.ssh_destination = exports["sshDestination"]
        self.docker_host = exports["dockerHost"]
        self.ssh_alias = exports["sshAlias"]
        self.register_outputs({"builders": self.builders, **exports})


# This repository's program calls these functions itself: with a Fleet as their parent, the builders
# of existing stacks would get other URNs.


def declare_builders(
    name: str,
    given: Given[StackSettings],
    client: pulumi.Input[Any] | None,
    opts: pulumi.ResourceOptions | None = None,
) -> dict[str, DockerBuilder]:
    """Declare a builder `<name>-<host>` for each host, or one called `name` without `hosts`.

    The result has them by the host's name. Builders on one ssh:// host are created one after the
    other: sshd's default MaxStartups (sshd_config(5)) refuses some of more than ten logins at once.
    """
    if given.known.hosts:
        for warning in warnings({"buildkitImage": given.known.buildkit_image}):
            pulumi.log.warn(warning, resource=opts.parent if opts else None)
    builders: dict[str, DockerBuilder] = {}
    last: dict[str, DockerBuilder] = {}
    for host, arguments in _arguments(given):
        sshd = DockerHost(given.known.builders[host].host).sshd
        after = pulumi.ResourceOptions(depends_on=[last[sshd]] if sshd in last else [])
        builders[host] = DockerBuilder(
            f"{name}-{host}" if host else name,
            cast("BuilderArgs", {**arguments, "registryClient": client}),
            pulumi.ResourceOptions.merge(opts, after),
        )
        if sshd:
            last[sshd] = builders[host]
    return builders


def _arguments(given: Given[StackSettings]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each host's name and the arguments of its builder, Outputs included."""
    hosts = given.arguments["hosts"] or [given.arguments]
    for (host, one), place in zip(given.known.builders.items(), hosts, strict=True):
        outputs = {name: place[name] for name in ("host", "hostKey", "sshHost")}
        yield host, {**one.arguments, **outputs, "keys": given.arguments["keys"]}


def last_on(
    url: str, settings: StackSettings, builders: Mapping[str, DockerBuilder]
) -> list[DockerBuilder]:
    """The builder that is created last on this ssh:// host; none on a local host."""
    sshd = DockerHost(url).sshd
    if not sshd:
        return []
    there = [host for host, one in settings.builders.items() if DockerHost(one.host).sshd == sshd]
    return [builders[host] for host in there[-1:]]


async def settled(builders: Mapping[str, DockerBuilder]) -> None:
    """Wait for all builders at once.

    After the program, the SDK would go through all pending results for each single one, which takes
    a time that grows with the square of their number.
    """
    ready = (builder.ssh_destination.future() for builder in builders.values())
    await asyncio.gather(*ready, return_exceptions=True)


def builder_entries(
    settings: StackSettings, builders: Mapping[str, DockerBuilder]
) -> pulumi.Output[list[FleetBuilder]]:
    """What clients need of each builder: its name, addresses, labels and weight.

    It is known even while the hosts are down.
    """
    chosen_by = [
        {"name": host.name, "labels": host.labels, "weight": host.weight} for host in settings.hosts
    ] or [{"name": "builder", "labels": {}, "weight": 1}]
    return pulumi.Output.all(*(builder.entry for builder in builders.values())).apply(
        lambda rest: [
            cast("FleetBuilder", {**by, **entry}) for by, entry in zip(chosen_by, rest, strict=True)
        ]
    )


def fleet_exports(
    name: str, settings: StackSettings, entries: pulumi.Output[list[FleetBuilder]]
) -> dict[str, pulumi.Output[str]]:
    """The outputs of several builders besides their list; the buildx builder is called `name`."""

    def of_all(field: _Text) -> pulumi.Output[str]:
        return entries.apply(lambda entries: "".join(entry[field] for entry in entries))

    def of_first(field: _Text) -> pulumi.Output[str]:
        return entries.apply(lambda entries: entries[0][field])

    image = settings.buildkit_image
    return {
        "buildxCreate": entries.apply(lambda entries: buildx_create(name, image, entries)),
        "sshConfig": of_all("sshConfig"),
        "knownHosts": of_all("knownHosts"),
        "sshDestination": of_first("sshDestination"),
        "dockerHost": of_first("dockerHost"),
        "sshAlias": of_first("sshAlias"),
    }


def buildx_create(name: str, image: str, entries: list[FleetBuilder]) -> str:
    """The lines that make one buildx builder `name` with a native node for each of the builders.

    The docker driver cannot have several nodes; with docker-container each node is a BuildKit of
    its own inside the builder's daemon, named after the node (docs/teams.md says what that means).
    """
    lines: list[str] = []
    for entry in entries:
        words = ["docker", "buildx", "create", "--name", name, "--node", f"{name}-{entry['name']}"]
        if lines:
            words.append("--append")
        words += ["--driver", "docker-container", "--driver-opt", f"image={image}"]
        if entry["platforms"]:
            words += ["--platform", ",".join(entry["platforms"])]
        lines.append(shlex.join([*words, f"ssh://{entry['sshAlias']}"]))
    return "".join(f"{line}\n" for line in lines)
