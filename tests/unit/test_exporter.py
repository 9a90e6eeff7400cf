"""What the metrics read in their container, without a daemon; test_metrics.py has a real one."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import h2.config
import h2.connection
import h2.events
import pytest
from prometheus_client.parser import text_string_to_metric_families

from components.metrics.program import page
from components.metrics.program.buildkit import BuildKit, BuildKitError
from components.metrics.program.builds import Builds
from components.metrics.program.engine import Engine, EngineError
from components.metrics.program.families import Metrics
from components.metrics.program.messages import Message, seconds
from components.metrics.program.reader import Places, Reader
from components.metrics.program.records import Record, steps_of, summary
from tests.unit.protobuf_classes import MESSAGES

LIST = (
    "key SHA256:a ada - - - admin\nca SHA256:b org 20270131235959 - ci admin\n"
    "rule abc main 20270130235959 - - build\nrevoked SHA256:c\n# no key is in force\n"
)
DF = {"LayersSize": 7, "BuildCache": [{"Size": 3}, {"Size": 4}, {"Size": 9, "Shared": True}]}


def event(ref: str, *, ended: float | None = None, error: str = "") -> bytes:
    """A BuildHistoryEvent as BuildKit sends it."""
    record = MESSAGES["Record"](ref=ref, created={"seconds": 1_000})
    if ended is not None:
        record.completed.seconds = int(ended)
    if error:
        record.error.message = error
    return bytes(
        MESSAGES["BuildHistoryEvent"](
            type=0 if ended is None else 1, record=record
        ).SerializeToString()
    )


def test_messages_are_read_as_protobuf_s_own_classes_read_them() -> None:
    pair = MESSAGES["Pair"](key="filename", value="Dockerfile " + "é" * 200)
    record = MESSAGES["Record"](
        ref="a",
        frontend="dockerfile.v0",
        attrs=[pair, pair],
        created={"seconds": 2**31, "nanos": 5},
    )
    record.exporters.add(type="image").attrs.add(key="name", value="docker.io/library/app:1")
    sent = MESSAGES["BuildHistoryEvent"](type=1, record=record)
    read = Message("BuildHistoryEvent", sent.SerializeToString())
    parsed = Record.parse(read)
    assert parsed
    assert parsed == Record.parse(sent)
    assert seconds(read.record.created) == 2**31 + 5e-9
    assert not read.record.HasField("completed")
    assert (read.record.completed.seconds, read.record.error.message) == (0, "")
    vertexes = [{"digest": "a", "name": "[2/2] RUN a", "inputs": ["b", "c"], "cached": True}]
    status = MESSAGES["StatusResponse"](
        vertexes=vertexes, statuses=[{"vertex": "a", "id": "x", "current": 2**40}]
    )
    steps = steps_of([Message("StatusResponse", status.SerializeToString())])
    assert steps == steps_of([status])
    assert (summary(parsed, steps).cached, steps[0].bytes) == (1, 2**40)
    # An unknown field of each wire format is left out.
    unknown = b"\xf8\x07\x01\xf9\x07" + bytes(8) + b"\xfa\x07\x01a\xfd\x07" + bytes(4)
    assert Message("Pair", unknown + b"\x0a\x01k").key == "k"


@pytest.mark.parametrize(
    "data", [b"\x0a", b"\x0a\x05ab", b"\xff" * 11, b"\x0b", b"\x08\x01", b"\x0d\x00"]
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"a |wire"):
        Message("Pair", data)


class Daemon:
    """Answers as a daemon does, at a socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events: list[bytes] = []
        self.status: dict[str, list[bytes]] = {}
        self.api = "1.55"
        self.refuses = ""
        self.asked: list[str] = []
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            connected, _ = self._server.accept()
            threading.Thread(target=self._answer, args=[connected], daemon=True).start()

    def _answer(self, connected: socket.socket) -> None:
        with connected, suppress(ConnectionError):
            head = connected.recv(65536)
            path = head.split()[1].decode()
            self.asked.append(path)
            if path == "/grpc":
                connected.sendall(b"HTTP/1.1 101 UPGRADED\r\nUpgrade: h2c\r\n\r\n")
                self.serve_calls(connected)
                return
            body = "OK" if path == "/_ping" else json.dumps(DF)
            headers = f"Api-Version: {self.api}\r\nServer: Docker/29.9 (linux)\r\n"
            answer = f"HTTP/1.1 200 OK\r\n{headers}Content-Length: {len(body)}\r\n\r\n{body}"
            connected.sendall(answer.encode())

    def serve_calls(self, connected: socket.socket) -> None:
        wire = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        wire.initiate_connection()
        connected.sendall(wire.data_to_send())
        path, request = "", b""
        while True:
            data = connected.recv(65536)
            if not data:
                return
            for happened in wire.receive_data(data):
                if isinstance(happened, h2.events.RequestReceived):
                    path = dict(happened.headers)[b":path"].decode()
                elif isinstance(happened, h2.events.DataReceived):
                    request += happened.data
                elif isinstance(happened, h2.events.StreamEnded):
                    self._stream(connected, wire, happened.stream_id, path, request[5:])
                    request = b""
            connected.sendall(wire.data_to_send())

    def _stream(self, connected: Any, wire: Any, stream: int, path: str, request: bytes) -> None:
        if self.refuses:
            status = [(":status", "200"), ("grpc-status", self.refuses)]
            wire.send_headers(stream, status, end_stream=True)
            return
        wire.send_headers(stream, [(":status", "200")])
        if path.endswith("/Status"):
            ref = request[2:].decode()
            if ref not in self.status:
                gone = [("grpc-status", "5"), ("grpc-message", "no%20record")]
                wire.send_headers(stream, gone, end_stream=True)
                return
            messages = self.status[ref]
        else:
            messages = [] if b"\x18\x01" in request else self.events
        for message in messages:
            framed = b"\0" + len(message).to_bytes(4, "big") + message
            # Messages do not end where frames end.
            size = max(7, len(framed) // 100)
            for at in range(0, len(framed), size):
                wire.send_data(stream, framed[at : at + size])
        connected.sendall(wire.data_to_send())
        if path.endswith("/Status") or b"\x18\x01" in request:
            wire.send_headers(stream, [("grpc-status", "0")], end_stream=True)


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    return Daemon(tmp_path / "docker.sock")


@pytest.fixture
def reader(tmp_path: Path, daemon: Daemon) -> Reader:
    """A reader with reports of all parts."""
    (tmp_path / "list").write_text(LIST)
    for part in ("gateway", "janitor"):
        (tmp_path / part).write_text("0\n")
    connections = "refused 4\nsession ada\nsession ada\nsession old\n"
    (tmp_path / "connections").write_text(connections)
    return Reader(
        "b",
        Engine({"DOCKER_HOST": f"unix://{daemon.path}"}),
        Places(reports=tmp_path, data=tmp_path, access=tmp_path),
        parts=["gateway", "janitor"],
        host_keys=[f"2:{int(time.time()) - 1000}", "1:0", "3:5"],
        cache_limit=99,
        image_store="overlay2",
    )


def values(reader: Reader) -> dict[str, float]:
    found = {}
    for family in text_string_to_metric_families(reader.metrics.page().decode()):
        for sample in family.samples:
            labels = [value for name, value in sample.labels.items() if name != "builder"]
            found[" ".join([sample.name.removeprefix("builder_"), *labels])] = sample.value
    return found


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_reading_has_what_daemon_disk_parts_and_lists_say(reader: Reader, daemon: Daemon) -> None:
    assert reader.read() == "the history of builds has not been asked for yet"
    assert values(reader)["up"] == 0
    reader.builds.start()
    until(lambda: not reader.read())
    found = values(reader)
    expected = {
        "up": 1,
        "cache_bytes": 7,
        "cache_limit_bytes": 99,
        "images_bytes": 7,
        "start_timestamp_seconds": os.stat(daemon.path).st_mtime,
        "part_up daemon": 1,
        "part_up gateway": 1,
        "sessions ada": 2,
        "sessions main": 0,
        "sessions old": 1,
        "sessions org": 0,
        "key_expires_timestamp_seconds org": 1801440000,
        "key_expires_timestamp_seconds main": 1801353600,
        "refused_logins_total": 0,
    }
    assert {name: found.get(name) for name in expected} == expected
    assert 1000 <= found["host_key_age_seconds 2 true"] < 2000
    assert found["host_key_age_seconds 3 false"] > 1.7e9
    assert not any(name.startswith("host_key_age_seconds 1") for name in found), "not known"
    assert "/v1.44/system/df?type=build-cache&type=image" in daemon.asked
    until(lambda: not reader.read() and not reader.has_news())
    daemon.api = "1.41"
    Engine({"DOCKER_HOST": f"unix://{daemon.path}"}).state()
    assert daemon.asked[-1].startswith("/v1.41/")


def test_counts_of_other_parts_grow_from_what_they_were_at_the_start(
    reader: Reader, tmp_path: Path
) -> None:
    def read(refused: int, removals: str) -> dict[str, float]:
        (tmp_path / "connections").write_text(f"refused {refused}\n")
        (tmp_path / "removals").write_text(removals)
        reader.read()
        return values(reader)

    read(4, "age\tuntagged image\t2\n")
    grown = read(6, "age\tuntagged image\t5\nspace\tcache\t1\n")
    assert grown["refused_logins_total"] == 2
    assert grown["janitor_removed_total age untagged image"] == 3
    assert grown["janitor_removed_total space cache"] == 1
    # A new gateway begins with 0.
    assert read(1, "")["refused_logins_total"] == 3


def test_a_part_is_up_that_reports_now_and_then_that_it_is_well(
    reader: Reader, tmp_path: Path
) -> None:
    (tmp_path / "gateway").write_text("1\n")
    old = time.time() - 80
    os.utime(tmp_path / "janitor", (old, old))
    os.utime(tmp_path / "connections", (old, old))
    reader.read()
    found = values(reader)
    assert (found["part_up gateway"], found["part_up janitor"], found["problems"]) == (0, 0, 2)
    assert not [name for name in found if name.startswith("sessions")], "they are not known"
    reader.builds.problem = ""
    assert reader.has_news()
    assert reader.read() == ""
    (tmp_path / "gateway").unlink()
    assert reader.has_news()
    assert reader.read() == "not reported yet: gateway"


def test_each_build_that_ends_is_counted_once(reader: Reader, daemon: Daemon) -> None:
    now = time.time() + 100
    vertexes = [
        {"digest": "a", "name": "[2/3] RUN a", "cached": True},
        {"digest": "b", "name": "[3/3] RUN b"},
    ]
    status = MESSAGES["StatusResponse"](vertexes=vertexes).SerializeToString()
    daemon.status = {"good": [status], "bad": []}
    daemon.events = [
        event("at work"),
        event("good"),
        event("good", ended=now),
        event("good", ended=now),
        event("bad", ended=now, error="exit code 1"),
        event("old", ended=1_001),
        event("removed", ended=now),
    ]
    reader.builds.start()
    until(lambda: values(reader)["builds_total ok"] == 2)
    until(lambda: not reader.read())
    found = values(reader)
    expected = {
        "builds_total ok": 2,
        "builds_total failed": 1,
        "build_duration_seconds_count": 3,
        "build_cached_steps_ratio_count": 1,
        "build_cached_steps_ratio_sum": 0.5,
        "running_builds": 1,
    }
    assert {name: found.get(name) for name in expected} == expected


def test_a_build_counts_whose_steps_the_daemon_does_not_tell() -> None:
    class EndingEngine:
        def build_status(self, ref: str) -> list[Message]:
            raise EngineError("the daemon does not change to gRPC")

    metrics = Metrics()
    metrics.begin("b")
    ended = event("a", ended=time.time() + 100)
    Builds(cast(Engine, EndingEngine()), metrics, "b").take(Message("BuildHistoryEvent", ended))
    assert b'builder_builds_total{builder="b",result="ok"} 1.0' in metrics.page()


def test_one_connection_carries_call_after_call_also_after_one_that_failed(daemon: Daemon) -> None:
    # More than HTTP/2 lets a server send before anybody has read it, by default.
    long = MESSAGES["StatusResponse"](vertexes=[{"digest": "x" * 200_000}])
    daemon.status = {"a": [long.SerializeToString()]}
    ours, theirs = socket.socketpair()
    threading.Thread(target=daemon.serve_calls, args=[theirs], daemon=True).start()
    with ours:
        buildkit = BuildKit(ours)
        assert list(buildkit.history()) == []
        with pytest.raises(BuildKitError, match="Status failed: no record"):
            list(buildkit.status("gone"))
        [answer] = buildkit.status("a")
        assert answer.vertexes[0].digest == "x" * 200_000
        theirs.shutdown(socket.SHUT_RDWR)
        with pytest.raises(BuildKitError):
            list(buildkit.status("a"))


def test_a_daemon_without_a_history_is_a_problem(reader: Reader, daemon: Daemon) -> None:
    daemon.refuses = "12"
    with pytest.raises(
        BuildKitError, match="ListenBuildHistory; next: a daemonImage of release 23"
    ):
        Engine({"DOCKER_HOST": f"unix://{daemon.path}"}).check_build_events()
    reader.builds.start()
    until(lambda: "the daemon does not know /moby" in reader.read())
    found = values(reader)
    assert (found["up"], found["part_up daemon"]) == (0, 1)
    assert "running_builds" not in found


def test_a_daemon_that_is_gone_is_down(reader: Reader, daemon: Daemon) -> None:
    daemon.path.unlink()
    assert "does not answer GET /_ping" in reader.read()
    found = values(reader)
    assert (found["up"], found["part_up daemon"], found["problems"]) == (0, 0, 1)
    assert "cache_bytes" not in found
    assert found["disk_bytes"] > 0


def written(file: Path, age: float) -> Path:
    page.put(file, b"builder_up 1\n")
    at = time.time() - age
    os.utime(file, (at, at))
    return file


def test_a_page_is_stale_after_two_minutes(tmp_path: Path) -> None:
    file = tmp_path / "page"
    assert page.why_stale(file) == "the builder has not been read yet"
    assert page.why_stale(written(file, 100)) == ""
    assert page.why_stale(written(file, 130)).startswith("the builder was last read 13")
    assert [entry.name for entry in tmp_path.iterdir()] == ["page"]
