"""The way out of the daemon's container: what the setting `privateNetworks` means."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pulumi_docker as docker

from components.container import upload
from components.registry.access import RegistryAccess
from components.settings import Settings

_SCRIPT = "/usr/local/lib/daemon/egress"


@dataclass(frozen=True)
class Egress:
    """What the daemon's container is given so that it starts behind rules; nothing without them."""

    capabilities: tuple[str, ...] = ()
    """With them root sets the rules before the daemon starts, and then gives them up."""
    inputs: dict[str, Any] = field(default_factory=dict)
    uploads: list[docker.ContainerUploadArgs] = field(default_factory=list)
    envs: list[str] = field(default_factory=list)
    as_user: list[str] = field(default_factory=list)
    """What a command of the health check begins with, to run as the daemon's user."""
    words: tuple[str, ...] = ()
    """Differ whenever the rest does."""

    @classmethod
    def of(cls, settings: Settings, registry: RegistryAccess | None) -> Egress:
        """Rules where private networks are blocked; the stack's registry stays reachable."""
        if settings.private_networks == "allow":
            return cls()
        script = (Path(__file__).parent / "egress.sh").read_text()
        open_networks = " ".join(settings.private_networks_except)
        servers = f"{registry.store} {registry.mirror}" if registry else ""
        return cls(
            ("CAP_NET_ADMIN", "CAP_SETPCAP"),
            {"user": "0:0", "entrypoints": ["sh", _SCRIPT, "start", "dockerd-entrypoint.sh"]},
            [upload(_SCRIPT, script)],
            [f"EGRESS_OPEN={open_networks}", *([f"EGRESS_SERVERS={servers}"] if servers else [])],
            ["sh", _SCRIPT, "as-user"],
            (script, open_networks, *([servers] if servers else [])),
        )
