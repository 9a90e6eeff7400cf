"""gRPC from client to daemon: checks the path of each call and, for some calls, the message.

HTTP/2 is RFC 9113. Frames are passed on unchanged, except heads of calls: these are decoded and
encoded again without HPACK's dynamic table, so that refused heads can be dropped. A refused call
gets an error that gRPC clients show to the user; other calls on the connection continue.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from urllib.parse import quote

import hpack
from hpack.struct import NeverIndexedHeaderTuple

from .names import Hidden
from .rules import Message, Refused, check_call, names_builds
from .stream import Stream

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MAX_FRAME = 1024 * 1024
"""Most bytes of a client's frame, which is the most that Go's server announces."""
MAX_HEADERS = 12 * 1024
"""Most bytes of a call's head, encoded or decoded; they fit into a frame of the minimum size."""
_MAX_CALLS = 1000

_DATA, _HEADERS, _PRIORITY, _RST_STREAM, _SETTINGS, _PUSH_PROMISE = 0, 1, 2, 3, 4, 5
_PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 6, 7, 8, 9
_OF_CONNECTION = {_SETTINGS, _PING, _GOAWAY}
_END_STREAM, _END_HEADERS, _PADDED, _WITH_PRIORITY = 0x1, 0x4, 0x8, 0x20
_NO_ERROR, _CANCEL = 0, 8
_PERMISSION_DENIED = 7

