"""RootlessKit around the daemon: its network, and what root gives the daemon's user before."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pulumi_docker as docker

from components.scope import upload

# The rootless network carries DNS queries, and all packets if there is no uplink. slirp4netns
# copies one packet at a time and terminates connections, so packets of this size never leave the
# host; the throughput is four times that of an MTU of 1500 (docs/speed.md). The bridge of build
# steps has the same MTU. In an image without slirp4netns, rootlesskit.sh takes another driver.
_NETWORK_DRIVER = "slirp4netns"
MTU = 65520
# The rootless network's addresses, from a range that no real network uses (RFC 2544). With the
# default of the drivers, 10.0.2.0/24, builds could not reach hosts in real networks with that
# range, such as VirtualBox's.
_CIDR = "198.18.0.0/24"

_GRANTS = "/usr/local/lib/daemon/grants"
# First on the image's PATH: this script comes before the program with the same name.
_ROOTLESSKIT = "/usr/local/sbin/rootlesskit"


@dataclass(frozen=True)
class Rootless:
    """Inputs of the daemon's container for RootlessKit."""

    network_driver: str
    rootlesskit: str
    """A script that stands in for rootlesskit and takes its arguments."""
    envs: list[str]
    uploads: list[docker.ContainerUploadArgs]
    label: str
    """Changes whenever the uploads change."""
    words: tuple[str, ...] = ("sh", _GRANTS)
    """Start of the container's command: gives as root what root can give, then runs the rest."""

    @classmethod
    def read(cls) -> Rootless:
        """The inputs; they depend on no setting."""
        rootlesskit, grants = (
            (Path(__file__).parent / f"{name}.sh").read_text() for name in ("rootlesskit", "grants")
        )
        return cls(
            _NETWORK_DRIVER,
            rootlesskit,
            [
                f"DOCKERD_ROOTLESS_ROOTLESSKIT_NET={_NETWORK_DRIVER}",
                f"DOCKERD_ROOTLESS_ROOTLESSKIT_MTU={MTU}",
                f"DOCKERD_ROOTLESS_ROOTLESSKIT_FLAGS=--cidr={_CIDR}",
                # Upstream's dockerd-rootless.sh looks for the network by this variable.
                "DOCKERD_ROOTLESS_ROOTLESSKIT_DETACH_NETNS=false",
            ],
            [upload(_ROOTLESSKIT, rootlesskit, "0755"), upload(_GRANTS, grants)],
            hashlib.sha256("\0".join((rootlesskit, grants)).encode()).hexdigest()[:12],
        )
