"""Limits of builds: the number of their processes, and control groups for single containers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pulumi_docker as docker

from components.host_facts import HostFacts
from components.layout import DATA_DIRECTORY
from components.scope import upload
from components.settings import Settings

_CGROUPS = "/usr/local/lib/daemon/cgroups"
# First on the image's PATH: these two scripts come before the programs with the same names.
_DOCKERD, _RUNC = "/usr/local/sbin/dockerd", "/usr/local/sbin/runc"

# Processes of its container that the daemon reserves for itself (dockerd.sh).
_RESERVE = 512


@dataclass(frozen=True)
class Limits:
    """Inputs of the daemon's container for the limits of builds."""

    processes: int
    isolation: str
    """`processes` and `isolation` are the settings."""
    uploads: list[docker.ContainerUploadArgs]
    label: str
    """Changes whenever the uploads change."""
    capabilities: tuple[str, ...] = ("CAP_SETFCAP",)
    """The kernel requires this one of a root that makes a user namespace with root in it."""
    words: tuple[str, ...] = ("sh", _CGROUPS, "setup")
    """Start of the container's command: sets up the control groups as root, then runs the rest."""

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        cgroups, dockerd, runc = (
            (Path(__file__).parent / f"{name}.sh")
            .read_text()
            .replace("@processes@", str(settings.processes))
            .replace("@reserve@", str(_RESERVE))
            .replace("@data@", DATA_DIRECTORY)
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
        """Notes about limits that do not work, or are lower than the settings, on this host."""
        notes = []
        if facts.cgroup == "1" or self.isolation == "privileged":
            why = (
                "the host has control groups of version 1"
                if facts.cgroup == "1"
                else "isolation is privileged"
            )
            notes.append(
                "limits of single containers (docker run --memory, --cpus, --pids-limit) do "
                f"nothing: they need control groups of version 2 and isolation = unprivileged, but "
                f"{why}; memory, cpus and processes of the whole builder work"
            )
        if facts.processes and self.processes + _RESERVE > int(facts.processes):
            notes.append(
                f"processes = {self.processes}: this host lets a container have "
                f"{facts.processes} processes, and the daemon reserves {_RESERVE} of them. Next, "
                "if builds need more: a larger DefaultTasksMax in the host's "
                "/etc/systemd/system.conf"
            )
        return notes
