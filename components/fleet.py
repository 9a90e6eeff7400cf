"""Several hosts with a builder on each, and what they are for clients."""

# Annotations stay types here: the SDK's analyzer makes the package's schema of them.
import asyncio
import copy
import shlex
from collections.abc import Iterator, Mapping
from typing import Any, Literal, cast

import pulumi
from pydantic.alias_generators import to_camel

from components.arguments import BuilderArgs, FleetArgs, FleetBuilder
from components.builder import DockerBuilder
from components.docker_host import DockerHost
from components.registry_access import without_client
from components.settings import Given, StackSettings

_Text = Literal["sshConfig", "knownHosts", "sshDestination", "dockerHost", "sshAlias"]


class Fleet(pulumi.ComponentResource):
    """A builder on each of several hosts, with the same settings.

    Outputs are known whether or not the hosts are up. What only one builder can have is the first
    one's; sshConfig and knownHosts cover all.
    """

    builders: pulumi.Output[list[FleetBuilder]]
    """Each builder: what a client needs to reach it, and what it is chosen by."""
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

        What is known of the settings is checked before anything is declared; ValueError names every
        one that is wrong. Everything on the hosts comes after what `opts.depends_on` names.
        """
        arguments, client = without_client(args)
        given = Given.of(StackSettings, arguments)
        if not given.known.hosts:
            raise ValueError("hosts is empty; next: give it a host, or declare a DockerBuilder")
        opts = copy.copy(opts or pulumi.ResourceOptions())
        # Of the component itself it would hold up the host keys, and with them every output.
        before, opts.depends_on = opts.depends_on, None
        # What is of one builder alone stays out.
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


# The program of this repository calls the functions itself: below a Fleet the builders of existing
# stacks would have other URNs.


def declare_builders(
    name: str,
    given: Given[StackSettings],
    client: pulumi.Input[Any] | None,
    opts: pulumi.ResourceOptions | None = None,
) -> dict[str, DockerBuilder]:
    """A builder `<name>-<host>` for each host, or one `name` without `hosts`; by the host's name.

    What is on one ssh:// host comes and goes one after the other: sshd's default MaxStartups
    (sshd_config(5)) refuses some logins when more than ten are under way.
    """
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
    """The arguments of each builder, with the Outputs of what it was given."""
    hosts = given.arguments["hosts"] or [given.arguments]
    for (host, one), place in zip(given.known.builders.items(), hosts, strict=True):
        outputs = {name: place[name] for name in ("host", "hostKey", "sshHost")}
        yield host, {**one.arguments, **outputs, "keys": given.arguments["keys"]}


def last_on(
    url: str, settings: StackSettings, builders: Mapping[str, DockerBuilder]
) -> list[DockerBuilder]:
    """The builder that comes last on this ssh:// host; none where nothing has to wait for it."""
    sshd = DockerHost(url).sshd
    if not sshd:
        return []
    there = [host for host, one in settings.builders.items() if DockerHost(one.host).sshd == sshd]
    return [builders[host] for host in there[-1:]]


async def settled(builders: Mapping[str, DockerBuilder]) -> None:
    """Wait for all builders at once.

    The SDK, which waits after the program, goes through all that is pending for each single result:
    the time of that grows with the square of their number.
    """
    ready = (builder.ssh_destination.future() for builder in builders.values())
    await asyncio.gather(*ready, return_exceptions=True)


def builder_entries(
    settings: StackSettings, builders: Mapping[str, DockerBuilder]
) -> pulumi.Output[list[FleetBuilder]]:
    """One object a builder: its name, what a client needs to reach it, and what it is chosen by.

    They are known whether or not the hosts are up.
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
    """What several builders are for clients, beside the list of them; `name` is buildx's."""

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
