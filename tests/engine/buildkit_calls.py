"""Calls to BuildKit, written by hand: those that no client of Docker sends."""

from __future__ import annotations

import hashlib
import secrets

import hpack

from components.guard.program.http2 import PREFACE, Frame, encode_headers

_DATA, _HEADERS, _SETTINGS = 0, 1, 4
_END_STREAM, _END_HEADERS = 0x1, 0x4
OPENING = PREFACE + Frame(_SETTINGS, 0, 0, b"").encode()
"""What a client sends before its calls."""


def call(path: str, message: bytes, stream: int = 1) -> bytes:
    """One call; the numbers of calls are odd and grow."""
    head = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path.encode()),
        (b":authority", b"docker"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    ]
    content = b"\x00" + len(message).to_bytes(4, "big") + message
    return (
        Frame(_HEADERS, _END_HEADERS, stream, encode_headers(head)).encode()
        + Frame(_DATA, _END_STREAM, stream, content).encode()
    )


def errors(heard: bytes) -> dict[int, str]:
    """The errors in what BuildKit sent on a connection, by the number of the call."""
    decoder, found = hpack.Decoder(), {}
    while len(heard) >= 9:
        end = 9 + int.from_bytes(heard[:3], "big")
        if heard[3] == _HEADERS:
            head = dict(decoder.decode(heard[9:end], raw=True))
            if b"grpc-message" in head:
                found[int.from_bytes(heard[5:9], "big")] = head[b"grpc-message"].decode()
        heard = heard[end:]
    return found


def field(number: int, *content: bytes | str) -> bytes:
    """A field of a protobuf message; its number is below 16."""
    value = b"".join(part.encode() if isinstance(part, str) else part for part in content)
    return bytes([number << 3 | 2]) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    return bytes([value & 0x7F | 0x80]) + _varint(value >> 7) if value > 0x7F else bytes([value])


def step(image: str, script: str, cgroup_parent: str = "", *, host_network: bool = False) -> bytes:
    """A request of a frontend (LLBBridge/Solve) to run a shell script in an image, uncached."""
    name = image if "/" in image else f"docker.io/library/{image}"
    local = field(2, field(1, "image.resolvemode"), field(2, "local"))
    source = field(3, field(1, f"docker-image://{name}"), local)
    meta = field(
        1,
        *(field(1, word) for word in ("/bin/sh", "-c", script)),
        field(2, "PATH=/bin"),
        field(2, f"NONCE={secrets.token_hex(8)}"),
        field(3, "/"),
        field(10, cgroup_parent) if cgroup_parent else b"",
    )
    network = b"\x18\x01" if host_network else b""
    run = _input(source) + field(2, meta, field(2, field(3, "/")), network)
    definition = field(1, *(field(1, operation) for operation in (source, run, _input(run))))
    # allowResultReturn, allowResultArrayRef, Evaluate
    return definition + b"\x28\x01\x30\x01\x70\x01"


def _input(operation: bytes) -> bytes:
    return field(1, field(1, f"sha256:{hashlib.sha256(operation).hexdigest()}"))
