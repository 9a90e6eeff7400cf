"""A network link with a delay and a rate, in user space: a TCP proxy that every kernel can run."""

from __future__ import annotations

import asyncio
import selectors
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

_CHUNK = 1 << 16  # bytes
# Chunks of one direction of a connection that may be under way: 4 MiB, as much as TCP allows.
_UNDER_WAY = 64

Direction = Literal["up", "down"]
_Queue = asyncio.Queue[tuple[float, bytes]]


@dataclass
class Link:
    """Carries TCP connections to `address` and `port` with the delay and the rate of a network.

    Opening a connection takes a round trip, as in TCP. Delay and rate may be changed while
    connections are open. All connections of one direction share its rate. Nothing is lost.
    """

    address: str
    port: int
    delay: float = 0
    """Seconds of a round trip, half of them in each direction."""
    rate: float = 0
    """Bits per second in each direction; 0 is no limit."""
    connections: int = 0
    """How many have been opened."""
    round_trips: int = 0
    """How often a client has sent something at least a round trip after what was counted before,
    so that it can depend on the answer. A client that sends all the time counts every delay."""
    _counted: float = field(default=float("-inf"), repr=False)
    _free: dict[Direction, float] = field(default_factory=dict, repr=False)

    async def carry(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        """Carry one connection to its end."""
        opened = time.monotonic()
        self.connections += 1
        self._count(opened)
        up, down = _Queue(_UNDER_WAY), _Queue(_UNDER_WAY)
        tasks = [asyncio.ensure_future(self._take("up", client, up, opened + self.delay))]
        writers = [answers]
        try:
            # TCP's handshake reaches the server with its third packet.
            await _sleep_until(opened + 1.5 * self.delay)
            server, requests = await asyncio.open_connection(self.address, self.port)
            writers.append(requests)
            for work in (
                self._take("down", server, down),
                _deliver(up, requests),
                _deliver(down, answers),
            ):
                tasks.append(asyncio.ensure_future(work))
            await asyncio.gather(*tasks)
        except OSError:
            pass  # one end has broken the connection; the other one's is closed below
        finally:
            for task in tasks:
                task.cancel()
            for writer in writers:
                writer.close()

    async def _take(
        self, direction: Direction, source: asyncio.StreamReader, queue: _Queue, earliest: float = 0
    ) -> None:
        """Put what the source sends into the queue, with the time at which it arrives."""
        while True:
            chunk = await source.read(_CHUNK)
            now = time.monotonic()
            if direction == "up" and chunk:
                self._count(max(now, earliest))
            duration = len(chunk) * 8 / self.rate if self.rate else 0
            self._free[direction] = max(now, earliest, self._free.get(direction, 0)) + duration
            await queue.put((self._free[direction] + self.delay / 2, chunk))
            if not chunk:
                return

    def _count(self, sent: float) -> None:
        if sent >= self._counted + self.delay:
            self._counted = sent
            self.round_trips += 1


async def _deliver(queue: _Queue, writer: asyncio.StreamWriter) -> None:
    while True:
        arrival, chunk = await queue.get()
        await _sleep_until(arrival)
        if not chunk:
            writer.write_eof()
            return
        writer.write(chunk)
        await writer.drain()


async def _sleep_until(moment: float) -> None:
    await asyncio.sleep(moment - time.monotonic())


def _loop() -> asyncio.AbstractEventLoop:
    """epoll would round each sleep up to a whole millisecond."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


@contextmanager
def serve(link: Link, listen: str) -> Iterator[int]:
    """Serve a link at an address of this machine, in a thread; yields the port."""
    started: list[int] = []
    ready, ended = threading.Event(), asyncio.Event()

    async def listening() -> None:
        carried: set[asyncio.Task[None]] = set()

        def begin(client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(link.carry(client, answers))
            carried.add(task)
            task.add_done_callback(carried.discard)

        server = await asyncio.start_server(begin, listen, 0)
        started.append(server.sockets[0].getsockname()[1])
        ready.set()
        await ended.wait()
        server.close()
        for task in carried:
            task.cancel()
        await asyncio.gather(*carried, return_exceptions=True)

    with asyncio.Runner(loop_factory=_loop) as runner:
        loop = runner.get_loop()
        thread = threading.Thread(target=runner.run, args=(listening(),), daemon=True)
        thread.start()
        ready.wait()
        try:
            yield started[0]
        finally:
            loop.call_soon_threadsafe(ended.set)
            thread.join()
