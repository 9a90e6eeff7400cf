"""HTTP/1.1 (RFC 9112), read so strictly that no two readers can differ.

Heads of requests are taken apart and written anew; of bodies only the framing is followed. Whatever
two implementations have been known to read in two ways is an error here. That is why it is not h11:
h11 0.16 takes line feeds alone, folded headers, repeated and listed lengths, a length beside
chunks, chunks in HTTP/1.0, chunk extensions and trailers, and tells its caller of none of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_HEAD = 128 * 1024
"""Bytes of a head; registry credentials of `docker build` are part of it."""
_MAX_HEADERS = 100
_REQUEST_LINE = re.compile(rb"([A-Z]{1,10}) (/[!-~]*) HTTP/1\.([01])")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: .*)?")
# Clients other than Docker's encode these in the names of images. The daemon routes by the decoded
# path, and gets it decoded: no percent sign is left that it could decode again.
_DECODED = {"%40": "@", "%3A": ":", "%2F": "/"}
_ENCODED = re.compile("|".join(_DECODED), re.IGNORECASE)
_PATH = re.compile(r"(?:/[A-Za-z0-9._~:@+-]+)+")
_QUERY = re.compile(r"[A-Za-z0-9._~:@/+%=&*!$'(),;?-]*")
_HEADER = re.compile(rb"([A-Za-z0-9!#$%&'*+.^_`|~-]+):([\t -~]*)")
_LENGTH = re.compile(rb"[0-9]{1,15}")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")
_LONGEST_CHUNK_LINE = 10

# This side's own, for each of the two connections.
_HOP = {
    b"host",
    b"connection",
    b"content-length",
    b"transfer-encoding",
    b"upgrade",
    b"keep-alive",
    b"te",
    b"trailer",
    b"proxy-connection",
}
_ONCE = _HOP | {b"content-type", b"expect"}
_TYPE = re.compile(rb"[a-z0-9][a-z0-9.+_-]*/[a-z0-9][a-z0-9.+_-]*")
# Go adds the fields of a form in the body to those of the query.
_FORM = re.compile(rb"application/x-www-form-urlencoded|multipart/.*")


class Malformed(Exception):
    """A request that is not read, whatever it asks for; the text says why."""


class Body:
    """Where a body ends: after so many bytes, with the last chunk, or with the connection."""

    def __init__(self, length: int | None = 0, *, chunked: bool = False) -> None:
        self._left = 0 if chunked else length
        self._chunked = chunked
        self._wanted = "size"

    @property
    def done(self) -> bool:
        return not self._chunked and self._left == 0

    def take(self, data: bytes | bytearray) -> int:
        """How many of these bytes belong to the body. Raises Malformed.

        Bytes of a chunk's line that is not whole yet are not counted.
        """
        if not self._chunked:
            if self._left is None:
                return len(data)
            taken = min(self._left, len(data))
            self._left -= taken
            return taken
        at = 0
        while self._chunked and at < len(data):
            if self._wanted == "data":
                assert self._left is not None
                step = min(self._left, len(data) - at)
                self._left -= step
                at += step
                if not self._left:
                    self._wanted = "end"
            elif self._wanted == "size":
                match = _CHUNK.match(data, at)
                if not match:
                    if len(data) - at >= _LONGEST_CHUNK_LINE:
                        raise Malformed("the size of a chunk is not a plain hexadecimal number")
                    break
                at = match.end()
                self._left = int(match[1], 16)
                self._wanted = "data" if self._left else "last"
            else:
                if len(data) - at < 2:
                    break
                if data[at : at + 2] != b"\r\n":
                    raise Malformed("a chunk does not end where it says, or a trailer follows")
                at += 2
                self._chunked = self._wanted != "last"
                self._wanted = "size"
        return at


@dataclass(frozen=True)
class Request:
    """The head of one request."""

    method: str
    path: str
    query: str
    minor: int
    """0 or 1: of HTTP/1.0 or HTTP/1.1."""
    headers: tuple[tuple[bytes, bytes], ...]
    """Those that the daemon gets as they are."""
    length: int | None
    """Content-Length; None with a chunked body."""
    upgrade: bool
    """Whether it asks for h2c, the one protocol that there is; its chunked body must be empty."""
    close: bool
    """Whether its connection ends after the response."""

    def body(self) -> Body:
        return Body(self.length, chunked=self.length is None)

    def encode(self) -> bytes:
        """The head as the daemon gets it."""
        target = f"{self.path}?{self.query}" if self.query else self.path
        lines = [f"{self.method} {target} HTTP/1.{self.minor}".encode(), b"Host: docker"]
        lines += [name + b": " + value for name, value in self.headers]
        if self.length is None:
            lines.append(b"Transfer-Encoding: chunked")
        elif self.length or self.method == "POST":
            lines.append(b"Content-Length: %d" % self.length)
        if self.upgrade:
            lines += [b"Connection: Upgrade", b"Upgrade: h2c"]
        elif self.close and self.minor:
            lines.append(b"Connection: close")
        return b"\r\n".join(lines) + b"\r\n\r\n"


def parse_head(data: bytes) -> Request:
    """A request's head, the empty line at its end included. Raises Malformed."""
    first, *lines = _lines(data)
    match = _REQUEST_LINE.fullmatch(first)
    if not match:
        raise Malformed("the request line is not METHOD /path HTTP/1.1")
    path, _, query = match[2].decode("ascii").partition("?")
    path = _ENCODED.sub(lambda found: _DECODED[found[0].upper()], path)
    if not _PATH.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise Malformed("the path has empty or dot parts, or characters other than those of names")
    if not _QUERY.fullmatch(query):
        raise Malformed("the query has characters that are not percent-encoded")
    minor = int(match[3])
    single: dict[bytes, bytes] = {}
    headers = []
    for name, value in _headers(lines):
        lower = name.lower()
        if lower in _ONCE:
            if lower in single:
                raise Malformed(f"the header {name.decode()} comes twice")
            single[lower] = value
        if lower not in _HOP and lower != b"content-type":
            headers.append((name, value))
    connection = {word.strip().lower() for word in single.get(b"connection", b"").split(b",")}
    if connection - {b"", b"close", b"keep-alive", b"upgrade"}:
        raise Malformed("the header Connection names other headers")
    if single.get(b"expect", b"100-continue").lower() != b"100-continue":
        raise Malformed("the header Expect is not 100-continue")
    upgrade = single.get(b"upgrade")
    if (upgrade is not None) != (b"upgrade" in connection) or upgrade not in (None, b"h2c"):
        raise Malformed("an upgrade is not to h2c, or lacks one of its two headers")
    length = _body_length(single, minor)
    if match[1] != b"POST" and length != 0:
        raise Malformed("a request other than POST has a body")
    if upgrade is not None and (length or not minor):
        raise Malformed("a request for an upgrade has a body or is of HTTP/1.0")
    # Without a body its type says nothing.
    if length != 0 and b"content-type" in single:
        headers.append((b"Content-Type", _body_type(single[b"content-type"])))
    return Request(
        method=match[1].decode(),
        path=path,
        query=query,
        minor=minor,
        headers=tuple(headers),
        length=length,
        upgrade=upgrade is not None,
        close=b"close" in connection or not minor,
    )


