"""What builds may use: the limit on their processes, and control groups for single containers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pulumi_docker as docker

from components.host_facts import HostFacts
from components.scope import upload
from components.settings import Settings

_CGROUPS = "/usr/local/lib/daemon/cgroups"
# First on the image's PATH: these two stand before the programs that they are named after.
_DOCKERD, _RUNC = "/usr/local/sbin/dockerd", "/usr/local/sbin/runc"

# What the daemon keeps of its container's processes (dockerd.sh).
_RESERVE = 512


@dataclass(frozen=True)
class Limits:
    """What the daemon's container is given for them."""

    processes: int
    isolation: str
    """The settings."""
    uploads: list[docker.ContainerUploadArgs]
    label: str
    """Differs whenever the uploads do."""
    capabilities: tuple[str, ...] = ("CAP_SETFCAP",)
    """Of root's part, which needs namespaces in which root is root: with this one the kernel lets
    it make them."""
    words: tuple[str, ...] = ("sh", _CGROUPS, "setup")
    """What a command begins with in which root has its part."""

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        cgroups, dockerd, runc = (
            (Path(__file__).parent / f"{name}.sh")
            .read_text()
            .replace("@processes@", str(settings.processes))
            .replace("@reserve@", str(_RESERVE))
            for name in ("cgroups", "dockerd", "runc")
        )
        return cls(
            settings.processes,
            settings.isolation,
            [
                upload(_CGROUPS, cgroups),
                upload(_DOCKERD, dockerd, "0755"),
                upload(_RUNC, runc, "0755"),
            ],
            hashlib.sha256("\0".join((cgroups, dockerd, runc)).encode()).hexdigest()[:12],
        )

    def notes(self, facts: HostFacts) -> list[str]:
        """What the host does not let them be."""
        notes = []
        if facts.cgroup == "1" or self.isolation == "privileged":
            why = "version 1" if facts.cgroup == "1" else "isolation = privileged"
            notes.append(
                "limits of single containers (docker run --memory, --cpus, --pids-limit) do "
                f"nothing: they need control groups of version 2 and isolation = unprivileged, and "
                f"here is {why}; memory, cpus and processes of the whole builder work"
            )
        if facts.processes and self.processes + _RESERVE > int(facts.processes):
            notes.append(
                f"processes = {self.processes}: this host lets a container have "
                f"{facts.processes} processes, and the daemon keeps {_RESERVE} of them. Next, if "
                "builds need more: a larger DefaultTasksMax in the host's /etc/systemd/system.conf"
            )
        return notes
