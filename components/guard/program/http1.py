"""HTTP/1.1 (RFC 9112), parsed so strictly that two parsers cannot disagree.

Heads of requests are parsed and written again; for bodies only the framing is checked. Everything
that two implementations are known to read differently is an error here. This is why h11 is not
used: h11 0.16 accepts bare line feeds, folded headers, repeated and listed lengths, a length
together with chunks, chunks in HTTP/1.0, chunk extensions and trailers, and reports none of them to
its caller.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_HEAD = 128 * 1024
"""Most bytes of a head, which includes the registry credentials of `docker build`."""
_MAX_HEADERS = 100
_REQUEST_LINE = re.compile(rb"([A-Z]{1,10}) (/[!-~]*) HTTP/1\.([01])")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: .*)?")
# Clients other than Docker's encode these characters in names of images. The daemon routes by the
# decoded path, so the guard sends it decoded: no percent sign is left to decode again.
_DECODED = {"%40": "@", "%3A": ":", "%2F": "/"}
_ENCODED = re.compile("|".join(_DECODED), re.IGNORECASE)
_PATH = re.compile(r"(?:/[A-Za-z0-9._~:@+-]+)+")
_QUERY = re.compile(r"[A-Za-z0-9._~:@/+%=&*!$'(),;?-]*")
_HEADER = re.compile(rb"([A-Za-z0-9!#$%&'*+.^_`|~-]+):([\t -~]*)")
_LENGTH = re.compile(rb"[0-9]{1,15}")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")
_LONGEST_CHUNK_LINE = 10

# The guard sets these headers itself, separately for each of the two connections.
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
    """A request that breaks the rules of HTTP; the text explains why."""


class Body:
    """Finds the end of a body: `length` bytes, the last chunk, or the end of the connection."""

    def __init__(self, length: int | None = 0, *, chunked: bool = False) -> None:
        self._left = 0 if chunked else length
        self._chunked = chunked
        self._wanted = "size"

    @property
    def done(self) -> bool:
        return not self._chunked and self._left == 0

    def take(self, data: bytes | bytearray) -> int:
        """How many of these bytes belong to the body. Raises Malformed.

        Bytes of an incomplete line of a chunk are not counted.
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
    """The headers that the daemon gets unchanged."""
    length: int | None
    """Content-Length; None with a chunked body."""
    upgrade: bool
    """Whether it requests h2c, the only allowed protocol; a chunked body must then be empty."""
    close: bool
    """Whether the connection ends after the response."""

    def body(self) -> Body:
        return Body(self.length, chunked=self.length is None)

    def encode(self) -> bytes:
        """The head as it is sent to the daemon."""
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
    """Parse a request's head, which ends with an empty line. Raises Malformed."""
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
                raise Malformed(f"the header {name.decode()} is repeated")
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
    # Without a body, its type has no meaning.
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
            f"the body has the type {kind.decode()[:60]}, which can hide parameters; next: send "
            "the type of an archive, as curl does with -H 'Content-Type: application/x-tar'"
        )
    return kind


def _body_length(single: dict[bytes, bytes], minor: int) -> int | None:
    length, encoding = single.get(b"content-length"), single.get(b"transfer-encoding")
    if encoding is not None:
        if length is not None or encoding.lower() != b"chunked" or not minor:
            raise Malformed("Transfer-Encoding is not only chunked, or is used with HTTP/1.0")
        return None
    if length is not None and not _LENGTH.fullmatch(length):
        raise Malformed("Content-Length is not one plain number")
    return int(length or 0)


@dataclass(frozen=True)
class Response:
    """The status and framing of one of the daemon's responses."""

    status: int
    body: Body
    close: bool
    """Whether the daemon closes the connection after it."""


def parse_response(data: bytes, method: str) -> Response:
    """Parse the head of the response to a request with this method. Raises Malformed."""
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
