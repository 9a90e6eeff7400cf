"""The bench's link has the delay and the rate that it is given."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bench.link import Link, serve

HOST = "127.0.0.1"
# A link is never early; on a busy machine it is late, by less than this many seconds.
LATE = 2.0  # seconds that a busy machine may take longer


@contextmanager
def server(greeting: bytes = b"") -> Iterator[int]:
    """Greets each client, answers every piece that it gets, and ends when the client does."""

    def answer(connection: socket.socket) -> None:
        with connection:
            connection.sendall(greeting)
            while piece := connection.recv(1 << 16):
                connection.sendall(b"." if len(piece) < 100 else b"")
            connection.sendall(b"end")

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    with socket.create_server((HOST, 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


@contextmanager
def connected(delay: float, greeting: bytes = b"") -> Iterator[tuple[socket.socket, Link]]:
    """A client of the server above, over a link."""
    link = Link(HOST, 0, delay)
    with (
        server(greeting) as link.port,
        serve(link, HOST) as through,
        socket.create_connection((HOST, through), 10) as client,
    ):
        yield client, link


@pytest.mark.parametrize("delay", [0.1, 0.3])
def test_an_answer_takes_a_round_trip_and_opening_another(delay: float) -> None:
    start = time.monotonic()
    with connected(delay) as (client, _):
        for trips in (2, 3, 4):
            client.sendall(b"?")
            assert client.recv(1) == b"."
            assert trips * delay <= time.monotonic() - start < trips * delay + LATE


def test_a_server_that_sends_first_is_received_after_two_round_trips() -> None:
    start = time.monotonic()
    with connected(0.1, b"SSH-2.0") as (client, _):
        assert client.recv(7) == b"SSH-2.0"
        assert 0.2 <= time.monotonic() - start < 0.2 + LATE


def test_the_end_arrives_after_the_data_with_the_same_delay() -> None:
    with connected(delay=0.1) as (client, _):
        client.sendall(b"?" * 1000)
        client.shutdown(socket.SHUT_WR)
        start = time.monotonic()
        assert client.recv(3, socket.MSG_WAITALL) == b"end"
        assert client.recv(1) == b""
        assert time.monotonic() - start >= 0.1


def test_the_rate_is_shared_by_all_connections() -> None:
    size = 100_000  # bytes on each of two connections: 0.4 seconds at 4 Mbit/s
    with (
        server() as port,
        serve(Link(HOST, port, 0, 4e6), HOST) as through,
        socket.create_connection((HOST, through)) as one,
        socket.create_connection((HOST, through)) as other,
    ):
        start = time.monotonic()
        for client in (one, other):
            client.sendall(bytes(size))
            client.shutdown(socket.SHUT_WR)
        assert [client.recv(3, socket.MSG_WAITALL) for client in (one, other)] == [b"end"] * 2
        assert 0.4 <= time.monotonic() - start < 0.4 + LATE


def test_round_trips_are_counted_over_all_connections() -> None:
    link = Link(HOST, 0, 0.1)
    with server() as link.port, serve(link, HOST) as through:
        for number in (1, 2):
            with socket.create_connection((HOST, through)) as client:
                for _ in range(3):
                    client.sendall(b"?")
                    assert client.recv(1) == b"."
            assert link.connections == number
            assert link.round_trips == 4 * number


def test_the_delay_can_change_during_a_connection() -> None:
    with connected(delay=0) as (client, link):
        for delay in (0, 0.1):
            link.delay = delay
            start = time.monotonic()
            client.sendall(b"?")
            assert client.recv(1) == b"."
            assert delay <= time.monotonic() - start < delay + LATE


def test_a_server_that_is_not_there_ends_the_connection() -> None:
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
    with (
        serve(Link(HOST, port), HOST) as through,
        socket.create_connection((HOST, through)) as client,
    ):
        assert client.recv(1) == b""
