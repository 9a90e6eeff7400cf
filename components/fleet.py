"""What the builders of a stack are for its clients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pulumi

from components.builder import DockerBuilder
from components.settings import StackSettings

Entry = dict[str, Any]


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


def fleet_exports(entries: pulumi.Output[list[Entry]]) -> dict[str, pulumi.Output[str]]:
    """The exports of a stack with `hosts`, beside `builders`.

    What only one builder can have is the first one's; sshConfig and knownHosts cover all.
    """

    def of_all(name: str) -> pulumi.Output[str]:
        return entries.apply(lambda entries: "".join(entry[name] for entry in entries))

    def of_first(name: str) -> pulumi.Output[str]:
        return entries.apply(lambda entries: str(entries[0][name]))

    return {
        **{name: of_all(name) for name in ("sshConfig", "knownHosts")},
        **{name: of_first(name) for name in ("sshDestination", "dockerHost", "sshAlias")},
    }
