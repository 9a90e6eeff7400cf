"""The way out of the daemon's container: its uplink, and what `privateNetworks` means."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pulumi
import pulumi_docker as docker

from components.daemon.limits import Limits
from components.registry_access import RegistryAccess
from components.scope import upload
from components.settings import Settings

_SCRIPT = "/usr/local/lib/daemon/egress"
_COMMAND = ("docker-init", "--", "dockerd-entrypoint.sh")


@dataclass(frozen=True)
class Egress:
    """What the daemon's container is given for its way out; nothing where it is privileged.

    Root lays a pair of interfaces through which the kernel passes on what builds send, between the
    container's network and the daemon's own. Without it a process would copy every packet.
    """

    capabilities: tuple[str, ...] = ()
    """With them root does its part, and then gives them up."""
    inputs: dict[str, Any] = field(default_factory=dict)
    uploads: list[docker.ContainerUploadArgs] = field(default_factory=list)
    envs: list[pulumi.Input[str]] = field(default_factory=list)
    as_user: list[str] = field(default_factory=list)
    """What a command of the health check begins with, to run as the daemon's user."""
    words: tuple[pulumi.Input[str], ...] = ()
    """Differ whenever the rest does."""

    @classmethod
    def of(cls, settings: Settings, limits: Limits, registry: RegistryAccess | None) -> Egress:
        """Behind rules where private networks are blocked; the stack's registry stays reachable."""
        script = (Path(__file__).parent / "egress.sh").read_text()
        envs: list[pulumi.Input[str]] = [f"EGRESS_PRIVATE={settings.private_networks}"]
        if settings.private_networks == "block":
            envs.append(f"EGRESS_OPEN={' '.join(settings.private_networks_except)}")
            if registry:
                servers = pulumi.Output.format("{} {}", registry.store, registry.mirror)
                envs.append(servers.apply("EGRESS_SERVERS={}".format))
        return cls(
            ("CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SETPCAP"),
            {
                "user": "0:0",
                # docker-init takes note when root's part, a child of the same process, has ended.
                "entrypoints": [*limits.words, "sh", _SCRIPT, "start", *_COMMAND],
            },
            [upload(_SCRIPT, script)],
            envs,
            ["sh", _SCRIPT, "as-user"],
            (script, *envs),
        )
