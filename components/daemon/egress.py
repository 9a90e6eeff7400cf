"""Outgoing traffic of the daemon's container: its uplink, and the setting `privateNetworks`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pulumi
import pulumi_docker as docker

from components.registry_access import RegistryAccess
from components.scope import upload
from components.settings import Settings

_SCRIPT = "/usr/local/lib/daemon/egress"
_COMMAND = ("docker-init", "--", "dockerd-entrypoint.sh")


@dataclass(frozen=True)
class Egress:
    """Inputs of the daemon's container for outgoing traffic; empty when it is privileged.

    A script that runs as root makes a pair of interfaces between the container's network and the
    daemon's own, so that the kernel forwards the packets of builds. Without the pair, a process
    would copy every packet.
    """

    capabilities: tuple[str, ...] = ()
    """The script needs these and gives them up before the daemon starts."""
    inputs: dict[str, Any] = field(default_factory=dict)
    uploads: list[docker.ContainerUploadArgs] = field(default_factory=list)
    envs: list[pulumi.Input[str]] = field(default_factory=list)
    as_user: list[str] = field(default_factory=list)
    """Start of a health check's command, which makes it run as the daemon's user."""
    words: tuple[pulumi.Input[str], ...] = ()
    """Change whenever the other fields change."""

    @classmethod
    def of(
        cls, settings: Settings, before: tuple[str, ...], registry: RegistryAccess | None
    ) -> Egress:
        """The inputs for these settings; blocked private networks leave the registry reachable.

        The container's command starts with the words `before`, which run the rest as root.
        """
        script = (Path(__file__).parent / "egress.sh").read_text()
        envs: list[pulumi.Input[str]] = [f"EGRESS_PRIVATE={settings.private_networks}"]
        if settings.private_networks == "block":
            envs.append(f"EGRESS_OPEN={' '.join(settings.private_networks_except)}")
            if registry:
                envs.append(registry.servers.apply("EGRESS_SERVERS={}".format))
        return cls(
            ("CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SETPCAP"),
            {
                "user": "0:0",
                # docker-init reaps the script's background process, which becomes its child.
                "entrypoints": [*before, "sh", _SCRIPT, "start", *_COMMAND],
            },
            [upload(_SCRIPT, script)],
            envs,
            ["sh", _SCRIPT, "as-user"],
            (script, *envs),
        )
