"""The builds that a daemon remembers, from BuildKit's history.

`docker buildx history ls` is no help: it counts BuildKit's own steps too (2 of 7 are cached where
both RUN lines of a Dockerfile are), and it needs an image of Docker 28, where `buildx dial-stdio`
needs one of 26. So this reads BuildKit's API; the numbers of the fields are those of moby/buildkit,
api/services/control/control.proto.
"""

from __future__ import annotations

import re
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.unknown_fields import UnknownFieldSet
from google.protobuf.wrappers_pb2 import StringValue

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
    """How long it took; None while it runs."""
    steps: int
    cached: int
    failed: bool


def recent_builds(dial: list[str]) -> list[Build]:
    """The builds at work and the last 50 that the daemon remembers, the oldest first.

    Builds without steps are left out. `dial` is a command whose standard input and output are a
    connection to BuildKit. Raises OSError when there is none.
    """
    with _connected(dial) as (address, complaints):
        channel = grpc.insecure_channel(address, [("grpc.default_authority", "localhost")])
        try:
            events = _call(channel, "ListenBuildHistory", _EARLY_EXIT)
            builds = dict(build for event in events for build in parse_event(event))
            recent = sorted(builds.items(), key=lambda item: item[1].started)[-_LIMIT:]
            counted = [
                build
                if build.seconds is None
                # As a StatusRequest, whose first field is the text `ref`.
                else with_steps(
                    build, _call(channel, "Status", StringValue(value=ref).SerializeToString())
                )
                for ref, build in recent
            ]
        except grpc.RpcError as error:
            why = complaints.read_text(errors="replace").strip()
            raise OSError(why or str(error.details())) from None
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
    record = dict(_fields(event.get(_EVENT_RECORD, b"")))
    started = _seconds(record.get(_CREATED, b""))
    seconds = max(0.0, _seconds(record[_COMPLETED]) - started) if _COMPLETED in record else None
    yield record.get(_REF, b"").decode(), Build(started, seconds, 0, 0, _ERROR in record)


def with_steps(build: Build, answers: Iterator[bytes]) -> Build:
    """The build with the steps of these StatusResponses; a later word about a step adds to it."""
    cached: dict[str, bool] = {}
    for answer in answers:
        for number, raw in _fields(answer):
            if number == _VERTEX:
                vertex = dict(_fields(raw))
                name = vertex.get(_VERTEX_NAME, b"").decode(errors="replace")
                if _STEP.match(name):
                    cached[name] = cached.get(name, False) or bool(vertex.get(_VERTEX_CACHED))
    return replace(build, steps=len(cached), cached=sum(cached.values()))


def _fields(raw: bytes) -> list[tuple[int, Any]]:
    """Number and value of each field of a message: an int, or bytes."""
    return [(f.field_number, f.data) for f in UnknownFieldSet(Empty.FromString(raw))]


def _seconds(raw: bytes) -> float:
    time = Timestamp.FromString(raw)
    return float(time.seconds + time.nanos / 1e9)


@contextmanager
def _connected(command: list[str]) -> Iterator[tuple[str, Path]]:
    """The address of a socket whose one connection is the command's standard input and output.

    The second value is the file with the command's standard error.
    """
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
        path, complaints = Path(folder, "socket"), Path(folder, "stderr")
        complaints.touch()
        server.bind(str(path))
        server.listen(1)
        started: list[subprocess.Popen[bytes]] = []

        def start() -> None:
            with suppress(OSError):  # closed before anything connected
                client, _ = server.accept()
                with client, complaints.open("w") as stderr:
                    stream = client.fileno()
                    started.append(
                        subprocess.Popen(command, stdin=stream, stdout=stream, stderr=stderr)
                    )

        threading.Thread(target=start, daemon=True).start()
        try:
            yield f"unix:{path}", complaints
        finally:
            for process in started:
                process.kill()
                process.wait()
