"""The daemon's API: plain requests, and a connection to BuildKit."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from .buildkit import BuildKit
from .messages import Message

_SECONDS = 10
_READ = 64 * 1024
# The newest API whose answers have this form.
_API = (1, 44)
_UPGRADE = (
    b"POST /grpc HTTP/1.1\r\nHost: docker\r\nContent-Length: 0\r\n"
    b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
)


class EngineError(OSError):
    """The daemon does not answer, or answers with an error."""


@dataclass(frozen=True)
class State:
    """What the daemon says of itself."""

    version: str
    started: float | None
    """When it began to listen, in seconds since 1970; None where it uses TCP."""
    cache: int
    """Bytes of the build cache."""
    images: int
    """Bytes of the images."""


class Engine:
    """The daemon that these variables of the docker CLI name: DOCKER_HOST, DOCKER_CERT_PATH."""

    def __init__(self, variables: dict[str, str]) -> None:
        self._place = urlsplit(variables["DOCKER_HOST"])
        self._is_unix = self._place.scheme == "unix"
        self._tls: ssl.SSLContext | None = None
        if folder := variables.get("DOCKER_CERT_PATH"):
            self._tls = ssl.create_default_context(cafile=os.path.join(folder, "ca.pem"))
            self._tls.load_cert_chain(
                os.path.join(folder, "cert.pem"), os.path.join(folder, "key.pem")
            )

    def state(self) -> State:
        """What the daemon says of itself. Raises EngineError."""
        # GET /version would leave a connection open in the daemon (components/daemon/__init__.py).
        headers, _ = self._get("/_ping")
        try:
            newest = tuple(map(int, headers["Api-Version"].split(".")))
            version = headers["Server"].removeprefix("Docker/").partition(" ")[0]
            major, minor = min(newest, _API)
            _, answer = self._get(f"/v{major}.{minor}/system/df?type=build-cache&type=image")
            usage = json.loads(answer)
        except (AttributeError, ValueError) as error:
            raise EngineError(f"the daemon's answer cannot be read: {error}") from error
        cache = [entry for entry in usage.get("BuildCache") or [] if not entry.get("Shared")]
        return State(
            version=version,
            started=os.stat(self._place.path).st_mtime if self._is_unix else None,
            cache=sum(entry["Size"] for entry in cache),
            images=usage.get("LayersSize") or 0,
        )

    def check_build_events(self) -> None:
        """Raises OSError when the daemon has no history of builds (before release 23)."""
        with self._buildkit() as buildkit:
            list(buildkit.history(active_only=True))

    def build_events(self) -> Iterator[Message]:
        """A BuildHistoryEvent for each build at work, and then whenever one begins or ends.

        Raises OSError when the daemon ends.
        """
        with self._buildkit(seconds=None) as buildkit:
            yield from buildkit.history(active_only=True, ends=False)

    def build_status(self, ref: str) -> list[Message]:
        """The StatusResponses of a build that has ended. Raises OSError."""
        with self._buildkit() as buildkit:
            return list(buildkit.status(ref))

    def _connected(self, seconds: float | None) -> socket.socket:
        if self._is_unix:
            connected = socket.socket(socket.AF_UNIX)
            connected.settimeout(seconds)
            connected.connect(self._place.path)
            return connected
        name, port = self._place.hostname or "", self._place.port or 0
        plain = socket.create_connection((name, port), _SECONDS)
        # Nobody else would see that the daemon's machine or network is gone.
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
        assert self._tls
        secured = self._tls.wrap_socket(plain, server_hostname=name)
        secured.settimeout(seconds)
        return secured

    def _get(self, path: str) -> tuple[http.client.HTTPMessage, bytes]:
        try:
            with closing(http.client.HTTPConnection("docker")) as connection:
                connection.sock = self._connected(_SECONDS)
                connection.request("GET", path)
                answer = connection.getresponse()
                content = answer.read()
            if answer.status != 200:
                raise EngineError(f"GET {path}: {answer.status} {content[:200]!r}")
            return answer.headers, content
        except (OSError, http.client.HTTPException) as error:
            raise EngineError(f"the daemon does not answer GET {path}: {error}") from error

    @contextmanager
    def _buildkit(self, seconds: float | None = _SECONDS) -> Iterator[BuildKit]:
        """BuildKit, which may take so long for each piece of an answer. Raises OSError."""
        with closing(self._connected(seconds)) as connected:
            yield BuildKit(connected, _upgraded(connected))


def _upgraded(connected: socket.socket) -> bytes:
    """Change the connection to gRPC; return the bytes of it that have arrived already."""
    connected.sendall(_UPGRADE)
    head = b""
    while b"\r\n\r\n" not in head:
        data = connected.recv(_READ)
        if not data or len(head) > _READ:
            raise EngineError("the daemon does not change to gRPC")
        head += data
    head, _, rest = head.partition(b"\r\n\r\n")
    if b" 101 " not in head.split(b"\r\n")[0]:
        raise EngineError(f"the daemon does not change to gRPC: {head.splitlines()[0]!r}")
    return rest
