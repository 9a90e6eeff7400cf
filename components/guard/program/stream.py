"""A connected socket with what has been read of it and not been used yet."""

from __future__ import annotations

import asyncio
import contextlib
import socket

READ = 256 * 1024
"""Bytes that are read at a time, and so at most kept of each side of a connection."""


class Ended(Exception):
    """The other side has ended the connection in the middle of something."""


class Stream:
    """Reads can be given up without losing anything: what comes later lands in `buffer`."""

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self.buffer = bytearray()
        self.ended = False
        """Whether the other side sends nothing more."""
        self._socket = connected
        self._reading: asyncio.Task[None] | None = None

    async def _read(self) -> None:
        try:
            data = await asyncio.get_running_loop().sock_recv(self._socket, READ)
        except ConnectionError:
            data = b""
        self._reading = None
        self.buffer += data
        self.ended = not data

    async def fill(self) -> None:
        """Wait for more bytes in `buffer`, or for the end."""
        if self.ended:
            return
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
        await asyncio.shield(self._reading)

    async def take(self, count: int) -> bytes:
        """Exactly so many bytes. Raises Ended."""
        while len(self.buffer) < count:
            if self.ended:
                raise Ended
            await self.fill()
        return self.drop(count)

    def drop(self, count: int) -> bytes:
        """The first bytes of the buffer, out of it."""
        data = bytes(self.buffer[:count])
        del self.buffer[:count]
        return data

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """All of it, as fast as the other side takes it. Raises Ended."""
        try:
            await asyncio.get_running_loop().sock_sendall(self._socket, data)
        except OSError:
            raise Ended from None

    async def pour(self, into: Stream) -> None:
        """Send on all that comes, then its end. Raises Ended when `into` takes no more."""
        if self._reading is not None:
            await self.fill()
        await into.send(self.drop(len(self.buffer)))
        loop = asyncio.get_running_loop()
        room = memoryview(bytearray(READ))
        while not self.ended:
            try:
                count = await loop.sock_recv_into(self._socket, room)
            except ConnectionError:
                count = 0
            self.ended = count == 0
            await into.send(room[:count])
        into.end()

    def end(self) -> None:
        """Send nothing more; the other side may go on."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
        self._socket.close()
