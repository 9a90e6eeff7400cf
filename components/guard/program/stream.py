"""A connected socket with a buffer of bytes that were read and not used yet."""

from __future__ import annotations

import asyncio
import contextlib
import socket

READ = 256 * 1024
"""Bytes per read, and so the most that is buffered for each side of a connection."""


class Ended(Exception):
    """The other side has closed the connection too early."""


class Stream:
    """A read can be cancelled without losing bytes: they are added to `buffer` later."""

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
        """Read exactly `count` bytes. Raises Ended."""
        while len(self.buffer) < count:
            if self.ended:
                raise Ended
            await self.fill()
        return self.drop(count)

    def drop(self, count: int) -> bytes:
        """Remove the first `count` bytes from the buffer and return them."""
        data = bytes(self.buffer[:count])
        del self.buffer[:count]
        return data

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of `data`, as fast as the other side reads it. Raises Ended."""
        try:
            await asyncio.get_running_loop().sock_sendall(self._socket, data)
        except OSError:
            raise Ended from None

    async def pour(self, into: Stream) -> None:
        """Copy everything to `into`, then the end. Raises Ended when `into` is closed."""
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
        """Close the sending direction; the other side may still send."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
        self._socket.close()