_NAME = re.compile(rb"[a-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(rb"[\t -~]*")
_PSEUDO = {b":method", b":scheme", b":path", b":authority"}
_ONCE = {b"content-type", b"grpc-encoding"}
_OF_HTTP1 = {b"connection", b"transfer-encoding", b"upgrade", b"keep-alive", b"proxy-connection"}


class Broken(Exception):
    """A violation of HTTP/2 or gRPC; the guard closes the connection."""


@dataclass(frozen=True)
class Frame:
    type: int
    flags: int
    stream: int
    payload: bytes

    def encode(self) -> bytes:
        length = len(self.payload).to_bytes(3, "big")
        return (
            length + bytes((self.type, self.flags)) + self.stream.to_bytes(4, "big") + self.payload
        )

    def content(self) -> bytes:
        """The payload without padding and priority. Raises Broken."""
        data = self.payload
        if self.flags & _PADDED:
            if not data or data[0] >= len(data):
                raise Broken("padding is longer than its frame")
            data = data[1 : len(data) - data[0]]
        if self.type == _HEADERS and self.flags & _WITH_PRIORITY:
            if len(data) < 5:
                raise Broken("a priority is cut short")
            data = data[5:]
        return data


async def read_frame(stream: Stream, largest: int) -> Frame | None:
    """The next frame; None at the end of the connection. Raises Broken, Ended."""
    while not stream.buffer and not stream.ended:
        await stream.fill()
    if not stream.buffer:
        return None
    head = await stream.take(9)
    length = int.from_bytes(head[:3], "big")
    if length > largest:
        raise Broken(f"a frame has {length} bytes")
    number = int.from_bytes(head[5:], "big") & 0x7FFFFFFF
    return Frame(head[3], head[4], number, await stream.take(length))


def encode_headers(headers: list[tuple[bytes, bytes]]) -> bytes:
    """A header block that does not use or change the decoder's dynamic table."""
    plain = [NeverIndexedHeaderTuple(name, value) for name, value in headers]
    return hpack.Encoder().encode(plain, huffman=False)


def path_of(headers: list[tuple[bytes, bytes]]) -> str:
    """The gRPC method in a call's head. Raises Broken when this is not the head of a gRPC call."""
    values: dict[bytes, bytes] = {}
    for name, value in headers:
        pseudo = name.startswith(b":")
        if pseudo and (name not in _PSEUDO or set(values) - _PSEUDO):
            raise Broken("a pseudo header is unknown or follows other headers")
        if not (pseudo or _NAME.fullmatch(name)) or not _VALUE.fullmatch(value):
            raise Broken("a header is not printable ASCII in lower case")
        if name in _OF_HTTP1 or (name in values and (pseudo or name in _ONCE)):
            raise Broken(f"the header {name.decode()} is out of place")
        values[name] = value
    if values.get(b":method") != b"POST" or b":path" not in values:
        raise Broken("a call is not POST with a path")
    if not values.get(b"content-type", b"").startswith(b"application/grpc"):
        raise Broken("a call is not gRPC")
    # The daemon compresses its answer as the client compresses its call.
    if values.get(b"grpc-encoding", b"identity") != b"identity":
        raise Broken("a call is compressed")
    return values[b":path"].decode()


@dataclass
class _Call:
    """One call that was passed on to the daemon."""

    message: Message | None
    hidden: Hidden | None
    """Set if the daemon's answer names builds."""
    client_ended: bool = False
    daemon_ended: bool = False


class Calls:
    """The calls of one connection."""

    def __init__(self, client: Stream, daemon: Stream, refused: Callable[[str], None]) -> None:
        """`refused` is called with the message of each refusal."""
        self._client, self._daemon, self._refused = client, daemon, refused
        self._decoder = hpack.Decoder(max_header_list_size=MAX_HEADERS)
        self._open: dict[int, _Call] = {}
        self._last = 0
        # Both directions send to the client; the lock keeps their frames whole.
        self._sending_to_client = asyncio.Lock()

    async def from_daemon(self) -> None:
        """Pass on the daemon's frames until its connection ends. Raises Ended, Broken."""
        while frame := await read_frame(self._daemon, (1 << 24) - 1):
            data = self._shown(frame).encode()
            last = frame
            while frame.type in (_HEADERS, _PUSH_PROMISE) and not last.flags & _END_HEADERS:
                following = await read_frame(self._daemon, (1 << 24) - 1)
                if following is None or following.type != _CONTINUATION:
                    raise Broken("the daemon's head has no end")
                last = following
                data += last.encode()
            async with self._sending_to_client:
                await self._client.send(data)
            if frame.type == _RST_STREAM:
                self._open.pop(frame.stream, None)
            elif frame.type in (_DATA, _HEADERS) and frame.flags & _END_STREAM:
                self._ended(frame.stream, of_client=False)
        self._client.end()

    def _shown(self, frame: Frame) -> Frame:
        """The daemon's frame without names of builds."""
        if frame.type != _DATA:
            return frame
        call = self._open.get(frame.stream)
        if call is None:
            # The client has reset the call, and only counts the bytes of what is still answered.
            return replace(frame, payload=bytes(len(frame.payload)))
        return replace(frame, payload=call.hidden(frame.payload)) if call.hidden else frame

    async def from_client(self) -> None:
        """Check and pass on the client's frames until its connection ends. Raises Ended, Broken."""
        if await self._client.take(len(PREFACE)) != PREFACE:
            raise Broken("the connection does not begin with HTTP/2's preface")
        await self._daemon.send(PREFACE)
        while frame := await read_frame(self._client, MAX_FRAME):
            if frame.type == _HEADERS:
                await self._begin(frame)
            elif frame.type == _DATA:
                await self._data(frame)
            elif frame.type in (_CONTINUATION, _PUSH_PROMISE):
                raise Broken("a frame is out of place")
            elif self._passes(frame):
                await self._daemon.send(frame.encode())
        self._daemon.end()

    def _passes(self, frame: Frame) -> bool:
        if frame.type == _RST_STREAM:
            return self._open.pop(frame.stream, None) is not None
        if frame.type == _WINDOW_UPDATE:
            return frame.stream == 0 or frame.stream in self._open
        return frame.type in _OF_CONNECTION

    async def _begin(self, frame: Frame) -> None:
        block = frame.content()
        last = frame
        while not last.flags & _END_HEADERS:
            following = await read_frame(self._client, MAX_FRAME)
            if (
                following is None
                or (following.type, following.stream)
                != (
                    _CONTINUATION,
                    frame.stream,
                )
                or not following.payload
            ):
                raise Broken("a head has no end")
            last = following
            block += last.payload
            if len(block) > MAX_HEADERS:
                raise Broken("a head is too long")
        if frame.stream <= self._last or not frame.stream % 2 or len(self._open) >= _MAX_CALLS:
            raise Broken("a call has a number out of order, or there are too many")
        self._last = frame.stream
        try:
            headers = [(name, value) for name, value in self._decoder.decode(block, raw=True)]
        except hpack.HPACKError as error:
            raise Broken(f"a head cannot be decoded ({error})") from None
        ended = bool(frame.flags & _END_STREAM)
        path = path_of(headers)
        try:
            message = check_call(path)
        except Refused as refused:
            await self._refuse(frame.stream, str(refused), ended)
            return
        hidden = Hidden() if names_builds(path) else None
        self._open[frame.stream] = _Call(message, hidden, client_ended=ended)
        flags = _END_HEADERS | (frame.flags & _END_STREAM)
        encoded = replace(frame, flags=flags, payload=encode_headers(headers))
        await self._daemon.send(encoded.encode())

    async def _data(self, frame: Frame) -> None:
        call = self._open.get(frame.stream)
        if call and not call.client_ended:
            ended = bool(frame.flags & _END_STREAM)
            content = frame.content()
            try:
                if call.message:
                    call.message.feed(content)
            except Refused as refused:
                del self._open[frame.stream]
                await self._reset(self._daemon, frame.stream, _CANCEL)
                await self._refuse(frame.stream, str(refused), ended)
            else:
                await self._daemon.send(frame.encode())
                if ended:
                    self._ended(frame.stream, of_client=True)
                return
        # The client counts these bytes against the connection's window, so the guard returns them.
        if frame.payload:
            more = len(frame.payload).to_bytes(4, "big")
            async with self._sending_to_client:
                await self._client.send(Frame(_WINDOW_UPDATE, 0, 0, more).encode())

    def _ended(self, stream: int, *, of_client: bool) -> None:
        if call := self._open.get(stream):
            call.client_ended |= of_client
            call.daemon_ended |= not of_client
            if call.client_ended and call.daemon_ended:
                del self._open[stream]

    async def _refuse(self, stream: int, reason: str, ended: bool) -> None:
        self._refused(reason)
        block = encode_headers(
            [
                (b":status", b"200"),
                (b"content-type", b"application/grpc"),
                (b"grpc-status", b"%d" % _PERMISSION_DENIED),
                (b"grpc-message", quote(reason, safe=" !\"#$&'()*+,-./:;<=>?@[]^_`{|}~").encode()),
            ]
        )
        async with self._sending_to_client:
            await self._client.send(
                Frame(_HEADERS, _END_STREAM | _END_HEADERS, stream, block).encode()
            )
        if not ended:
            async with self._sending_to_client:
                await self._reset(self._client, stream, _NO_ERROR)

    @staticmethod
    async def _reset(to: Stream, stream: int, code: int) -> None:
        await to.send(Frame(_RST_STREAM, 0, stream, code.to_bytes(4, "big")).encode())
