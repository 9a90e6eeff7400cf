"""Streams end as on a local daemon: the end of each side reaches the other, on every path."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.engine.conftest import (
    BASE_IMAGE,
    PING,
    Builder,
    passed,
    run,
    until,
)

# Longer than this is a stream that does not end; a session takes one or two seconds.
SECONDS = 30
MIB = 1024 * 1024

Start = Callable[..., subprocess.Popen[bytes]]


@contextmanager
def forwarded(builder: Builder) -> Iterator[str]:
    """The daemon's socket, forwarded as the client's kit does it."""
    path = builder.folder / "daemon.sock"
    path.unlink(missing_ok=True)
    with builder.connection("-L", f"{path}:/run/builder/docker.sock"):
        assert until(path.exists)
        yield f"unix://{path}"


@pytest.fixture(params=["plain ssh", "forwarded socket"])
def start(builder: Builder, request: pytest.FixtureRequest) -> Iterator[Start]:
    """Starts docker as a client on one of the two paths."""

    def by(host: str) -> Start:
        def docker_by(*arguments: str, **streams: object) -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                ["docker", *arguments],
                env={**os.environ, "DOCKER_HOST": host, "PATH": builder.path},
                **{
                    "stdin": subprocess.PIPE,
                    "stdout": subprocess.PIPE,
                    "stderr": subprocess.PIPE,
                    **streams,
                },
            )  # type: ignore[call-overload,no-any-return]

        return docker_by

    if request.param == "plain ssh":
        yield by(f"ssh://{builder.stack}-builder")
    else:
        with forwarded(builder) as host:
            yield by(host)


def ends(client: subprocess.Popen[bytes]) -> float:
    """Seconds until the process ends by itself; its standard input stays open until then."""
    begun = time.monotonic()
    try:
        client.wait(SECONDS)
    except subprocess.TimeoutExpired:
        client.kill()
        pytest.fail(f"it did not end within {SECONDS} s")
    finally:
        if client.stdin:
            client.stdin.close()
    return time.monotonic() - begun


def test_it_ends_with_the_command_while_its_input_is_open(start: Start) -> None:
    client = start("run", "--rm", "--interactive", BASE_IMAGE, "true")
    ends(client)
    assert client.returncode == 0


def test_it_ends_with_the_command_while_more_input_comes(start: Start) -> None:
    with subprocess.Popen(["yes"], stdout=subprocess.PIPE) as endless:
        client = start(
            "run", "--rm", "--interactive", BASE_IMAGE, "head", "-n", "1", stdin=endless.stdout
        )
        try:
            ends(client)
        finally:
            endless.kill()
    assert client.returncode == 0
    assert client.stdout is not None
    assert client.stdout.read() == b"y\n"


def test_a_terminal_ends_with_its_shell(start: Start) -> None:
    mine, theirs = pty.openpty()
    client = start(
        "run",
        "--rm",
        "--interactive",
        "--tty",
        BASE_IMAGE,
        "sh",
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""

    def read() -> None:
        nonlocal shown
        while chunk := _read(mine):
            shown += chunk

    reading = threading.Thread(target=read)
    reading.start()
    assert until(lambda: b"#" in shown or b"$" in shown, SECONDS)
    os.write(mine, b"echo $((6 * 7)); exit 3\r")
    ends(client)
    reading.join(5)
    os.close(mine)
    assert b"42" in shown
    assert client.returncode == 3


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:
        # The other side of the terminal is gone.
        return b""


def test_the_end_of_the_input_arrives_before_the_answer(start: Start) -> None:
    client = start(
        "run", "--rm", "--interactive", BASE_IMAGE, "sh", "-c", "cat | wc -c; sleep 1; echo late"
    )
    out, _ = client.communicate(b"x" * 100000, timeout=SECONDS)
    assert out.split() == [b"100000", b"late"]


def test_large_streams_run_both_ways_at_once(start: Start) -> None:
    block = os.urandom(MIB)
    client = start("run", "--rm", "--interactive", "--log-driver=none", BASE_IMAGE, "cat")
    sent, received = hashlib.sha256(), hashlib.sha256()

    def send() -> None:
        assert client.stdin is not None
        for _ in range(200):
            client.stdin.write(block)
            sent.update(block)
        client.stdin.close()

    sending = threading.Thread(target=send)
    sending.start()
    assert client.stdout is not None
    while chunk := client.stdout.read(MIB):
        received.update(chunk)
    sending.join()
    assert client.wait(SECONDS) == 0
    assert received.digest() == sent.digest()


def test_long_output_reaches_a_slow_reader_complete(start: Start) -> None:
    # Of short lines the daemon would make a record of its log each.
    client = start("run", "--rm", BASE_IMAGE, "head", "-c", "20000000", "/dev/zero")
    assert client.stdout is not None
    time.sleep(2)
    assert len(client.stdout.read()) == 20000000
    assert client.wait(SECONDS) == 0


def test_a_command_in_a_container_ends_for_a_client_that_waits_for_the_daemons_end(
    builder: Builder,
) -> None:
    """docker-py and aiodocker read the answer of an exec with their own side open."""
    name = "exec"
    passed(builder.docker("run", "--detach", "--rm", "--name", name, BASE_IMAGE, "sleep", "300"))
    try:
        created = builder.ssh(
            builder.alias,
            "docker system dial-stdio",
            input=request(
                f"POST /containers/{name}/exec", '{"AttachStdout": true, "Cmd": ["echo", "done"]}'
            ),
        )
        identity = json.loads(created.stdout.splitlines()[-1])["Id"]
        start = request(
            f"POST /exec/{identity}/start",
            '{"Detach": false, "Tty": false}',
            "Connection: Upgrade",
            "Upgrade: tcp",
        )
        answer = answered(builder, "ada", start)
    finally:
        builder.docker("rm", "--force", name)
    assert answer.startswith("HTTP/1.1 101 ")
    assert answer.endswith("done\n")


def request(line: str, body: str, *headers: str) -> str:
    """An HTTP request; the daemon then closes its connection, or keeps it as a stream."""
    closing = headers or ("Connection: close",)
    lines = (
        f"{line} HTTP/1.1",
        "Host: docker",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *closing,
    )
    return "\r\n".join(lines) + "\r\n\r\n" + body


def answered(builder: Builder, key: str, request: str) -> str:
    """Everything that is received; the client keeps its side open until the other side ends."""
    with subprocess.Popen(
        [*builder.ssh_command(key), builder.alias, "docker system dial-stdio"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(request)
        client.stdin.flush()
        timer = threading.Timer(SECONDS, client.kill)
        timer.start()
        try:
            answer = client.stdout.read()
            client.wait()
        finally:
            timer.cancel()
    assert client.returncode == 0, "it did not end"
    return answer


@pytest.mark.parametrize("key", ["ada", "ci"], ids=["admin", "role build, by the guard"])
def test_the_daemons_end_reaches_a_client_that_has_ended_its_input(
    builder: Builder, key: str
) -> None:
    """HTTP/1.0: the daemon or the guard closes after the answer; the client does nothing."""
    assert "200 OK" in answered(builder, key, PING)


def test_clients_that_are_killed_on_a_silent_stream_leave_no_process(builder: Builder) -> None:
    """The daemon sends nothing that would show that the clients are gone."""
    builder.ssh_end()
    plain = builder.ssh_command()
    events = "GET /events HTTP/1.1\r\nHost: a\r\n\r\n"
    clients = [
        subprocess.Popen(
            [*plain, builder.alias, "docker", "system", "dial-stdio"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(10)
    ]
    for client in clients:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(events)
        client.stdin.flush()
        assert "200 OK" in client.stdout.readline()
    for client in clients:
        client.kill()
        client.communicate()
    top = ("docker", "top", builder.container("gateway"), "-eo", "pid,args")
    marks = ("s6-ioconnect", "sshd-session", "lib/gateway/dial")

    def left() -> list[str]:
        listed = passed(run(*top)).splitlines()
        return [line for line in listed if any(mark in line for mark in marks)]

    assert until(lambda: not left(), SECONDS), left()
