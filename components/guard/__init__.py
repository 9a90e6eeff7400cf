"""The guard: one container that only lets builds through for keys of role `build`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pulumi_docker as docker

from components.archive import packed, python_program
from components.layout import DAEMON_SOCKET, GUARD_SOCKET
from components.scope import Scope, confined, memory
from components.transport import Transport

_MEMORY_MIB = 512
_STOP_SECONDS = 10


def archive() -> bytes:
    """The program and hpack, its one dependency, as a zip file."""
    return packed({"guard": Path(__file__).parent / "program", "hpack": Path(str(files("hpack")))})


def declare_guard(
    scope: Scope,
    *,
    image: docker.RemoteImage,
    transport: Transport,
    reports: docker.Volume | None,
) -> docker.Container:
    """Declare the guard's container.

    It has no network, and runs as the daemon's user without capabilities. Its socket is next to the
    daemon's, in the volume that the gateway mounts too.
    """
    return scope.service(
        "guard",
        image=image,
        health=["python3", "-m", "guard", "ping", GUARD_SOCKET],
        stop_seconds=_STOP_SECONDS,
        entrypoints=["python3", "-m", "guard", "serve", GUARD_SOCKET, DAEMON_SOCKET],
        network_mode="none",
        volumes=transport.daemon_volumes,
        reports=reports,
        **python_program("guard", archive()),
        **memory(_MEMORY_MIB),
        **confined(),
    )
