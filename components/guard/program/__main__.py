"""Listen for the connections of keys of role `build`.

Usage: python -m guard serve SOCKET DAEMON_SOCKET | python -m guard ping SOCKET
"""

from __future__ import annotations

import asyncio
import datetime
import os
import signal
import socket
import sys
from pathlib import Path

from .relay import serve

_MAX_CONNECTIONS = 1000
_BACKLOG = 512


def _log(line: str) -> None:
    print(f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%SZ} {line}", flush=True)


def _listen(path: str) -> socket.socket:
    """A new listening socket; replaces the file of an earlier start."""
    Path(path).unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX)
    os.umask(0o177)
    listening.bind(path)
    listening.listen(_BACKLOG)
    listening.setblocking(False)
    return listening


async def _serve(path: str, daemon_socket: str) -> None:
    loop = asyncio.get_running_loop()
    ending = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ending.set)
    listening = _listen(path)
    connections: set[asyncio.Task[None]] = set()

    async def accept() -> None:
        while True:
            # Above the limit, new connections wait instead of being refused.
            while len(connections) >= _MAX_CONNECTIONS:
                await asyncio.wait(connections, return_when=asyncio.FIRST_COMPLETED)
            connected, _ = await loop.sock_accept(listening)
            connection = loop.create_task(serve(connected, daemon_socket, _log))
            connections.add(connection)
            connection.add_done_callback(connections.discard)

    accepting = loop.create_task(accept())
    _log("guard is listening")
    await asyncio.wait(
        {accepting, loop.create_task(ending.wait())}, return_when=asyncio.FIRST_COMPLETED
    )
    if accepting.done():
        accepting.result()


def _ping(path: str) -> int:
    """Ping the daemon through the guard; return the exit code."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(path)
        connection.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
        answer = connection.recv(4096)
    print(answer.decode(errors="replace"))
    return 0 if b" 200 " in answer.split(b"\r\n")[0] else 1


def main(verb: str, *paths: str) -> int:
    if verb == "ping":
        return _ping(*paths)
    asyncio.run(_serve(*paths))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
