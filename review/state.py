"""What a stack's state says that there should be: inputs as they were applied last."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import Any

from components.docker_host import DockerHost
from policy.rules import BUILDER, CONTAINER, REGISTRY
from review.preview import ROOT

_SIGNATURE = "4dabf18193072939515e22adb298388d"


@dataclass(frozen=True)
class Managed:
    """One resource of the state."""

    urn: str
    type: str
    name: str
    id: str
    inputs: dict[str, Any]
    """Plain values, secrets opened: never to be printed."""

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


class StateError(Exception):
    """The state cannot be read; its text is for people."""


def builders_of(stack: str) -> list[BuilderState]:
    """The builders in the state of a stack, and its registry, which is compared as they are.

    Raises StateError, with Pulumi's words, when the state cannot be read or is of a version that
    did not note the settings.
    """
    said = subprocess.run(
        ["pulumi", "--non-interactive", "stack", "export", "--show-secrets", "--stack", stack],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    if said.returncode:
        raise StateError(said.stderr.strip())
    resources = json.loads(said.stdout)["deployment"].get("resources") or []
    parents = {resource["urn"]: resource.get("parent", "") for resource in resources}
    managed = [
        Managed(
            urn=resource["urn"],
            type=resource["type"],
            name=resource["urn"].rsplit("::", 1)[-1],
            id=resource.get("id", ""),
            inputs=_opened(resource.get("inputs") or {}),
        )
        for resource in resources
        if not resource.get("delete")
    ]
    builders = []
    for component in managed:
        if component.type not in (BUILDER, REGISTRY):
            continue
        if not component.inputs:
            raise StateError(
                "the state was written by a version that did not note the settings; next: pulumi up"
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


def _opened(value: Any) -> Any:
    if isinstance(value, dict):
        if _SIGNATURE in value:
            return json.loads(value["plaintext"])
        return {name: _opened(item) for name, item in value.items()}
    return [_opened(item) for item in value] if isinstance(value, list) else value
