"""What the builders of a stack are for its clients: a list, and one multi-platform builder."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Mapping
from typing import Any

import pulumi

from components.builder import DockerBuilder
from components.docker_host import DockerHost
from components.registry import Registry
from components.settings import StackSettings

Entry = dict[str, Any]


def declare_builders(
    settings: StackSettings, registry: Registry | None
) -> dict[str, DockerBuilder]:
    """A builder for each host of the stack, by the component's name, with the stack's registry.

    What is on one ssh:// host comes and goes one after the other: sshd's default MaxStartups
    (sshd_config(5)) refuses some logins when more than ten are under way. The registry, a cache
    that may fail, is the last one: it holds up no builder.
    """
    access = registry.access if registry else None
    builders: dict[str, DockerBuilder] = {}
    last: dict[str, DockerBuilder] = {}
    for name, one in settings.builders.items():
        sshd = DockerHost(one.host, one.host_key).sshd
        before = [last[sshd]] if sshd in last else []
        builders[name] = DockerBuilder(name, one, pulumi.ResourceOptions(depends_on=before), access)
        if sshd:
            last[sshd] = builders[name]
    if registry:
        sshd = registry.host.sshd
        registry.declare_on_host([last[sshd]] if sshd in last else [])
    return builders


async def settled(builders: Mapping[str, DockerBuilder]) -> None:
    """Wait for all builders at once.

    The SDK, which waits after the program, goes through all that is pending for each single result:
    the time of that grows with the square of their number.
    """
    ready = (builder.ssh_destination.future() for builder in builders.values())
    await asyncio.gather(*ready, return_exceptions=True)


def builder_entries(
    settings: StackSettings, builders: Mapping[str, DockerBuilder]
) -> pulumi.Output[list[Entry]]:
    """One object a builder: its name, what a client needs to reach it, and what it is chosen by.

    They are known whether or not the hosts are up.
    """
    chosen_by = {
        f"builder-{host.name}": {"name": host.name, "labels": host.labels, "weight": host.weight}
        for host in settings.hosts
    } or {"builder": {"name": "builder", "labels": {}, "weight": 1}}
    return pulumi.Output.all(**{name: builder.entry for name, builder in builders.items()}).apply(
        lambda rest: [{**chosen_by[name], **rest[name]} for name in builders]
    )


def fleet_exports(
    settings: StackSettings, entries: pulumi.Output[list[Entry]]
) -> dict[str, pulumi.Output[str]]:
    """The exports of a stack with `hosts`, beside `builders`.

    What only one builder can have is the first one's; sshConfig and knownHosts cover all.
    """

    def of_all(name: str) -> pulumi.Output[str]:
        return entries.apply(lambda entries: "".join(entry[name] for entry in entries))

    def of_first(name: str) -> pulumi.Output[str]:
        return entries.apply(lambda entries: str(entries[0][name]))

    stack, image = pulumi.get_stack(), settings.buildkit_image
    return {
        "buildxCreate": entries.apply(lambda entries: buildx_create(stack, image, entries)),
        **{name: of_all(name) for name in ("sshConfig", "knownHosts")},
        **{name: of_first(name) for name in ("sshDestination", "dockerHost", "sshAlias")},
    }


def buildx_create(name: str, image: str, entries: list[Entry]) -> str:
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
