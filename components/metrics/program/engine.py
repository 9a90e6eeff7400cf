"""The daemon's API: plain requests, and calls of BuildKit's gRPC on the same connection."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError

from .messages import Message

_SECONDS = 10
_READ = 64 * 1024
_LARGEST_MESSAGE = 64 * 1024 * 1024
# The newest API whose answers have this form.
_API = (1, 44)
# Fields of a BuildHistoryRequest.
_ACTIVE_ONLY, _EARLY_EXIT = b"\x08\x01", b"\x18\x01"
_CONTROL = "/moby.buildkit.v1.Control/"
_UNIMPLEMENTED = "12"
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
        """Raises EngineError when the daemon has no history of builds (before release 23)."""
        for _ in self._call("ListenBuildHistory", _ACTIVE_ONLY + _EARLY_EXIT):
            pass

    def build_events(self) -> Iterator[Message]:
        """A BuildHistoryEvent for each build at work, and then whenever one begins or ends.

        Raises EngineError when the daemon ends.
        """
        for data in self._call("ListenBuildHistory", _ACTIVE_ONLY, seconds=None):
            yield Message("BuildHistoryEvent", data)

    def build_status(self, ref: str) -> list[Message]:
        """The StatusResponses of a build that has ended. Raises EngineError."""
        request = b"\x0a" + bytes([len(ref)]) + ref.encode()  # field 1 of a StatusRequest
        return [Message("StatusResponse", data) for data in self._call("Status", request)]

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

    def _call(
        self, method: str, request: bytes, seconds: float | None = _SECONDS
    ) -> Iterator[bytes]:
        """The messages with which this method of BuildKit's Control answers; raises EngineError."""
        try:
            with closing(self._connected(seconds)) as connected:
                first = _upgraded(connected)
                yield from _answers(connected, first, _CONTROL + method, request)
        except EngineError:
            raise
        except (OSError, ProtocolError) as error:
            raise EngineError(f"the daemon does not answer {method}: {error}") from error


def _upgraded(connected: socket.socket) -> bytes:
    """Change the connection to gRPC; what the daemon has sent of it already."""
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


def _answers(connected: socket.socket, data: bytes, path: str, request: bytes) -> Iterator[bytes]:
    """Call a method that answers with a stream; `data` has already been received."""
    wire = H2Connection(H2Configuration(header_encoding="utf-8"))
    wire.initiate_connection()
    stream = wire.get_next_available_stream_id()
    head = {
        ":method": "POST",
        ":scheme": "http",
        ":path": quote(path),
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    wire.send_headers(stream, list(head.items()))
    wire.send_data(stream, struct.pack(">BI", 0, len(request)) + request, end_stream=True)
    received = bytearray()
    while True:
        for event in wire.receive_data(data) if data else []:
            if isinstance(event, DataReceived):
                received += event.data
                wire.acknowledge_received_data(event.flow_controlled_length or 0, stream)
            elif isinstance(event, ResponseReceived | TrailersReceived):
                _check(path, dict(event.headers))
            elif isinstance(event, StreamReset | ConnectionTerminated):
                raise EngineError(f"the daemon ends {path}: {event}")
            elif isinstance(event, StreamEnded):
                yield from _taken(received)
                return
        yield from _taken(received)
        connected.sendall(wire.data_to_send())
        data = connected.recv(_READ)
        if not data:
            raise EngineError(f"the daemon has closed the connection of {path}")


def _check(path: str, headers: dict[Any, Any]) -> None:
    """Raises EngineError for a call that failed."""
    status = headers.get("grpc-status", "0")
    if status == _UNIMPLEMENTED:
        raise EngineError(
            f"the daemon does not know {path}; next: a daemonImage of release 23 or newer, or no "
            "metrics"
        )
    if headers.get(":status", "200") != "200" or status != "0":
        raise EngineError(f"{path} failed: {headers.get('grpc-message') or status}")


def _taken(received: bytearray) -> Iterator[bytes]:
    """Takes the complete messages from the bytes. Raises EngineError for one that is too large."""
    while len(received) >= 5:
        size = int.from_bytes(received[1:5], "big")
        if received[0] or size > _LARGEST_MESSAGE:
            raise EngineError("a message is compressed or too large")
        if len(received) < 5 + size:
            return
        message = bytes(received[5 : 5 + size])
        del received[: 5 + size]
        yield message
