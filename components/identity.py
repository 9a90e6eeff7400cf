"""What one builder's resources are called, and the label that says whose they are."""

from __future__ import annotations

from dataclasses import dataclass

import pulumi

OWNER_LABEL = "docker-build-machine.owner"


@dataclass(frozen=True)
class Identity:
    """The names of one builder: in Pulumi and on the Docker host."""

    name: str
    """The component's name; children are called `<name>-<role>`."""
    owner: str
    """Project, stack and component, as the owner label holds them."""
    prefix: str
    """What every container, volume and network of the builder starts with on the host."""

    @classmethod
    def of(cls, name: str) -> Identity:
        """The identity of the component `name` in the running stack."""
        project, stack = pulumi.get_project(), pulumi.get_stack()
        return cls(name, f"{project}/{stack}/{name}", f"{stack}-{name}")

    def physical(self, role: str) -> str:
        """The name of the thing with this role on the Docker host."""
        return f"{self.prefix}-{role}"

    @property
    def labels(self) -> dict[str, str]:
        """Labels of everything on the host; stable, for a volume's labels force replacement."""
        return {OWNER_LABEL: self.owner}
