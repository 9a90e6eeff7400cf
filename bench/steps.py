"""How fast a build step uses its network and its disk."""

from __future__ import annotations

import re
import secrets
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.client import LABEL, Client, in_turns
from bench.figures import Figure

_PROBE = Path(__file__).parent / "probe"
_CHUNK = bytes(1 << 20)
DOWNLOAD, UPLOAD, WRITE = (
    "Download inside a build step",
    "Upload inside a build step",
    "Writes to disk inside a build step, including fsync",
)
_GROUPS = {"download": DOWNLOAD, "upload": UPLOAD, "write": WRITE}


class _Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        if self.request.recv(1) == b"d":
            try:
                while True:
                    self.request.sendall(_CHUNK)
            except OSError:
                return  # the client has enough
        buffer = bytearray(1 << 20)
        while self.request.recv_into(buffer):
            pass
        self.request.sendall(b"!")


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True


@contextmanager
def _server(address: str) -> Iterator[int]:
    """A server on this machine, only at this address; yields its port."""
    with _Server((address, 0), _Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def inside_a_step(
    python: str, clients: list[Client], address: str, megabytes: int, rounds: int
) -> list[Figure]:
    """`python` is an image with Python, `address` this machine's, as containers reach it."""
    samples: dict[tuple[str, str], list[float]] = {}
    with _server(address) as port:
        values = {"BASE": python, "ADDRESS": address, "PORT": port, "MEGABYTES": megabytes}
        for number in range(rounds):
            for client in in_turns(clients, number):
                arguments = {**values, "NUMBER": secrets.token_hex(4)}
                options = [f"--build-arg={name}={value}" for name, value in arguments.items()]
                result = client.docker("build", "--progress=plain", *LABEL, *options, str(_PROBE))
                for what, rate in re.findall(
                    r" (download|upload|write)=([0-9.]+)$",
                    result.stdout + result.stderr,
                    re.MULTILINE,
                ):
                    samples.setdefault((_GROUPS[what], client.path), []).append(float(rate))
    return [Figure(*key, "MB/s", tuple(rates)) for key, rates in samples.items()]
