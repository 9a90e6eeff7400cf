"""What builds may use: the limit on their processes, and control groups for single containers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pulumi_docker as docker

from components.container import upload
from components.settings import Settings

_CGROUPS = "/usr/local/lib/daemon/cgroups"
# First on the image's PATH: these two stand before the programs that they are named after.
_DOCKERD, _RUNC = "/usr/local/sbin/dockerd", "/usr/local/sbin/runc"


@dataclass(frozen=True)
class Limits:
    """What the daemon's container is given for them."""

    uploads: list[docker.ContainerUploadArgs]
    label: str
    """Differs whenever the uploads do."""
    capabilities: tuple[str, ...] = ("CAP_SETFCAP",)
    """Of root's part, which needs namespaces in which root is root: with this one the kernel lets
    it make them."""
    words: tuple[str, ...] = ("sh", _CGROUPS, "lay")
    """What a command begins with in which root has its part."""

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        cgroups, dockerd, runc = (
            (Path(__file__).parent / f"{name}.sh").read_text().replace(
                "@processes@", str(settings.processes)
            )
            for name in ("cgroups", "dockerd", "runc")
        )  # fmt: skip
        return cls(
            [
                upload(_CGROUPS, cgroups),
                upload(_DOCKERD, dockerd, "0755"),
                upload(_RUNC, runc, "0755"),
            ],
            hashlib.sha256("\0".join((cgroups, dockerd, runc)).encode()).hexdigest()[:12],
        )