def _lines(data: bytes) -> list[bytes]:
    if not data.endswith(b"\r\n\r\n") or len(data) > MAX_HEAD:
        raise Malformed("the head has no end, or is too long")
    lines = data[:-4].split(b"\r\n")
    if len(lines) > _MAX_HEADERS + 1:
        raise Malformed(f"there are more than {_MAX_HEADERS} headers")
    return lines


def _headers(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    headers = []
    for line in lines:
        match = _HEADER.fullmatch(line)
        if not match:
            raise Malformed("a header is not Name: value in printable ASCII, on one line")
        headers.append((match[1], match[2].strip(b" \t")))
    return headers


def _body_type(value: bytes) -> bytes:
    kind = value.partition(b";")[0].strip().lower()
    if not _TYPE.fullmatch(kind) or _FORM.fullmatch(kind):
        raise Malformed(
            f"the body is of the type {kind.decode()[:60]}, in which parameters could hide; next: "
            "name that of an archive, as curl does with -H 'Content-Type: application/x-tar'"
        )
    return kind


def _body_length(single: dict[bytes, bytes], minor: int) -> int | None:
    length, encoding = single.get(b"content-length"), single.get(b"transfer-encoding")
    if encoding is not None:
        if length is not None or encoding.lower() != b"chunked" or not minor:
            raise Malformed("Transfer-Encoding is not chunked alone, or HTTP/1.0 has it")
        return None
    if length is not None and not _LENGTH.fullmatch(length):
        raise Malformed("Content-Length is not one plain number")
    return int(length or 0)


@dataclass(frozen=True)
class Response:
    """What matters of the head of one of the daemon's responses."""

    status: int
    body: Body
    close: bool
    """Whether the daemon ends the connection after it."""


def parse_response(data: bytes, method: str) -> Response:
    """The head of the response to a request of this method. Raises Malformed."""
    first, *lines = _lines(data)
    match = _STATUS_LINE.fullmatch(first)
    if not match:
        raise Malformed("the daemon's status line is not HTTP/1.1 STATUS")
    status = int(match[2])
    headers = {}
    for line in lines:
        name, _, value = line.partition(b":")
        headers[name.strip().lower()] = value.strip()
    close = headers.get(b"connection", b"").lower() == b"close" or match[1] == b"0"
    length: int | None = None
    chunked = headers.get(b"transfer-encoding", b"").lower() == b"chunked"
    if method == "HEAD" or status < 200 or status in (204, 304):
        length, chunked = 0, False
    elif not chunked and b"content-length" in headers:
        if not _LENGTH.fullmatch(headers[b"content-length"]):
            raise Malformed("the daemon's Content-Length is not one plain number")
        length = int(headers[b"content-length"])
    return Response(
        status, Body(length, chunked=chunked), close or (length is None and not chunked)
    )
