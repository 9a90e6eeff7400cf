"""Many clients at once, and clients that misbehave: a client with a key can always log in."""

from __future__ import annotations

import resource
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.engine.conftest import PING, Builder, make_key, memory, passed, run, until
from tests.engine.figures import LONG, record

pytestmark = pytest.mark.alone

CLIENTS = 200
HALF_OPEN = 1500 if LONG else 1100
KILLED = 1000 if LONG else 80
KILLED_AT_ONCE = 40
GUESSES = 500 if LONG else 25


@pytest.fixture(scope="module", autouse=True)
def only_these_clients(builder: Builder) -> Iterator[None]:
    """No other connection is open, and the machine allows enough connections."""
    builder.ssh_end()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def sessions(builder: Builder) -> list[str]:
    """The processes that serve clients."""
    listed = passed(run("docker", "top", builder.container("gateway"), "-eo", "pid,args"))
    marks = ("s6-ioconnect", "sshd-session", "sshd-auth")
    return [line for line in listed.splitlines() if any(mark in line for mark in marks)]


def ask_at_once(command: list[str]) -> tuple[list[str], float]:
    """Start CLIENTS pings together; return the errors of those without answer, and the seconds."""
    start = time.monotonic()
    clients = [
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(CLIENTS)
    ]
    answers = [client.communicate(PING, timeout=120) for client in clients]
    return [output for out, output in answers if "200 OK" not in out], time.monotonic() - start


def test_many_clients_at_once_are_all_let_in(builder: Builder) -> None:
    refused, seconds = ask_at_once([*builder.ssh_command(), builder.alias])
    record("clients at once, a connection each", CLIENTS, refused=len(refused), seconds=seconds)
    assert refused == []


def test_many_clients_at_once_share_one_connection(builder: Builder) -> None:
    control = builder.folder / "shared"
    with builder.connection("-M", "-o", "ControlPersist=no", control=str(control)):
        assert until(control.exists)
        refused, seconds = ask_at_once(
            ["ssh", "-S", str(control), "-o", "BatchMode=yes", builder.alias]
        )
    record("clients at once, one shared connection", CLIENTS, refused=len(refused), seconds=seconds)
    assert refused == []


def test_a_client_with_a_wrong_key_does_not_lock_the_others_out(builder: Builder) -> None:
    make_key(builder.folder / "guesser")
    for _ in range(GUESSES):
        assert builder.refuses("guesser")
    answered = "200 OK" in builder.ping().stdout
    record(
        "logins with a wrong key, then one with the right key", GUESSES, refused=int(not answered)
    )
    assert answered


def test_half_open_connections_do_not_lock_the_others_out(builder: Builder) -> None:
    address = (builder.settings["sshAddress"], builder.settings["sshPort"])
    standing = []
    refused = tried = 0
    try:
        for number in range(HALF_OPEN):
            standing.append(socket.create_connection(address))
            # sshd accepts about 150 a second; a faster flood only waits in the kernel's queue.
            time.sleep(0.008)
            if number % 100 == 99:
                tried += 1
                refused += "200 OK" not in builder.ping().stdout
        assert until(lambda: "reason=not-logged-in" in "".join(builder.audit()))
        tried += 1
        refused += "200 OK" not in builder.ping().stdout
    finally:
        for connection in standing:
            connection.close()
    record(
        "half-open connections, with logins in between", HALF_OPEN, logins=tried, refused=refused
    )
    assert refused == 0
    assert until(lambda: not sessions(builder))


def test_clients_that_are_killed_leave_nothing(builder: Builder) -> None:
    command = [*builder.ssh_command(), builder.alias]

    def come_and_be_killed(number: int) -> None:
        clients = [
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            for _ in range(number)
        ]
        # Two per session, one for each direction.
        pumps = 2 * number
        pump = "/command/s6-ioconnect"
        assert until(lambda: sum(pump in line.split()[1] for line in sessions(builder)) == pumps)
        for client in clients:
            client.kill()
            client.communicate()

    come_and_be_killed(KILLED_AT_ONCE)
    assert until(lambda: not sessions(builder), 30)
    before = memory(builder, "gateway")["gateway"]
    for _ in range(KILLED // KILLED_AT_ONCE):
        come_and_be_killed(KILLED_AT_ONCE)
    until(lambda: not sessions(builder), 30)
    left, after = sessions(builder), memory(builder, "gateway")["gateway"]
    record(
        "clients killed in the middle",
        KILLED,
        processes_left=len(left),
        MiB_before=before,
        MiB_after=after,
    )
    assert left == []
    assert after < before + 4
