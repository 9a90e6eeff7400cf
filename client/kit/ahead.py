"""Keeps connections to the builder open ahead: python3 ahead.py SOCKET BEHIND

For one build docker opens about ten connections, most of them one after the other. Each is a
channel of ssh, which takes a round trip to open. This program moves the socket that ssh forwards
from SOCKET to BEHIND, listens at SOCKET itself, and carries each connection over one that is open
already. It also saves the round trips of the requests that docker repeats: it sends the request for
gRPC ahead, and answers a ping again for a second.

It ends when SOCKET is another file or gone, and then still carries what docker has open.
`builder watch` starts it where there is Python 3.7 or newer.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import threading
import time

IDLE, IDLE_SECONDS = 3, 60  # unused connections would keep ssh's from ending
BEGUN, BEGUN_SECONDS = 2, 5  # BuildKit waits ten seconds for gRPC to begin
PING_SECONDS = 1
PING, UPGRADE = b"HEAD /_ping HTTP/1.1\r\n", b"POST /grpc HTTP/1.1\r\n"
END_OF_HEAD = b"\r\n\r\n"
SIZE = 1 << 18  # bytes


class Spare:
    """A connection that nobody uses yet; it may have sent a request."""

    def __init__(self, path: str, request: bytes) -> None:
        self.request = request
        self.until = time.monotonic() + (BEGUN_SECONDS if request else IDLE_SECONDS)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.socket.sendall(request)

    def is_usable(self) -> bool:
        """Whether it is open; without a request the daemon says nothing but that it ends."""
        try:
            begin = self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            return bool(begin and self.request) and time.monotonic() < self.until
        except BlockingIOError:
            return time.monotonic() < self.until
        except OSError:
            return False


class Ahead:
    """Carries connections to a Unix socket over spare ones."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.lock = threading.Lock()
        self.spares: list[Spare] = []
        self.upgrade = b""
        self.pong, self.pong_until = b"", 0.0

    def send(self, request: bytes) -> socket.socket:
        """A connection that has sent the request: a spare or a new one. Raises OSError."""
        with self.lock:
            if request.startswith(UPGRADE) and request.endswith(END_OF_HEAD):
                self.upgrade = request
            usable = []
            for spare in self.spares:
                if spare.is_usable():
                    usable.append(spare)
                else:
                    spare.socket.close()
            fitting = [spare for spare in usable if spare.request == request]
            idle = [spare for spare in usable if not spare.request]
            taken = (fitting or idle or [Spare(self.path, b"")])[0]
            self.spares = [spare for spare in usable if spare is not taken]
            # Where one connection is opened, others follow.
            for begin, number in ((b"", IDLE), (self.upgrade, BEGUN if self.upgrade else 0)):
                have = sum(spare.request == begin for spare in self.spares)
                self.spares += [Spare(self.path, begin) for _ in range(have, number)]
        if not taken.request:
            taken.socket.sendall(request)
        return taken.socket

    def close_old(self, now: float) -> None:
        """Close the spare connections whose time is over."""
        with self.lock:
            for spare in self.spares:
                if now >= spare.until:
                    spare.socket.close()
            self.spares = [spare for spare in self.spares if now < spare.until]

    def carry(self, client: socket.socket) -> None:
        """Carry a client's connection to its end."""
        daemon = None
        try:
            while True:
                request = client.recv(SIZE)
                ping = request.startswith(PING) and request.endswith(END_OF_HEAD)
                if not request:
                    break
                if ping and time.monotonic() < self.pong_until:
                    client.sendall(self.pong)
                    continue
                if daemon:
                    daemon.sendall(request)
                else:
                    daemon = self.send(request)
                if ping:
                    client.sendall(self.answer_to_ping(daemon))
                    continue
                back = threading.Thread(target=pump, args=(daemon, client))
                back.start()
                pump(client, daemon)
                back.join()
                break
        except OSError:
            pass  # one side has broken the connection
        finally:
            client.close()
            if daemon:
                daemon.close()

    def answer_to_ping(self, daemon: socket.socket) -> bytes:
        """The daemon's answer, which has no body. Raises OSError without one."""
        answer = b""
        while not answer.endswith(END_OF_HEAD):
            more = daemon.recv(SIZE)
            if not more:
                raise OSError("the daemon has closed the connection")
            answer += more
        if answer.startswith(b"HTTP/1.1 200 "):
            self.pong, self.pong_until = answer, time.monotonic() + PING_SECONDS
        return answer


def pump(source: socket.socket, sink: socket.socket) -> None:
    """Copy what one side sends to the other, and its end; a broken connection breaks both."""
    view = memoryview(bytearray(SIZE))
    try:
        while True:
            size = source.recv_into(view)
            if not size:
                break
            sink.sendall(view[:size])
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        for side in (source, sink):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)


def listen(path: str, behind: str) -> socket.socket:
    """Take over the socket at `path`, which is at `behind` from then on."""
    new = path + ".new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(new)
    listener.listen(128)
    try:
        os.link(path, behind)
    except OSError:  # a file system without links to sockets
        os.rename(path, behind)
    os.rename(new, path)
    return listener


def inode(path: str) -> int:
    """The number of the file there; 0 without one."""
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0


def main() -> None:
    path, behind = sys.argv[1:]
    ahead = Ahead(behind)
    with listen(path, behind) as listener:
        own = inode(path)
        while inode(path) == own:
            if select.select([listener], [], [], 1)[0]:
                threading.Thread(target=ahead.carry, args=(listener.accept()[0],)).start()
            ahead.close_old(time.monotonic())
    ahead.close_old(float("inf"))


if __name__ == "__main__":
    main()
