"""Attacks on the one open port and on the streams behind it; the builder stays up in all cases.

All attacks go to 127.0.0.1 and are limited in number and time.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import time
from collections.abc import Callable, Iterator

import pytest

from tests.engine.conftest import Builder, memory, passed, run, until
from tests.engine.figures import LONG, record
from tests.mutations import mutated

CONNECTIONS = 3000 if LONG else 200
REQUESTS = 10_000 if LONG else 600
SLOW = 400 if LONG else 100
SLOW_SECONDS = 60 if LONG else 6
HUGE = 60 if LONG else 12
HALF = 300
ROLES = ("daemon", "gateway", "guard")
MIB = 1024 * 1024


@pytest.fixture(scope="module", autouse=True)
def uses_hardly_more_memory(builder: Builder) -> Iterator[None]:
    """After the tests, each container uses about as much memory as before."""
    before = memory(builder, *ROLES)
    yield
    after = memory(builder, *ROLES)
    for role in ROLES:
        what = f"MiB of the {role} before and after all that came from outside"
        record(what, 1, before=before[role], after=after[role])
    for role in ROLES:
        assert after[role] < before[role] + (96 if role == "daemon" else 24), (before, after)


@pytest.fixture(autouse=True)
def stays_up(builder: Builder) -> Iterator[None]:
    """After each attack the same processes answer, and no other process remains."""

    def started() -> list[str]:
        names = [builder.container(role) for role in ROLES]
        form = "{{.State.StartedAt}} {{.State.Pid}} {{.RestartCount}} {{.State.OOMKilled}}"
        return passed(run("docker", "inspect", "--format", form, *names)).splitlines()

    def sessions() -> list[str]:
        listed = passed(run("docker", "top", builder.container("gateway"), "-eo", "pid,args"))
        return [
            line for line in listed.splitlines() if "s6-ioconnect" in line or "sshd-auth" in line
        ]

    before = started()
    yield
    assert started() == before
    for key in ("ada", "ci"):
        assert "200 OK" in builder.ping(key=key).stdout
    assert until(lambda: not sessions(), 40)


def address(builder: Builder) -> tuple[str, int]:
    return builder.settings["sshAddress"], builder.settings["sshPort"]


def exchange(open_one: Callable[[], socket.socket], data: bytes, seconds: float = 2) -> bytes:
    """The answer to these bytes, until the other side ends or the time is over."""
    heard = b""
    with contextlib.suppress(OSError), open_one() as connection:
        connection.settimeout(seconds)
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        while output := connection.recv(65536):
            heard += output
    return heard


def test_malformed_ssh(builder: Builder) -> None:
    chance = random.Random(20)
    lists = [
        b"curve25519-sha256",
        b"ssh-ed25519",
        *[b"aes128-gcm@openssh.com"] * 2,
        *[b"hmac-sha2-256"] * 2,
        *[b"none"] * 2,
        b"",
        b"",
    ]
    payload = b"\x14" + b"c" * 16
    payload += b"".join(struct.pack(">I", len(name)) + name for name in lists) + b"\0" * 5
    padding = 8 - (5 + len(payload)) % 8 + 8
    packet = struct.pack(">IB", 1 + len(payload) + padding, padding) + payload + b"\0" * padding
    seeds = [
        b"SSH-2.0-OpenSSH_9.9\r\n" + packet,
        b"SSH-2.0-x\r\n" + struct.pack(">I", 0xFFFFFFFF) + b"\x04" * 64,
        b"SSH-2.0-x\r\n" + struct.pack(">I", 35000) + b"a" * 35000,
        b"SSH-1.5-old\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64,
        b"SSH-2.0-" + b"A" * 300 + b"\r\n",
        b"\0" * 1000,
    ]
    refused = 0
    for number in range(CONNECTIONS):
        data = mutated(chance, chance.choice(seeds))
        exchange(lambda: socket.create_connection(address(builder), 5), data, 1)
        if number % 50 == 49:
            refused += "200 OK" not in builder.ping().stdout
    record("malformed SSH connections, with logins in between", CONNECTIONS, refused=refused)
    assert refused == 0


def test_endless_names_and_oversized_packets(builder: Builder) -> None:
    for number in range(HUGE):
        start = b"SSH-2.0-" if number % 2 else b"SSH-2.0-x\r\n" + struct.pack(">I", 0x7FFFFFFF)
        exchange(lambda: socket.create_connection(address(builder), 5), start + b"A" * 4 * MIB)
    record("SSH connections that send 4 MiB before any key", HUGE)


def crawl(slow: list[socket.socket], text: bytes, let_in: Callable[[], bool]) -> int:
    """Send the text on all of these, letter by letter; return how often others were refused."""
    refused, end = 0, time.monotonic() + SLOW_SECONDS
    for letter in text:
        for connection in slow:
            with contextlib.suppress(OSError):
                connection.send(bytes([letter]))
        refused += not let_in()
        if time.monotonic() > end:
            break
        time.sleep(0.5)
    return refused


def test_slow_logins_do_not_block_others(builder: Builder) -> None:
    text = b"SSH-2.0-OpenSSH_9.9 slow loris and her friends, one letter after the other" * 4
    with contextlib.ExitStack() as open_ones:
        slow = [
            open_ones.enter_context(socket.create_connection(address(builder), 5))
            for _ in range(SLOW)
        ]
        refused = crawl(slow, text, lambda: "200 OK" in builder.ping().stdout)
    record("logins a letter at a time, with others in between", SLOW, refused=refused)
    assert refused == 0


Open = Callable[[], socket.socket]


@contextlib.contextmanager
def docker_stream(builder: Builder, role: str) -> Iterator[Open]:
    """Opens the Docker stream of a key with this role, once per call."""
    key, name = ("ada", "docker") if role == "admin" else ("ci", "guard")
    path = builder.folder / f"{name}.sock"
    path.unlink(missing_ok=True)

    def open_one() -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(5)
        # sshd accepts a limited number at a time; when its queue is full, it refuses at once.
        assert until(lambda: connection.connect_ex(str(path)) == 0)
        return connection

    with builder.connection(f"-L{path}:/run/builder/{name}.sock", key=key):
        assert until(path.exists)
        yield open_one


each_role = pytest.mark.parametrize("role", ["admin", "build"])


HEADS = [
    b"GET /_ping HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /v1.41/images/json?all=1 HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n",
    b"POST /v1.41/build?t=a&networkmode=default HTTP/1.1\r\nHost: a\r\n"
    b"Content-Type: application/x-tar\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"a\r\n0123456789\r\n0\r\n\r\n",
    b"POST /v1.41/images/load HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-tar\r\n"
    b"Content-Length: 10\r\n\r\n0123456789",
    b"POST /session HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n\0\0\0\4\0",
    b"POST /grpc HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0\0\0\4\1\5\0\0\0\1abcd"
    b"\0\0\5\0\1\0\0\0\1\0\0\0\0\0",
]


@each_role
def test_malformed_http(builder: Builder, role: str) -> None:
    chance = random.Random(21)
    statuses: dict[bytes, int] = {}
    images = ("images", "--quiet", "--all")
    before = passed(builder.docker(*images))
    with docker_stream(builder, role) as stream:
        for _ in range(REQUESTS):
            heard = exchange(stream, mutated(chance, chance.choice(HEADS)), 0.5)
            status = heard[9:10] if heard.startswith(b"HTTP/1.") else b"-"
            statuses[status] = statuses.get(status, 0) + 1
    answered = sum(count for status, count in statuses.items() if status in (b"2", b"4"))
    record(f"malformed HTTP requests, role {role}", REQUESTS, answered=answered)
    assert answered > REQUESTS / 4
    # Nothing of this made an image.
    assert passed(builder.docker(*images)) == before


@each_role
def test_endless_headers(builder: Builder, role: str) -> None:
    starts = [b"GET /" + b"a" * 16, b"GET /_ping HTTP/1.1\r\nA: ", b"GET /_ping HTTP/1.1\r\n"]
    with docker_stream(builder, role) as stream:
        for number in range(HUGE):
            more = b"A: b\r\n" if number % 3 == 2 else b"a"
            heard = exchange(stream, starts[number % 3] + more * (4 * MIB // len(more)))
            assert b" 200 " not in heard
    record(f"heads of 4 MiB, role {role}", HUGE)


@each_role
def test_slow_requests_do_not_block_others(builder: Builder, role: str) -> None:
    key = "ada" if role == "admin" else "ci"
    with docker_stream(builder, role) as stream, contextlib.ExitStack() as open_ones:
        slow = [open_ones.enter_context(stream()) for _ in range(SLOW)]
        refused = crawl(slow, HEADS[1] * 4, lambda: "200 OK" in builder.ping(key=key).stdout)
    record(f"requests a letter at a time, role {role}", SLOW, refused=refused)
    assert refused == 0


def test_grpc_calls_that_never_begin(builder: Builder) -> None:
    """Heads of calls in endless pieces, both empty and full."""
    before, _, _ = HEADS[5].partition(b"\0\0\0\4\0")
    frame = b"\0\x10\0\x09\0\0\0\0\1" + b"\0" * 4096
    with docker_stream(builder, "build") as stream:
        for number in range(HUGE):
            more = frame * 200 if number % 2 else b"\0\0\0\x09\0\0\0\0\1" * 10_000
            exchange(stream, before + b"\0\0\1\1\0\0\0\0\1\x82" + more)
    record("heads of gRPC calls without end, role build", HUGE)


def test_half_requests_do_not_block_others_of_the_role(builder: Builder) -> None:
    with docker_stream(builder, "build") as stream, contextlib.ExitStack() as open_ones:
        for _ in range(HALF):
            open_ones.enter_context(stream()).send(b"GET /_ping HTTP/1.1\r\n")
        assert b" 200 " in exchange(stream, HEADS[0])
    record("half requests that stand open with one key, role build", HALF)
