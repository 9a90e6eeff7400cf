"""One client connection: handles each request until the connection ends or becomes a stream."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from .http1 import MAX_HEAD, Malformed, Request, Response, parse_head, parse_response
from .http2 import PREFACE, Broken, Calls
from .names import Hidden
from .rules import Kind, Refused, check, names_builds
from .stream import READ, Ended, Stream

HEAD_SECONDS = 30
"""Most seconds from a request's first byte to the end of its head."""
_DAEMON_SECONDS = 60
_LINGER_SECONDS = 2
_AFTER_END_SECONDS = 30
_END_OF_HEAD = b"\r\n\r\n"
_NO_CHUNKS = b"0\r\n\r\n"

Log = Callable[[str], None]


async def serve(connected: socket.socket, daemon_socket: str, log: Log) -> None:
    """Serve one client; the daemon listens on `daemon_socket`."""
    client, daemon = Stream(connected), None
    try:
        if await _begins_with_http2(client):
            daemon = await _dial(client, daemon_socket)
            await _stream(Kind.GRPC, client, daemon, log)
            return
        while request := await _next_request(client):
            try:
                kind = check(request.method, request.path, request.query)
                if request.upgrade != (kind is not Kind.PLAIN):
                    raise Refused(f"{request.method} {request.path} with this kind of upgrade")
            except Refused as refused:
                log(f"refused {request.method} {request.path[:200]}")
                await _answer(client, refused.status, str(refused))
                return
            if daemon is None:
                daemon = await _dial(client, daemon_socket)
            if not await _exchange(request, kind, client, daemon, log):
                return
    except (Malformed, Broken) as wrong:
        log(f"closed a connection: {wrong}")
        await _answer(client, 400, f"the guard of keys of role build rejects this request: {wrong}")
    except TimeoutError:
        await _answer(client, 408, "the request's head did not arrive in time")
    except Ended:
        pass
    finally:
        client.close()
        if daemon:
            daemon.close()


async def _begins_with_http2(client: Stream) -> bool:
    """Whether the client uses gRPC from the first byte, which Docker allows from API 1.53 on."""
    await client.fill()
    async with asyncio.timeout(HEAD_SECONDS):
        while PREFACE.startswith(client.buffer[:3]) and len(client.buffer) < 3:
            if client.ended:
                return False
            await client.fill()
    return client.buffer.startswith(PREFACE[:3])


async def _next_request(client: Stream) -> Request | None:
    while not client.buffer and not client.ended:
        await client.fill()
    if not client.buffer:
        return None
    async with asyncio.timeout(HEAD_SECONDS):
        request = parse_head(await _head(client))
        if request.upgrade and request.length is None:
            # Node's clients send an empty chunked body.
            if await client.take(len(_NO_CHUNKS)) != _NO_CHUNKS:
                raise Malformed("a request for an upgrade has a body")
            request = replace(request, length=0)
        return request


async def _head(stream: Stream) -> bytes:
    looked = 0
    while (end := stream.buffer.find(_END_OF_HEAD, max(0, looked - 3))) < 0:
        looked = len(stream.buffer)
        if stream.ended:
            raise Ended
        if looked > MAX_HEAD:
            raise Malformed("the head is too long")
        await stream.fill()
    return stream.drop(end + len(_END_OF_HEAD))


async def _dial(client: Stream, path: str) -> Stream:
    """Connect to the daemon, and wait while it starts or is being replaced. Raises Ended."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _DAEMON_SECONDS
    while True:
        connecting = socket.socket(socket.AF_UNIX)
        connecting.setblocking(False)
        try:
            await loop.sock_connect(connecting, path)
            return Stream(connecting)
        except OSError:
            connecting.close()
        if loop.time() > deadline or client.ended:
            message = "the builder is starting or being changed; next: try again in a minute"
            await _answer(client, 503, message)
            raise Ended
        await asyncio.sleep(0.2)


async def _answer(client: Stream, status: int, message: str) -> None:
    """Send an error in Docker's format, then end the connection."""
    body = json.dumps({"message": message}).encode() + b"\n"
    with contextlib.suppress(Ended):
        await client.send(
            b"HTTP/1.1 %d Refused\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\nConnection: close\r\n\r\n%b" % (status, len(body), body)
        )
        await _finish(client)


async def _finish(client: Stream) -> None:
    """End the connection, but not at once: a client that is still sending would lose the answer."""
    client.end()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_SECONDS):
            while not client.ended:
                client.buffer.clear()
                await client.fill()


async def _exchange(request: Request, kind: Kind, client: Stream, daemon: Stream, log: Log) -> bool:
    """Relay one request and its response; return whether another request may follow."""
    await daemon.send(request.encode())
    body = request.body()

    async def send() -> None:
        while not body.done:
            if count := body.take(client.buffer):
                await daemon.send(client.drop(count))
            elif client.ended:
                raise Malformed("the body is cut short")
            else:
                await client.fill()
        # Pass on the client's end, so that the daemon cancels the build of a client that is gone.
        while not client.ended and len(client.buffer) < READ:
            await client.fill()
        if client.ended and not client.buffer:
            daemon.end()

    sending = asyncio.create_task(send())
    receiving = asyncio.create_task(_receive(request, client, daemon))
    try:
        done, _ = await asyncio.wait({sending, receiving}, return_when=asyncio.FIRST_COMPLETED)
        # A daemon that stops reading the body may have answered already.
        if sending in done and not isinstance(sending.exception(), Ended):
            sending.result()
        response = await receiving
    finally:
        await _cancel(sending, receiving)
    if response.status == 101:
        await _stream(kind, client, daemon, log)
        return False
    if not body.done:
        await _finish(client)
    return body.done and not response.close and not request.close


async def _receive(request: Request, client: Stream, daemon: Stream) -> Response:
    """Pass on the daemon's response as it arrives."""
    while True:
        head = await _head(daemon)
        response = parse_response(head, request.method)
        await client.send(head)
        if response.status == 101 or response.status >= 200:
            break
    hidden = Hidden() if names_builds(request.path) else bytes
    while not response.body.done:
        if count := response.body.take(daemon.buffer):
            await client.send(hidden(daemon.drop(count)))
        elif daemon.ended:
            break
        else:
            await daemon.fill()
    return response


async def _stream(kind: Kind, client: Stream, daemon: Stream, log: Log) -> None:
    """Relay an upgraded connection until it ends."""
    if kind is Kind.GRPC:
        calls = Calls(
            client, daemon, lambda reason: log(f"refused {reason.partition(' is not ')[0]}")
        )
        await _first_of(calls.from_client(), calls.from_daemon())
        return
    # In a session the daemon is the client, and requests only what a build needs.
    there = asyncio.create_task(client.pour(daemon))
    back = asyncio.create_task(daemon.pour(client))
    try:
        done, _ = await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
        for way in done:
            way.result()
        await asyncio.wait({there, back}, timeout=_AFTER_END_SECONDS)
    finally:
        await _cancel(there, back)


async def _first_of(*ways: Coroutine[Any, Any, None]) -> None:
    tasks = [asyncio.create_task(way) for way in ways]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await _cancel(*tasks)


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
