"""BuildKit's own API: the history of builds, their steps, and the list of the cache.

It is gRPC, of which these calls need little: one request, and a stream of answers. A container
cannot have grpcio, which is not Python.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

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
from h2.settings import SettingCodes

from .messages import Message, encoded

_CONTROL = "/moby.buildkit.v1.Control/"
_CONTENT = "/containerd.services.content.v1.Content/"
_READ = 64 * 1024
# Bytes on the way at once: over a distance, the 64 KiB of HTTP/2's default take many round trips.
_WINDOW = 4 * 1024 * 1024
_LARGEST_MESSAGE = 64 * 1024 * 1024
_UNIMPLEMENTED = "12"


class BuildKitError(OSError):
    """BuildKit does not answer, or answers with an error."""


class BuildKit:
    """BuildKit at the other end of this connection; one call ends before the next begins.

    `received` are bytes that have already been read. All methods raise BuildKitError; after an
    error that BuildKit answers, the connection can be used again.
    """

    def __init__(self, connection: socket.socket, received: bytes = b"") -> None:
        self._connection, self._received = connection, received
        self._wire = H2Connection(H2Configuration(header_encoding="utf-8"))
        self._wire.initiate_connection()
        self._wire.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: _WINDOW})
        self._wire.increment_flow_control_window(_WINDOW)

    def history(self, *, active_only: bool = False, ends: bool = True) -> Iterator[Message]:
        """A BuildHistoryEvent for each build at work and, unless `active_only`, each remembered.

        With `ends` false it goes on, with one more whenever a build begins or ends.
        """
        asked = {"active_only": active_only, "early_exit": ends}
        return self._call(_CONTROL + "ListenBuildHistory", "BuildHistory", "Event", **asked)

    def status(self, ref: str) -> Iterator[Message]:
        """The StatusResponses of a build; while it runs, until it ends."""
        return self._call(_CONTROL + "Status", "Status", "Response", ref=ref)

    def disk_usage(self) -> Message:
        """The DiskUsageResponse with all records of the cache."""
        [answer] = self._call(_CONTROL + "DiskUsage", "DiskUsage", "Response")
        return answer

    def content(self, digest: str) -> bytes:
        """A blob that a build's record refers to."""
        answers = self._call(_CONTENT + "Read", "ReadContent", "Response", digest=digest)
        return b"".join(answer.data for answer in answers)

    def _call(self, path: str, name: str, answer: str, **fields: bool | str) -> Iterator[Message]:
        request = encoded(f"{name}Request", **fields)
        try:
            for data in self._answers(path, request):
                yield Message(name + answer, data)
        except BuildKitError:
            raise
        except (OSError, ProtocolError, ValueError) as error:
            raise BuildKitError(f"the daemon does not answer {path}: {error}") from error

    def _answers(self, path: str, request: bytes) -> Iterator[bytes]:
        wire = self._wire
        stream = wire.get_next_available_stream_id()
        head = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "localhost",
            "content-type": "application/grpc",
            "te": "trailers",
        }
        wire.send_headers(stream, list(head.items()))
        wire.send_data(stream, struct.pack(">BI", 0, len(request)) + request, end_stream=True)
        message = bytearray()
        while True:
            received, self._received = self._received, b""
            for event in wire.receive_data(received) if received else []:
                if isinstance(event, ConnectionTerminated):
                    raise BuildKitError(f"the daemon ends the connection of {path}: {event}")
                if getattr(event, "stream_id", stream) != stream:
                    continue
                if isinstance(event, DataReceived):
                    message += event.data
                    wire.acknowledge_received_data(event.flow_controlled_length or 0, stream)
                elif isinstance(event, ResponseReceived | TrailersReceived):
                    _check(path, dict(event.headers))
                elif isinstance(event, StreamReset):
                    raise BuildKitError(f"the daemon ends {path}: {event}")
                elif isinstance(event, StreamEnded):
                    yield from _taken(message)
                    return
            yield from _taken(message)
            self._connection.sendall(wire.data_to_send())
            self._received = self._connection.recv(_READ)
            if not self._received:
                raise BuildKitError(f"the daemon has closed the connection of {path}")


def _check(path: str, headers: dict[Any, Any]) -> None:
    """Raises BuildKitError for a call that failed."""
    status = headers.get("grpc-status", "0")
    if status == _UNIMPLEMENTED:
        raise BuildKitError(
            f"the daemon does not know {path}; next: a daemonImage of release 23 or newer"
        )
    if headers.get(":status", "200") != "200" or status != "0":
        raise BuildKitError(f"{path} failed: {unquote(headers.get('grpc-message', '')) or status}")


def _taken(received: bytearray) -> Iterator[bytes]:
    """Takes the complete messages from the bytes. Raises BuildKitError for a too large one."""
    while len(received) >= 5:
        size = int.from_bytes(received[1:5], "big")
        if received[0] or size > _LARGEST_MESSAGE:
            raise BuildKitError("a message is compressed or too large")
        if len(received) < 5 + size:
            return
        message = bytes(received[5 : 5 + size])
        del received[: 5 + size]
        yield message
