"""What a stack's state says should be there: the inputs of the last update."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.docker_host import DockerHost
from policy.rules import BUILDER, CONTAINER, REGISTRY
from stacks.commands import ROOT, StackCommands, StackError


@dataclass(frozen=True)
class Managed:
    """One resource of the state."""

    urn: str
    type: str
    name: str
    id: str
    inputs: dict[str, Any]
    """Plain values, also of secrets: never print them."""

    @property
    def runs_once(self) -> bool:
        return self.type == CONTAINER and self.inputs.get("mustRun") is False


@dataclass(frozen=True)
class BuilderState:
    """One builder of a stack."""

    component: Managed
    children: dict[str, Managed]
    """By role."""

    @property
    def host(self) -> DockerHost:
        inputs = self.component.inputs
        return DockerHost(inputs.get("host", ""), inputs.get("hostKey", ""))

    @property
    def containers(self) -> dict[str, Managed]:
        return {role: child for role, child in self.children.items() if child.type == CONTAINER}


def builders_of(stack: str, folder: Path = ROOT) -> list[BuilderState]:
    """The builders in the state of a stack, and its registries, which are compared as they are.

    Raises StackError when Pulumi cannot read the state, or when a version of the program wrote it
    that did not record the settings.
    """
    resources = StackCommands(stack, folder=folder).resources_with_secrets()
    parents = {resource["urn"]: resource.get("parent", "") for resource in resources}
    managed = [
        Managed(
            urn=resource["urn"],
            type=resource["type"],
            name=resource["urn"].rsplit("::", 1)[-1],
            id=resource.get("id", ""),
            inputs=resource.get("inputs") or {},
        )
        for resource in resources
        if not resource.get("delete")
    ]
    builders = []
    for component in managed:
        if component.type not in (BUILDER, REGISTRY):
            continue
        if not component.inputs:
            raise StackError(
                "the state is of a version that did not record the settings; next: pulumi up"
            )
        builders.append(
            BuilderState(
                component,
                {
                    child.name.removeprefix(f"{component.name}-"): child
                    for child in managed
                    if parents[child.urn] == component.urn
                },
            )
        )
    return builders
