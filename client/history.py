"""The builds that a daemon remembers, from BuildKit's own history.

buildx of older releases has no word for it, but passes the API through (`buildx dial-stdio`); the
numbers of the fields are those of moby/buildkit, api/services/control/control.proto.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import grpc

_CONTROL = "/moby.buildkit.v1.Control/"
_EARLY_EXIT = b"\x18\x01"
_EVENT_TYPE, _EVENT_RECORD = 1, 2
_STARTED, _DELETED = 0, 2
_REF, _ERROR, _CREATED, _COMPLETED = 1, 5, 6, 7
_VERTEX, _VERTEX_NAME, _VERTEX_CACHED = 1, 3, 4
# "[2/5] RUN make", "[linux/amd64 tests 2/5] COPY . ."; not what BuildKit does by itself, nor FROM.
_STEP = re.compile(r"\[(?:.* )?\d+/\d+\] (?!FROM )")
_LIMIT = 50
_SECONDS = 20


@dataclass(frozen=True)
class Build:
    """One build: its Dockerfile's steps other than FROM, and how many came from the cache."""

    started: float
    """Seconds since 1970."""
    seconds: float | None
    """How long it took; none while it runs."""
    steps: int
    cached: int
    failed: bool


def recent_builds(dial: list[str]) -> list[Build]:
    """The builds at work and the last 50 that the daemon remembers, the oldest first.

    Builds without steps are left out. `dial` is a command whose standard input and output are a
    connection to BuildKit. Raises OSError when there is none.
    """
    with tempfile.TemporaryDirectory() as folder, _relayed(dial, Path(folder)) as relayed:
        channel = grpc.insecure_channel(
            relayed.address, options=[("grpc.default_authority", "localhost")]
        )
        try:
            events = _call(channel, "ListenBuildHistory", _EARLY_EXIT)
            builds = dict(build for event in events for build in parse_event(event))
            recent = sorted(builds.items(), key=lambda item: item[1].started)[-_LIMIT:]
            counted = [
                build
                if build.seconds is None
                else with_steps(build, _call(channel, "Status", _field(_REF, ref.encode())))
                for ref, build in recent
            ]
        except grpc.RpcError as error:
            raise OSError(relayed.said() or str(error.details())) from None
        finally:
            channel.close()
    return [build for build in counted if build.steps or build.seconds is None]


def _call(channel: grpc.Channel, method: str, request: bytes) -> Iterator[bytes]:
    stream = channel.unary_stream(
        _CONTROL + method, request_serializer=lambda raw: raw, response_deserializer=lambda raw: raw
    )
    return iter(stream(request, timeout=_SECONDS))


def parse_event(raw: bytes) -> Iterator[tuple[str, Build]]:
    """The reference and the build of one BuildHistoryEvent; nothing of a deleted one."""
    event = dict(_fields(raw))
    if event.get(_EVENT_TYPE, _STARTED) == _DELETED:
        return
    record = dict(_fields(_bytes(event, _EVENT_RECORD)))
    started = _timestamp(_bytes(record, _CREATED))
    completed = _timestamp(_bytes(record, _COMPLETED)) if _COMPLETED in record else None
    seconds = None if completed is None else max(0.0, completed - started)
    yield _bytes(record, _REF).decode(), Build(started, seconds, 0, 0, _ERROR in record)


def with_steps(build: Build, answers: Iterator[bytes]) -> Build:
    """The build with the steps of these StatusResponses; a later word about a step adds to it."""
    cached: dict[str, bool] = {}
    for answer in answers:
        for number, raw in _fields(answer):
            if number == _VERTEX and isinstance(raw, bytes):
                vertex = dict(_fields(raw))
                name = _bytes(vertex, _VERTEX_NAME).decode(errors="replace")
                if _STEP.match(name):
                    cached[name] = cached.get(name, False) or bool(vertex.get(_VERTEX_CACHED))
    return replace(build, steps=len(cached), cached=sum(cached.values()))


def _bytes(message: dict[int, int | bytes], number: int) -> bytes:
    value = message.get(number, b"")
    return value if isinstance(value, bytes) else b""


def _timestamp(raw: bytes) -> float:
    fields = dict(_fields(raw))
    return float(int(fields.get(1, 0))) + int(fields.get(2, 0)) / 1e9


def _field(number: int, value: bytes) -> bytes:
    """A short field of bytes."""
    return bytes([number << 3 | 2, len(value)]) + value


def _fields(raw: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field of a message (protobuf.dev, encoding)."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = raw[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(raw):
        key = varint()
        number, kind = key >> 3, key & 7
        if kind == 0:
            yield number, varint()
        else:
            length = {1: 8, 5: 4}[kind] if kind in (1, 5) else varint()
            yield number, raw[at : at + length]
            at += length


class _relayed:
    """A Unix socket that leads to the standard streams of a command, for one connection."""

    def __init__(self, command: list[str], folder: Path) -> None:
        path, self._said = folder / "s", folder / "said"
        self.address = f"unix:{path}"
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen(1)
        with self._said.open("w") as said:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said
            )

    def __enter__(self) -> _relayed:
        threading.Thread(target=self._relay, daemon=True).start()
        return self

    def said(self) -> str:
        """What the command said of itself."""
        return self._said.read_text(errors="replace").strip()

    def _relay(self) -> None:
        try:
            client, _ = self._server.accept()
        except OSError:
            return
        threading.Thread(target=self._upwards, args=(client,), daemon=True).start()
        assert self._process.stdout is not None
        with client, suppress(OSError):  # one of the sides has ended
            while data := os.read(self._process.stdout.fileno(), 65536):
                client.sendall(data)

    def _upwards(self, client: socket.socket) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):
            while data := client.recv(65536):
                self._process.stdin.write(data)
                self._process.stdin.flush()

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._server.close()
