"""client/kit/ahead.py between real sockets: it saves round trips and loses no data."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from client import kit

PROGRAM = Path(kit.__file__).parent / "ahead.py"
PING = b"HEAD /_ping HTTP/1.1\r\nHost: x\r\n\r\n"
PONG = b"HTTP/1.1 200 OK\r\nApi-Version: 1.55\r\n\r\n"
GRPC = b"POST /grpc HTTP/1.1\r\nUpgrade: h2c\r\n\r\n"
UPGRADED = b"HTTP/1.1 101 UPGRADED\r\n\r\n"


def until(condition: Callable[[], object], seconds: float = 10) -> bool:
    """Whether the condition becomes true."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


class Daemon:
    """Answers pings and upgrades, echoes all else, and keeps its connections and such requests."""

    def __init__(self, path: Path) -> None:
        self.open: list[socket.socket] = []
        self.requests: list[bytes] = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(50)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            connection, _ = self.listener.accept()
            self.open.append(connection)
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        answers = {PING: PONG, GRPC: UPGRADED}
        with suppress(OSError):
            while piece := connection.recv(1 << 16):
                if piece in answers:
                    self.requests.append(piece)
                connection.sendall(answers.get(piece, piece))
            connection.sendall(b"end")
        self.open.remove(connection)
        connection.close()


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a path that is short enough for sockets."""
    return tmp_path_factory.mktemp("a")


@pytest.fixture
def daemon(folder: Path) -> Daemon:
    return Daemon(folder / "docker.sock")


@pytest.fixture
def ahead(daemon: Daemon, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The program, between a client and that daemon."""
    started = subprocess.Popen([sys.executable, PROGRAM, folder / "docker.sock", folder / "ssh"])
    assert until((folder / "ssh").exists)
    assert until(lambda: inode(folder / "docker.sock") != inode(folder / "ssh"))
    yield started
    started.kill()
    started.wait()


def inode(path: Path) -> int:
    return path.stat().st_ino


def connected(folder: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(10)
    client.connect(str(folder / "docker.sock"))
    return client


def answer(client: socket.socket, request: bytes) -> bytes:
    client.sendall(request)
    return client.recv(1 << 16)


@pytest.mark.usefixtures("ahead")
def test_the_next_connection_is_open_before_it_is_needed(daemon: Daemon, folder: Path) -> None:
    assert daemon.open == [], "what nobody uses is not opened"
    with connected(folder) as client:
        assert answer(client, b"GET /version") == b"GET /version"
        assert until(lambda: len(daemon.open) == 4), "one in use, three in reserve"
        before = list(daemon.open)
        with connected(folder) as other:
            assert answer(other, b"GET /info") == b"GET /info"
            assert until(lambda: len(daemon.open) == 5)
            assert daemon.open[:4] == before


@pytest.mark.usefixtures("ahead")
def test_a_ping_is_answered_from_memory_for_a_second(daemon: Daemon, folder: Path) -> None:
    for _ in range(2):
        for _ in range(3):
            with connected(folder) as client:
                assert answer(client, PING) == PONG
                assert answer(client, b"GET /version") == b"GET /version"
        time.sleep(1.1)
    assert daemon.requests == [PING, PING]


@pytest.mark.usefixtures("ahead")
def test_grpc_is_requested_ahead_only_while_docker_uses_it(daemon: Daemon, folder: Path) -> None:
    with connected(folder) as client:
        assert answer(client, GRPC) == UPGRADED
        assert until(lambda: daemon.requests == [GRPC] * 3), "one in use, two in reserve"
        with connected(folder) as other:
            assert answer(other, GRPC) == UPGRADED
            assert answer(other, b"frames") == b"frames"
            assert until(lambda: daemon.requests == [GRPC] * 4)
        # BuildKit ends such a connection after ten seconds.
        assert until(lambda: len(daemon.open) == 4, 8)
        assert answer(client, b"frames") == b"frames"


@pytest.mark.usefixtures("ahead")
def test_a_connection_that_the_daemon_has_closed_is_not_used(daemon: Daemon, folder: Path) -> None:
    with connected(folder) as client:
        assert answer(client, PING) == PONG
        assert until(lambda: len(daemon.open) == 4)
        for spare in daemon.open[1:]:
            spare.shutdown(socket.SHUT_RDWR)
        assert until(lambda: len(daemon.open) == 1)
        with connected(folder) as other:
            assert answer(other, b"GET /version") == b"GET /version"


@pytest.mark.usefixtures("ahead")
def test_large_transfers_and_each_end_pass_unchanged(folder: Path) -> None:
    data = os.urandom(5_000_000)
    received = bytearray()
    with connected(folder) as client:
        threading.Thread(target=client.sendall, args=(data,)).start()
        while len(received) < len(data):
            received += client.recv(1 << 16)
        client.shutdown(socket.SHUT_WR)
        while piece := client.recv(1 << 16):
            received += piece
    assert received == data + b"end"


def test_it_ends_when_its_socket_is_gone_and_finishes_open_connections(
    ahead: subprocess.Popen[bytes], daemon: Daemon, folder: Path
) -> None:
    with connected(folder) as client:
        assert answer(client, b"one") == b"one"
        (folder / "ssh").rename(folder / "docker.sock")
        assert until(lambda: len(daemon.open) == 1), "the spare connections are closed"
        with connected(folder) as direct:
            assert answer(direct, b"two") == b"two"
        assert answer(client, b"three") == b"three"
        assert ahead.poll() is None
    assert ahead.wait(10) == 0


def test_the_socket_behind_it_works_when_it_is_killed(
    ahead: subprocess.Popen[bytes], folder: Path
) -> None:
    ahead.send_signal(signal.SIGKILL)
    ahead.wait()
    (folder / "ssh").rename(folder / "docker.sock")
    with connected(folder) as client:
        assert answer(client, PING) == PONG
