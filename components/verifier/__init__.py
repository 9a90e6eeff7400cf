"""The verifier: one container that checks the tokens of CI jobs, for the setting `identities`."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import pulumi_docker as docker

from components.archive import packed, python_program
from components.layout import ACCESS_DIRECTORY, IDENTITIES_DIRECTORY, VERIFIER_SOCKET
from components.scope import Scope, confined, memory, mount, on_network

_MEMORY_MIB = 256
_STOP_SECONDS = 10
_VOLUME_MIB = 64


def archive() -> bytes:
    """The program and PyJWT, its one dependency, as a zip file."""
    program, pyjwt = Path(__file__).parent / "program", Path(str(files("jwt")))
    return packed({"verifier": program, "jwt": pyjwt})


@dataclass(frozen=True)
class Verifier:
    """The container, and its volume with its socket and the keys that it has let in."""

    container: docker.Container
    volume: docker.Volume

    @classmethod
    def declare(
        cls,
        scope: Scope,
        *,
        image: docker.RemoteImage,
        access: docker.Volume,
        network: docker.Network,
        reports: docker.Volume | None,
    ) -> Verifier:
        """Declare the container; it reads the rules in `access` and reaches issuers by `network`.

        It runs as the daemon's user without capabilities and listens on no port. Its volume is in
        memory, and as long as the gateway or the verifier runs, it keeps what it has.
        """
        volume = scope.volume_in_memory("identities", mib=_VOLUME_MIB)
        container = scope.service(
            "verifier",
            image=image,
            health=["python3", "-m", "verifier", "ping", VERIFIER_SOCKET],
            stop_seconds=_STOP_SECONDS,
            entrypoints=[
                *("python3", "-m", "verifier", "serve"),
                *(f"{ACCESS_DIRECTORY}/identities", VERIFIER_SOCKET),
            ],
            volumes=[
                mount(access, ACCESS_DIRECTORY, read_only=True),
                mount(volume, IDENTITIES_DIRECTORY),
            ],
            reports=reports,
            **python_program("verifier", archive()),
            **on_network(network),
            **memory(_MEMORY_MIB),
            **confined(),
        )
        return cls(container, volume)
