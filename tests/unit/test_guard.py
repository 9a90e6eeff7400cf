"""What the guard passes on to the daemon, and how strictly it parses, down to the byte."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import hpack
import pytest

from components.guard.program.http1 import MAX_HEAD, Body, Malformed, parse_head
from components.guard.program.http2 import (
    MAX_HEADERS,
    PREFACE,
    Broken,
    Calls,
    Frame,
    path_of,
)
from components.guard.program.names import Hidden
from components.guard.program.protobuf import Fields
from components.guard.program.relay import serve
from components.guard.program.rules import Kind, Message, Refused, check, check_call
from components.guard.program.stream import Stream
from tests.mutations import mutated

CONTROL = "/moby.buildkit.v1.Control/"
BRIDGE = "/moby.buildkit.v1.frontend.LLBBridge/"


@pytest.mark.parametrize(
    ("request_line", "kind"),
    [
        ("HEAD /_ping", Kind.PLAIN),
        ("GET /v1.41/version", Kind.PLAIN),
        ("GET /v1.51/info", Kind.PLAIN),
        ("GET /v1.41/images/json?all=1", Kind.PLAIN),
        ("GET /v1.41/images/localhost:5000/a/b:1.0/json", Kind.PLAIN),
        ("GET /v1.41/images/a@sha256:00ff/history", Kind.PLAIN),
        ("GET /v1.41/images/get?names=a", Kind.PLAIN),
        ("GET /v1.55/images/a/b:1/attestations?platform=%7B%7D", Kind.PLAIN),
        ("GET /v1.54/images/json?identity=1&manifests=1", Kind.PLAIN),
        ("GET /v1.41/containers/json", Kind.PLAIN),
        ("GET /v1.41/distribution/a/b/json", Kind.PLAIN),
        ("POST /v1.41/build?t=a&networkmode=default&version=2&cgroupparent=", Kind.PLAIN),
        ("POST /v1.41/build?buildargs=%7B%22a%22%3A%22b%3B%22%7D&networkmode=none", Kind.PLAIN),
        ("POST /v1.41/images/create?fromImage=a&tag=1", Kind.PLAIN),
        ("POST /v1.41/images/localhost:5000/a/push?tag=1", Kind.PLAIN),
        ("POST /v1.41/images/a/tag?repo=b", Kind.PLAIN),
        ("POST /images/load", Kind.PLAIN),
        ("POST /auth", Kind.PLAIN),
        ("POST /session", Kind.SESSION),
        ("POST /v1.41/grpc", Kind.GRPC),
    ],
)
def test_calls_that_builds_need_are_allowed(request_line: str, kind: Kind) -> None:
    method, target = request_line.split(" ")
    assert check(method, *target.partition("?")[::2]) is kind


@pytest.mark.parametrize(
    "request_line",
    [
        "POST /containers/create",
        "POST /v1.41/containers/a/start",
        "POST /v1.41/containers/a/exec",
        "POST /v1.41/exec/a/start",
        "POST /v1.41/containers/a/attach",
        "GET /v1.41/containers/a/attach/ws",
        "GET /v1.41/containers/a/archive",
        "PUT /v1.41/containers/a/archive",
        "GET /v1.41/containers/a/export",
        "GET /v1.41/containers/a/logs",
        "GET /v1.41/containers/a/top",
        "GET /v1.41/events",
        "POST /v1.41/commit",
        "POST /v1.41/build/prune",
        "POST /v1.41/images/prune",
        "POST /v1.41/containers/prune",
        "DELETE /v1.41/images/a",
        "DELETE /v1.41/volumes/a",
        "POST /v1.41/volumes/create",
        "POST /v1.41/networks/create",
        "POST /v1.41/plugins/pull",
        "POST /v1.41/swarm/init",
        "GET /v1.41/secrets",
        "GET /v1.41/anything/new",
        "PATCH /_ping",
        "GET /v1.41/IMAGES/json",
        "GET /V1.41/images/json",
        "GET /v1.41/v1.41/images/json",
        "GET /v2/images/json",
        "GET /v1.41/images/json/",
        "POST /v1.41/build/",
    ],
)
def test_all_other_calls_are_refused_by_name_with_the_next_step(request_line: str) -> None:
    method, path = request_line.split(" ")
    with pytest.raises(Refused, match=r"role build .* next: use a key of role admin") as refused:
        check(method, path, "")
    assert str(refused.value).startswith(request_line)
    assert refused.value.status == 403


def test_docker_inspect_finds_the_image_after_a_hidden_container() -> None:
    with pytest.raises(Refused) as refused:
        check("GET", "/v1.41/containers/alpine:3/json", "")
    assert refused.value.status == 404


@pytest.mark.parametrize(
    "query",
    [
        "networkmode=host",
        "networkmode=container:a",
        "networkmode=team-network",
        "network%6dode=host",
        "networkmode=%68ost",
        "networkmode=default&networkmode=host",
        "networkmode=default;networkmode=host",
        "t=a%",
        "cgroupparent=/x",
        "securityopt=seccomp=unconfined",
        "privileged=1",
        "NetworkMode=host",
        "isolation=hyperv",
    ],
)
def test_a_build_gets_no_other_network_or_privileges(query: str) -> None:
    with pytest.raises(Refused, match="a build with"):
        check("POST", "/v1.41/build", query)


def head(*lines: str) -> bytes:
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode("latin-1")


@pytest.mark.parametrize(
    "data",
    [
        head("GET  /_ping HTTP/1.1"),
        head("GET /_ping HTTP/1.1 "),
        head("GET /_ping HTTP/2.0"),
        head("GET /_ping"),
        head("get /_ping HTTP/1.1"),
        head("GET http://docker/_ping HTTP/1.1"),
        head("OPTIONS * HTTP/1.1"),
        head("GET /a/../_ping HTTP/1.1"),
        head("GET /./_ping HTTP/1.1"),
        head("GET //_ping HTTP/1.1"),
        head("GET /_ping/ HTTP/1.1"),
        head("GET /%5Fping HTTP/1.1"),
        head("GET /images/a%2F..%2Fjson HTTP/1.1"),
        head("GET /images/a%2F%2e%2e/json HTTP/1.1"),
        head("GET /images/a%2F/json HTTP/1.1"),
        head("GET %2Fimages/a/json HTTP/1.1"),
        head("GET /images/a%252Fjson HTTP/1.1"),
        head("GET /images/a%2525/json HTTP/1.1"),
        head("GET /images/a%3Fall=1/json HTTP/1.1"),
        head("GET /images/a%0Ab/json HTTP/1.1"),
        head("GET /images/a%00/json HTTP/1.1"),
        head("GET /images/a%4/json HTTP/1.1"),
        head("GET /_ping# HTTP/1.1"),
        head("GET /_ping\\x HTTP/1.1"),
        head('GET /info?a="x" HTTP/1.1'),
        head("GET /_ping HTTP/1.1", "Host: a", "Host: b"),
        head("GET /_ping HTTP/1.1", " folded: a"),
        head("GET /_ping HTTP/1.1", "A: b", "\tfolded"),
        head("GET /_ping HTTP/1.1", "A : b"),
        head("GET /_ping HTTP/1.1", ": b"),
        head("GET /_ping HTTP/1.1", "A: b\x00"),
        head("GET /_ping HTTP/1.1", "A: b\nX: y"),
        head("GET /_ping HTTP/1.1", "A: b\rX: y"),
        head("GET /_ping HTTP/1.1", "A: \xfc"),
        head("GET /_ping HTTP/1.1", "Content-Length: 5"),
        head("GET /_ping HTTP/1.1", "Transfer-Encoding: chunked"),
        head("POST /auth HTTP/1.1", "Content-Length: 5", "Content-Length: 5"),
        head("POST /auth HTTP/1.1", "Content-Length: 5, 5"),
        head("POST /auth HTTP/1.1", "Content-Length: +5"),
        head("POST /auth HTTP/1.1", "Content-Length: 0x5"),
        head("POST /auth HTTP/1.1", "Content-Length: -1"),
        head("POST /auth HTTP/1.1", "Content-Length:"),
        head("POST /auth HTTP/1.1", "Content-Length: 5", "Transfer-Encoding: chunked"),
        head("POST /auth HTTP/1.1", "Transfer-Encoding: gzip, chunked"),
        head("POST /auth HTTP/1.1", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
        head("POST /auth HTTP/1.1", "Transfer-Encoding: xchunked"),
        head("POST /auth HTTP/1.0", "Transfer-Encoding: chunked"),
        head("POST /auth HTTP/1.1", "Connection: close, Content-Length"),
        head("POST /auth HTTP/1.1", "Expect: 200-ok"),
        *[
            head("POST /build HTTP/1.1", length, f"Content-Type: {kind}")
            for length in ("Content-Length: 9", "Transfer-Encoding: chunked")
            for kind in (
                "application/x-www-form-urlencoded",
                "Application/X-WWW-Form-Urlencoded; charset=a",
                " application/x-www-form-urlencoded\t;",
                "multipart/form-data; boundary=a",
                "multipart/mixed",
                "",
                "tar",
                "application/x-tar, application/x-www-form-urlencoded",
                '"application/x-www-form-urlencoded"',
                "application/x-www-form-urlencoded/x-tar",
            )
        ],
        head("POST /build HTTP/1.1", "Content-Type: text/plain", "content-type: text/plain"),
        head("POST /grpc HTTP/1.1", "Upgrade: h2c"),
        head("POST /grpc HTTP/1.1", "Connection: Upgrade"),
        head("POST /grpc HTTP/1.1", "Connection: Upgrade", "Upgrade: websocket"),
        head("POST /grpc HTTP/1.1", "Connection: Upgrade", "Upgrade: h2c", "Content-Length: 5"),
        head("POST /grpc HTTP/1.0", "Connection: Upgrade", "Upgrade: h2c"),
        head("GET /_ping HTTP/1.1", *["A: b"] * 101),
        head("GET /_ping HTTP/1.1", "A: " + "b" * MAX_HEAD),
        b"GET /_ping HTTP/1.1\n\n",
        b"PRI * HTTP/2.0\r\n\r\n",
    ],
    ids=lambda data: data[:60].decode("latin-1").replace("\r\n", "|"),
)
def test_an_ambiguous_request_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        parse_head(data)


def test_a_head_is_rewritten_from_its_meaning() -> None:
    request = parse_head(
        head(
            "POST /v1.41/build?t=a%2Fb HTTP/1.1",
            "host: evil",
            "x-registry-config:\t e30= ",
            "TRANSFER-ENCODING: Chunked",
            "connection: Keep-Alive",
            "TE: trailers",
            "Trailer: Host",
            "content-type: APPLICATION/X-tar; charset=x-user-defined",
        )
    )
    assert request.encode() == (
        b"POST /v1.41/build?t=a%2Fb HTTP/1.1\r\nHost: docker\r\nx-registry-config: e30=\r\n"
        b"Content-Type: application/x-tar\r\nTransfer-Encoding: chunked\r\n\r\n"
    )


DIGEST = "sha256:" + "0" * 64
DOCKER_PY = (
    "Host: localhost",
    "User-Agent: docker-sdk-python/7.2.0",
    "Accept-Encoding: gzip, deflate",
    "Accept: */*",
    "Connection: keep-alive",
)
AIODOCKER = (
    "Host: localhost",
    "Content-Type: application/json",
    "Accept: */*",
    "Accept-Encoding: gzip, deflate",
    "User-Agent: Python/3.11 aiohttp/3.14.5",
)
DOCKERODE = ("Host: localhost", "Connection: keep-alive")
DOCKER_JAVA = (
    "accept: application/json",
    "Accept-Encoding: gzip, x-gzip, deflate",
    "Host: localhost:2375",
    "Connection: keep-alive",
    "User-Agent: Apache-HttpClient/5.0.3 (Java/17.0.15)",
)
CURL = ("Host: x", "User-Agent: curl/7.88.1", "Accept: */*")
TAR, GZIP, JSON = (f"Content-Type: application/{kind}" for kind in ("tar", "gzip", "json"))
FORM = "Content-Type: application/x-www-form-urlencoded"
CHUNKED = "Transfer-Encoding: chunked"


# Requests of docker-py 7.2.0, aiodocker 0.27.0, dockerode 5 with docker-modem 5.0, docker-java
# 3.4.2 (Testcontainers 1.21.3) and curl 7.88.1, recorded between client and daemon.
@pytest.mark.parametrize(
    ("lines", "wanted", "kind"),
    [
        (
            (f"GET /v1.41/images/localhost:1/recorded/a%40{DIGEST}/json HTTP/1.1", *DOCKER_PY),
            f"GET /v1.41/images/localhost:1/recorded/a@{DIGEST}/json",
            None,
        ),
        (
            (
                f"GET /v1.41/distribution/localhost:1/recorded/a%40{DIGEST}/json HTTP/1.1",
                *DOCKER_PY,
            ),
            f"GET /v1.41/distribution/localhost:1/recorded/a@{DIGEST}/json",
            None,
        ),
        (
            (
                "GET /v1.41/images/json?only_ids=0&all=0&filters=%7B%22reference%22%3A+"
                "%5B%22recorded%2Fx+y%22%5D%7D HTTP/1.1",
                *DOCKER_PY,
            ),
            "GET /v1.41/images/json?only_ids=0&all=0&filters=%7B%22reference%22%3A+"
            "%5B%22recorded%2Fx+y%22%5D%7D",
            None,
        ),
        (
            (
                "POST /v1.41/build?t=recorded%3A2&q=False&nocache=False&rm=False&forcerm=False"
                "&pull=False HTTP/1.1",
                *DOCKER_PY,
                TAR,
                "Content-Encoding: gzip",
                "Content-Length: 222",
            ),
            "POST /v1.41/build?t=recorded%3A2&q=False&nocache=False&rm=False&forcerm=False"
            "&pull=False",
            "application/tar",
        ),
        (
            ("POST /v1.41/images/load HTTP/1.1", *DOCKER_PY, "Content-Length: 177"),
            "POST /v1.41/images/load",
            None,
        ),
        (
            (
                f"POST /v1.41/images/create?fromImage=localhost:1/recorded/a@{DIGEST} HTTP/1.1",
                *AIODOCKER,
                "Content-Length: 0",
            ),
            f"POST /v1.41/images/create?fromImage=localhost:1/recorded/a@{DIGEST}",
            None,
        ),
        (
            (
                "POST /v1.41/build?t=recorded:1&rm=1&q=0&pull=0&nocache=0&forcerm=0"
                "&buildargs=%7B%22A%22:+%22b+c%22%7D HTTP/1.1",
                "Host: localhost",
                "content-type: application/x-tar",
                "Content-Encoding: gzip",
                "Accept: */*",
                "Accept-Encoding: gzip, deflate",
                "User-Agent: Python/3.11 aiohttp/3.14.5",
                CHUNKED,
            ),
            "POST /v1.41/build?t=recorded:1&rm=1&q=0&pull=0&nocache=0&forcerm=0"
            "&buildargs=%7B%22A%22:+%22b+c%22%7D",
            "application/x-tar",
        ),
        (
            (
                "POST /session HTTP/1.1",
                "Upgrade: h2c",
                "X-Docker-Expose-Session-Uuid: 12183221-a7b1-4f63-96e5-8965da5563c0",
                "X-Docker-Expose-Session-Name: testcontainers",
                CHUNKED,
                "Connection: Upgrade",
                "Host: localhost",
            ),
            "POST /session",
            None,
        ),
        (
            ("POST /images/load HTTP/1.1", TAR, *DOCKERODE, CHUNKED),
            "POST /images/load",
            "application/tar",
        ),
        (
            (f"GET /images/localhost:1%2Frecorded%2Fa@{DIGEST}/json HTTP/1.1", *DOCKER_JAVA),
            f"GET /images/localhost:1/recorded/a@{DIGEST}/json",
            None,
        ),
        (
            (
                "POST /images/localhost:1%2Frecorded%2Fa/push?tag=1 HTTP/1.1",
                JSON,
                *DOCKER_JAVA,
                "Content-Length: 4",
            ),
            "POST /images/localhost:1/recorded/a/push?tag=1",
            "application/json",
        ),
        (
            (
                "POST /build?t=recorded%3A2&rm=true HTTP/1.1",
                TAR,
                "encoding: gzip",
                *DOCKER_JAVA,
                CHUNKED,
            ),
            "POST /build?t=recorded%3A2&rm=true",
            "application/tar",
        ),
        (
            ("GET /v1.41/images/localhost%3A1%2Frecorded%2Fa%3A1/json HTTP/1.1", *CURL),
            "GET /v1.41/images/localhost:1/recorded/a:1/json",
            None,
        ),
        (
            ("POST /v1.41/build?t=recorded:2 HTTP/1.1", *CURL, GZIP, "Content-Length: 177"),
            "POST /v1.41/build?t=recorded:2",
            "application/gzip",
        ),
        (
            (
                "POST /v1.41/images/recorded:2/tag?repo=localhost:1/recorded/a&tag=1 HTTP/1.1",
                *CURL,
                "Content-Length: 0",
                FORM,
            ),
            "POST /v1.41/images/recorded:2/tag?repo=localhost:1/recorded/a&tag=1",
            None,
        ),
        (
            ("POST /v1.41/images/load HTTP/1.1", *CURL, CHUNKED, "Expect: 100-continue"),
            "POST /v1.41/images/load",
            None,
        ),
    ],
    ids=lambda value: value.split("?")[0].replace(DIGEST, "D") if isinstance(value, str) else "",
)
def test_requests_of_other_clients_are_read_and_reach_the_daemon_decoded(
    lines: tuple[str, ...], wanted: str, kind: str | None
) -> None:
    request = parse_head(head(*lines))
    check(request.method, request.path, request.query)
    written = request.encode()
    assert written.startswith(f"{wanted} HTTP/1.1\r\nHost: docker\r\n".encode())
    kinds = [value.decode() for name, value in request.headers if name == b"Content-Type"]
    assert kinds == [kind] * bool(kind)
    assert parse_head(written).encode() == written


@pytest.mark.parametrize(
    ("lines", "refused"),
    [
        (("POST /v1.41/containers/create HTTP/1.1", *DOCKER_PY, JSON, "Content-Length: 9"), 403),
        (("POST /containers/create HTTP/1.1", JSON, *DOCKER_JAVA, CHUNKED), 403),
        (("POST /v1.41/containers%2Fa%2Fstart HTTP/1.1", *CURL), 403),
        (("DELETE /v1.41/images/localhost:1%2Frecorded%2Fa HTTP/1.1", *DOCKER_JAVA), 403),
        (("GET /v1.41/containers/localhost%3A1%2Fa/json HTTP/1.1", *CURL), 404),
    ],
)
def test_other_clients_are_refused_by_the_rules_and_not_for_their_form(
    lines: tuple[str, ...], refused: int
) -> None:
    request = parse_head(head(*lines))
    with pytest.raises(Refused) as report:
        check(request.method, request.path, request.query)
    assert report.value.status == refused


def test_the_error_for_a_form_names_the_right_content_type() -> None:
    """curl sends its data as a form by default."""
    with pytest.raises(Malformed, match=r"next: .* curl does with -H 'Content-Type: applicat"):
        parse_head(head("POST /build HTTP/1.1", *CURL, "Content-Length: 177", FORM))


@pytest.mark.parametrize(
    ("data", "taken"),
    [
        (b"3\r\nabc\r\n0\r\n\r\nGET", 13),
        (b"000000A\r\n0123456789\r\n0\r\n\r\n", 26),
        (b"3\r\nab", 5),
        (b"3\r", 0),
    ],
)
def test_a_chunked_body_ends_with_its_last_chunk(data: bytes, taken: int) -> None:
    body = Body(chunked=True)
    assert body.take(data) == taken
    assert body.done == (b"0\r\n\r\n" in data)


@pytest.mark.parametrize(
    "data",
    [
        b"3;a=b\r\nabc\r\n0\r\n\r\n",
        b"3 \r\nabc\r\n0\r\n\r\n",
        b"0x3\r\nabc\r\n0\r\n\r\n",
        b"-3\r\nabc\r\n0\r\n\r\n",
        b"3\nabc\n0\n\n1234567",
        b"3\r\nabcd\r\n0\r\n\r\n",
        b"123456789\r\nabc\r\n",
        b"\r\n3\r\nabc\r\n0\r\n\r\n",
        b"0\r\nHost: evil\r\n\r\n",
    ],
)
def test_a_chunk_that_is_not_plain_ends_the_connection(data: bytes) -> None:
    with pytest.raises(Malformed):
        Body(chunked=True).take(data)


def test_every_accepted_head_is_forwarded_as_it_was_understood() -> None:
    """Seeded random changes of real heads. Parsing the rewritten head gives the same request."""
    chance = random.Random(10)
    seeds = [
        head(
            "POST /v1.41/build?networkmode=default&t=a HTTP/1.1",
            "Host: a",
            "Content-Type: application/x-tar",
            "Transfer-Encoding: chunked",
        ),
        head("POST /v1.41/images/create?fromImage=a HTTP/1.1", "Host: a", "X-Registry-Auth: e30="),
        head("GET /v1.41/images/a/b:1/json HTTP/1.1", "Host: a", "Connection: close"),
        head("POST /grpc HTTP/1.1", "Host: a", "Connection: Upgrade", "Upgrade: h2c"),
        head("POST /auth HTTP/1.1", "Host: a", "Content-Length: 17"),
        head("POST /v1.41/images/a%2Fb%3A1/tag?repo=a HTTP/1.1", "Host: a"),
        head(f"GET /images/a%2fb%40{DIGEST}/json HTTP/1.1", "Host: a"),
    ]
    taken = 0
    for _ in range(20_000):
        data = mutated(chance, chance.choice(seeds))
        try:
            request = parse_head(data)
        except Malformed:
            continue
        taken += 1
        written = request.encode()
        again = parse_head(written)
        assert (again.method, again.path, again.query, again.headers, again.length) == (
            request.method,
            request.path,
            request.query,
            request.headers,
            request.length,
        )
        assert again.encode() == written
        names = [line.partition(b":")[0].lower() for line in written.split(b"\r\n")[1:-2]]
        assert names.count(b"host") == 1
        assert names.count(b"content-length") + names.count(b"transfer-encoding") <= 1
        assert b"%" not in request.path.encode()
    assert taken > 500


def pieces(chance: random.Random, data: bytes) -> list[bytes]:
    cuts = sorted(chance.randrange(len(data) + 1) for _ in range(4))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def test_the_split_of_bytes_does_not_matter() -> None:
    """Seeded: chunked bodies and protobuf messages, whole and in pieces."""
    chance = random.Random(11)
    good_body = b"5\r\nhello\r\n1a\r\n" + b"x" * 26 + b"\r\n0\r\n\r\nrest"
    good_message = (
        b"\x0a\x03abc\x10\x96\x01\x12\x0a\x0a\x01k\x1a\x05\x22\x03abc"
        b"\x4a\x01x\x3d1234\x41" + b"8" * 8
    )

    def read_body(parts: list[bytes]) -> tuple[int, bool] | None:
        body, kept, total = Body(chunked=True), b"", 0
        for part in parts:
            kept += part
            try:
                taken = body.take(kept)
            except Malformed:
                return None
            kept = kept[taken:]
            total += taken
        return total, body.done

    def read_message(parts: list[bytes]) -> object:
        fields = Fields((2, 1), (2, 3, 4))
        try:
            for part in parts:
                fields.feed(part)
            fields.end()
        except ValueError:
            return None
        return fields.lengths, fields.texts

    assert read_message([good_message]) == (
        {(1,): 3, (2,): 10, (2, 1): 1, (2, 3): 5, (2, 3, 4): 3, (9,): 1, (7,): 0, (8,): 0},
        {(2, 1): {b"k"}, (2, 3, 4): {b"abc"}},
    )
    for _ in range(4_000):
        for good, read in ((good_body, read_body), (good_message, read_message)):
            data = mutated(chance, good) if chance.randrange(4) else good
            whole, in_parts = read([data]), read(pieces(chance, data))  # type: ignore[operator]
            assert whole == in_parts, data


def solve(*fields: bytes) -> bytes:
    message = b"".join(fields)
    return b"\x00" + len(message).to_bytes(4, "big") + message


def feed(message: Message, data: bytes, step: int) -> None:
    for at in range(0, len(data), step):
        message.feed(data[at : at + step])


ENTITLED = b"\x4a\x0cnetwork.host"


@pytest.mark.parametrize(
    "data",
    [
        solve(b"\x0a\x01a", ENTITLED),
        solve(ENTITLED, b"\x0a\x01a"),
        # The field's number in a longer encoding, and as the low 32 bits of a larger number.
        solve(b"\xca\x00" + ENTITLED[1:]),
        solve(b"\xca\x80\x80\x80\x80\x02" + ENTITLED[1:]),
        solve(b"\x48\x01"),
        solve(b"\x0b" + ENTITLED),
        solve(b"\x02" + ENTITLED[1:]),
        solve(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", ENTITLED),
        solve(b"\x0a\x05a"),
        b"\x01" + solve(ENTITLED)[1:],
        solve(b"\x0a\x01a") + solve(ENTITLED),
        b"\x00\x7f\xff\xff\xff\x0a",
    ],
    ids=bytes.hex,
)
def test_no_entitlement_passes_in_any_encoding(data: bytes) -> None:
    for step in (1, 7, len(data)):
        message = Message(CONTROL + "Solve")
        with pytest.raises(Refused):
            feed(message, data, step)


def field(number: int, *content: bytes | str) -> bytes:
    """A field of a message: its number, below 16, its length, below 128, and its content."""
    value = b"".join(part.encode() if isinstance(part, str) else part for part in content)
    return bytes((number << 3 | 2, len(value))) + value


def definition(*meta: bytes) -> bytes:
    """Definition.def, Op.exec, ExecOp.meta with this content, behind a step that copies."""
    copy, run = field(4, field(2, b"\x08\x01")), field(2, field(1, *meta))
    return field(1, copy) + field(1, field(1, field(1, "sha256:00")), run)


RUN = (field(1, "true"), field(3, "/"))
LIMITLESS = field(10, "/")


@pytest.mark.parametrize(
    ("call", "options", "steps", "inputs"),
    [(CONTROL + "Solve", 7, 2, 10), (BRIDGE + "Solve", 3, 1, 13)],
    ids=["by the client", "by its frontend"],
)
def test_no_cgroup_parent_passes_in_any_encoding(
    call: str, options: int, steps: int, inputs: int
) -> None:
    for content in (
        field(options, field(1, "cgroup-parent"), field(2, "/x")),
        field(options, field(2, "/x"), field(1, "cgroup-parent")),
        field(options, field(1, "cgroup-parent"), field(1, "target")),
        field(options, field(1, "target")) + field(options, field(1, "cgroup-parent")),
        # The length in a longer encoding.
        field(options, b"\x0a\x8d\x00cgroup-parent"),
        field(steps, definition(*RUN, LIMITLESS)),
        field(steps, definition(LIMITLESS, field(10))),
        field(steps, definition(*RUN), definition(LIMITLESS)),
        field(steps, definition(*RUN)) + field(steps, definition(LIMITLESS)),
        field(inputs, field(1, "base"), field(2, definition(LIMITLESS))),
        field(inputs, field(2, definition(LIMITLESS)), field(1, "base")),
        # Messages in a message: cut short, or longer than the message that they are in.
        field(steps, b"\x0a"),
        field(steps, b"\x0a\x05a"),
        field(steps, b"\x0a\x02\x12\x04") + b"\x0a\x02\x52\x00",
        field(steps, b"\x0a\x02\x12\x80") + b"\x00",
    ):
        data = solve(content)
        for step in (1, 7, len(data)):
            message = Message(call)
            with pytest.raises(Refused):
                feed(message, data, step)


@pytest.mark.parametrize(
    ("call", "options", "steps", "inputs"),
    [(CONTROL + "Solve", 7, 2, 10), (BRIDGE + "Solve", 3, 1, 13)],
    ids=["by the client", "by its frontend"],
)
def test_steps_and_options_that_only_look_like_a_cgroup_parent_pass(
    call: str, options: int, steps: int, inputs: int
) -> None:
    data = solve(
        field(options, field(1, "build-arg:a"), field(2, "cgroup-parent")),
        field(options, field(1, "label:cgroup-parent"), field(2, LIMITLESS)),
        field(steps, definition(*RUN)),
        field(steps, field(2, field(2, field(1, LIMITLESS)))),
        field(inputs, field(1, "base"), field(2, definition(*RUN))),
        field(inputs, field(1, LIMITLESS), field(2)),
    )
    for step in (1, 7, len(data)):
        feed(Message(call), data, step)


@pytest.mark.parametrize("call", [CONTROL + "Solve", BRIDGE + "Solve"])
def test_a_build_without_entitlements_passes_at_any_size(call: str) -> None:
    data = solve(b"\x0a\x01a", b"\x22" + b"\x80\x80\x40" + b"\x4a" * 0x100000, b"\x2a\x01s")
    if call == BRIDGE + "Solve":
        data = solve(b"\x12\x01a", b"\x22" + b"\x80\x80\x40" + b"\x0a" * 0x100000)
    message = Message(call)
    feed(message, data, 16384)


@pytest.mark.parametrize("data", [solve(), solve(b"\x12\x00"), solve(b"\x12\x01a", b"\x12\x00")])
def test_the_history_shows_only_builds_whose_name_the_client_knows(data: bytes) -> None:
    with pytest.raises(Refused, match="history"):
        Message(CONTROL + "ListenBuildHistory").feed(data)
    Message(CONTROL + "ListenBuildHistory").feed(solve(b"\x12\x01a"))


@pytest.mark.parametrize(
    "call",
    [
        CONTROL + "Prune",
        CONTROL + "UpdateBuildHistory",
        CONTROL + "Anything",
        CONTROL[1:] + "Status",
        CONTROL.lower() + "Status",
        "/" + CONTROL + "Status",
        CONTROL + "Statu%73",
        BRIDGE + "NewContainer",
        BRIDGE + "ExecProcess",
        "/containerd.services.content.v1.Content/Write",
        "/containerd.services.content.v1.Content/List",
        "/v1.41/containers/create",
    ],
)
def test_other_calls_of_buildkit_are_refused(call: str) -> None:
    with pytest.raises(Refused, match="the BuildKit call"):
        check_call(call)


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK"


async def talk(
    folder: Path, client: Callable[[socket.socket], Awaitable[bytes]], answer: bytes
) -> tuple[bytes, bytes]:
    """What client and daemon received; the daemon answers each head with `answer`."""
    loop, reached = asyncio.get_running_loop(), bytearray()

    async def daemon(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                reached.extend(data)
                writer.write(answer * data.count(b"HTTP/1."))
        writer.close()

    path = str(folder / "daemon.sock")
    server = await asyncio.start_unix_server(daemon, path)
    mine, guards = socket.socketpair()
    mine.setblocking(False)
    serving = loop.create_task(serve(guards, path, lambda line: None))
    async with asyncio.timeout(10):
        heard = await client(mine)
        mine.close()
        await serving
    server.close()
    return heard, bytes(reached)


async def all_of(mine: socket.socket) -> bytes:
    heard = b""
    with contextlib.suppress(OSError):
        while data := await asyncio.get_running_loop().sock_recv(mine, 65536):
            heard += data
    return heard


def raw(folder: Path, data: bytes, answer: bytes = OK) -> tuple[bytes, bytes]:
    """Send these bytes, then end."""

    async def client(mine: socket.socket) -> bytes:
        await asyncio.get_running_loop().sock_sendall(mine, data)
        mine.shutdown(socket.SHUT_WR)
        return await all_of(mine)

    return asyncio.run(talk(folder, client, answer))


PING = b"GET /_ping HTTP/1.1\r\nHost: a\r\n\r\n"
START = b"POST /containers/a/start HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"


def test_requests_of_one_connection_are_answered_in_their_order(tmp_path: Path) -> None:
    heard, reached = raw(tmp_path, PING * 3 + START + PING)
    assert reached == b"GET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n" * 3
    assert heard.count(b" 200 OK\r\n") == 3
    refused = heard.split(b"OK")[-1]
    assert refused.startswith(b"HTTP/1.1 403 ")
    output = json.loads(refused.partition(b"\r\n\r\n")[2])["message"]
    assert output.startswith("POST /containers/a/start is not allowed: a key of role build may")


@pytest.mark.parametrize(
    "data",
    [
        # A second request is in the body of the first, for parsers that count differently.
        b"POST /auth HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"0\r\n\r\n" + START,
        b"POST /auth HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 77\r\n\r\n" + START,
        b"POST /auth HTTP/1.1\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + START,
        b"POST /auth HTTP/1.1\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n" + START,
        b"POST /auth HTTP/1.1\r\nA: b\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + START,
        b"GET /_ping HTTP/1.1\r\nContent-Length: 77\r\n\r\n" + START,
        b"GET /_ping?\r\nX: HTTP/1.1\r\n\r\n" + START,
        b"POST /auth HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0;\n\r\n\r\n" + START,
        b"POST /session HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n" + START,
        b"POST /grpc HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n" + START,
        b"GET /info HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n" + START,
        PREFACE + START,
    ],
)
def test_no_request_is_smuggled(tmp_path: Path, data: bytes) -> None:
    """The daemon of this test never upgrades a connection."""
    heard, reached = raw(tmp_path, data)
    assert b"/containers" not in reached
    assert reached.count(b"HTTP/1.1\r\n") <= 1
    assert b" 40" in heard


def test_a_body_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    heard, reached = raw(tmp_path, b"POST /auth HTTP/1.1\r\nContent-Length: 9\r\n\r\nhalf", b"")
    assert reached.endswith(b"\r\n\r\nhalf")
    assert heard.startswith(b"HTTP/1.1 400 ")


SESSION = (
    b"POST /session HTTP/1.1\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n"
    b"Connection: Upgrade\r\nHost: localhost\r\n\r\n"
)


def test_an_upgrade_with_an_empty_body_in_chunks_reaches_the_daemon_without_one(
    tmp_path: Path,
) -> None:
    """docker-modem for Node writes such a body."""
    heard, reached = raw(tmp_path, SESSION + b"0\r\n\r\nfrom here on a stream", SWITCHED)
    assert reached == (
        b"POST /session HTTP/1.1\r\nHost: docker\r\nContent-Length: 0\r\n"
        b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\nfrom here on a stream"
    )
    assert heard.startswith(SWITCHED)


@pytest.mark.parametrize(
    "body", [b"1\r\na\r\n0\r\n\r\n", b"00\r\n\r\n", b"0;a\r\n\r\n", b"0\r\nA: b\r\n\r\n"]
)
def test_an_upgrade_with_any_other_body_is_refused(tmp_path: Path, body: bytes) -> None:
    heard, reached = raw(tmp_path, SESSION + body + START, SWITCHED)
    assert (heard[:13], reached) == (b"HTTP/1.1 400 ", b"")


def test_an_interim_response_is_forwarded_before_the_final_one(tmp_path: Path) -> None:
    data = b"POST /auth HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}"
    heard, _ = raw(tmp_path, data + PING, b"HTTP/1.1 100 Continue\r\n\r\n" + OK)
    assert heard.count(b"100 Continue") == 2
    assert heard.endswith(OK)


UPGRADE = b"POST /grpc HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 8, 9


def frames(data: bytes) -> list[Frame]:
    found = []
    while len(data) >= 9:
        end = 9 + int.from_bytes(data[:3], "big")
        stream = int.from_bytes(data[5:9], "big")
        found.append(Frame(data[3], data[4], stream, data[9:end]))
        data = data[end:]
    return found


class GrpcClient:
    """Writes calls as a real client does, with HPACK's dynamic table."""

    def __init__(self) -> None:
        self._encoder = hpack.Encoder()
        self._next = 1

    def call(self, path: str, changed: dict[str, str] | None = None, *, flags: int = 4) -> bytes:
        headers = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "localhost",
            "content-type": "application/grpc",
            "te": "trailers",
            "trace": "a" * 200,
            **(changed or {}),
        }
        block = self._encoder.encode(list(headers.items()))
        self._next, stream = self._next + 2, self._next
        return Frame(HEADERS, flags, stream, block).encode()


def grpc(folder: Path, *sent: bytes, upgrade: bool = True) -> tuple[list[Frame], list[Frame]]:
    """What the client and the daemon received, as frames, after the upgrade if there is one."""

    async def client(mine: socket.socket) -> bytes:
        loop = asyncio.get_running_loop()
        if upgrade:
            await loop.sock_sendall(mine, UPGRADE)
            heard = b""
            while not heard.endswith(b"\r\n\r\n"):
                heard += await loop.sock_recv(mine, 65536)
            assert heard == SWITCHED
        await loop.sock_sendall(mine, PREFACE + b"".join(sent))
        mine.shutdown(socket.SHUT_WR)
        return await all_of(mine)

    heard, reached = asyncio.run(talk(folder, client, SWITCHED))
    after = reached.partition(PREFACE)[2]
    return frames(heard), frames(after)


def heads(read: list[Frame]) -> dict[int, dict[bytes, bytes]]:
    """The heads of calls or answers by number, decoded with a dynamic table."""
    decoder = hpack.Decoder()
    return {
        frame.stream: dict(decoder.decode(frame.payload, raw=True))
        for frame in read
        if frame.type == HEADERS
    }


def paths(reached: list[Frame]) -> dict[int, str]:
    """The path of each call that the daemon received."""
    return {stream: head[b":path"].decode() for stream, head in heads(reached).items()}


def data(stream: int, content: bytes, flags: int = 1) -> bytes:
    return Frame(DATA, flags, stream, content).encode()


@pytest.mark.parametrize("upgrade", [True, False], ids=["upgraded", "from the first byte"])
def test_a_refused_call_does_not_stop_the_others(tmp_path: Path, upgrade: bool) -> None:
    client = GrpcClient()
    heard, reached = grpc(
        tmp_path,
        Frame(SETTINGS, 0, 0, b"").encode(),
        client.call(CONTROL + "Info"),
        data(1, solve()),
        client.call(CONTROL + "Prune"),
        data(3, solve()),
        client.call(CONTROL + "Solve"),
        data(5, solve(b"\x0a\x01a", ENTITLED)),
        client.call(CONTROL + "Solve"),
        data(7, solve(b"\x0a\x01a")[:4], 0),
        data(7, solve(b"\x0a\x01a")[4:]),
        client.call(BRIDGE + "NewContainer"),
        upgrade=upgrade,
    )
    assert paths(reached) == {1: CONTROL + "Info", 5: CONTROL + "Solve", 7: CONTROL + "Solve"}
    assert [(f.stream, f.payload) for f in reached if f.type == DATA] == [
        (1, solve()),
        (7, solve(b"\x0a\x01a")[:4]),
        (7, solve(b"\x0a\x01a")[4:]),
    ]
    assert [f.stream for f in reached if f.type == RST_STREAM] == [5]
    answers = heads(heard)
    assert set(answers) == {3, 5, 9}
    for answer in answers.values():
        assert answer[b"grpc-status"] == b"7"
        assert b"next: use a key of role admin" in answer[b"grpc-message"]
    counted = sum(int.from_bytes(f.payload, "big") for f in heard if f.type == WINDOW_UPDATE)
    assert counted == len(solve()) + len(solve(b"\x0a\x01a", ENTITLED))


@pytest.mark.parametrize(
    "sent",
    [
        # Reuses a number that was refused, or a lower one, or one of the daemon's.
        [GrpcClient().call(CONTROL + "Prune"), GrpcClient().call(CONTROL + "Info")],
        [Frame(HEADERS, 4, 2, b"").encode()],
        [Frame(CONTINUATION, 4, 1, b"").encode()],
        [GrpcClient().call(CONTROL + "Info", flags=0), Frame(DATA, 0, 1, b"").encode()],
        [GrpcClient().call(CONTROL + "Info", flags=0), *[Frame(CONTINUATION, 0, 1, b"").encode()]],
        [
            GrpcClient().call(CONTROL + "Info", flags=0),
            *[Frame(CONTINUATION, 0, 1, b"\x00" * 4096).encode()] * 4,
        ],
        [GrpcClient().call(CONTROL + "Info", flags=0xC)],
        [GrpcClient().call(CONTROL + "Info", {":path2": "a"})],
        [GrpcClient().call(CONTROL + "Info", {"content-type": "application/json"})],
        [GrpcClient().call(CONTROL + "Info", {":method": "GET"})],
        [GrpcClient().call(CONTROL + "Info", {"grpc-encoding": "gzip"})],
        [GrpcClient().call(CONTROL + "Info", {"Upper": "a"})],
        [GrpcClient().call(CONTROL + "Info", {"a": "b\r\nc"})],
        [GrpcClient().call(CONTROL + "Info", {"connection": "close"})],
        [GrpcClient().call(CONTROL + "Info", {"a": "b" * MAX_HEADERS})],
        [Frame(HEADERS, 4, 1, b"\xff\xff\xff\xff\xff\xff").encode()],
        [b"\xff\xff\xff\x00\x00\x00\x00\x00\x01"],
    ],
)
def test_frames_that_are_no_call_end_the_connection(tmp_path: Path, sent: list[bytes]) -> None:
    _, reached = grpc(tmp_path, *sent, GrpcClient().call(CONTROL + "Status"))
    assert CONTROL + "Status" not in paths(reached).values()


def test_random_frames_bring_no_refused_call_to_the_daemon(tmp_path: Path) -> None:
    """Seeded: connections with randomly changed frames."""
    chance = random.Random(12)
    for number in range(150):
        client = GrpcClient()
        sent = [
            Frame(SETTINGS, 0, 0, b"").encode(),
            client.call(CONTROL + "Info"),
            data(1, solve()),
            client.call(CONTROL + "Prune"),
            data(3, solve()),
            client.call(CONTROL + "Solve"),
            data(5, solve(ENTITLED)),
        ]
        at = chance.randrange(len(sent))
        sent[at] = mutated(chance, sent[at])
        (tmp_path / str(number)).mkdir()
        _, reached = grpc(tmp_path / str(number), *sent)
        for path in paths(reached).values():
            with contextlib.suppress(Refused):
                check_call(path)
                continue
            raise AssertionError(f"{path} reached the daemon: {sent}")
        solved = [f.stream for f in reached if f.type == HEADERS]
        assert not any(
            ENTITLED in f.payload and paths(reached).get(f.stream) == CONTROL + "Solve"
            for f in reached
            if f.type == DATA and f.stream in solved
        )


NAME = b"l82ktu7fslil8w3d9j869bdfi"
INSPECTED = b'{"Id":"a","Identity":{"Build":[{"Ref":"%b","CreatedAt":"2"},{"Ref":"%b"}]}}'
LABELLED = b"\n(moby/build.ref.%b\x12\x02{}*i\n\x1econtainerd.io/gc.ref.content.0"


@pytest.mark.parametrize("answer", [INSPECTED % (NAME, NAME), LABELLED % NAME])
def test_no_name_of_a_build_is_shown_in_any_encoding(answer: bytes) -> None:
    """Seeded: whole and in pieces."""
    chance, hidden = random.Random(13), answer.replace(NAME, b"x" * len(NAME))
    assert Hidden()(answer) == hidden
    for _ in range(2_000):
        hide = Hidden()
        parts = pieces(chance, b"before" + answer + b"after")
        assert b"".join(map(hide, parts)) == b"before" + hidden + b"after", parts
    assert (
        b"".join(map(Hidden(), (b'"Reference":"a","', b'ref":"b"'))) == b'"Reference":"a","ref":"b"'
    )


@pytest.mark.parametrize("path", ["images/json?identity=1", "v1.55/images/a/b:1/json", "info"])
def test_images_are_shown_without_names_of_builds(tmp_path: Path, path: str) -> None:
    body = INSPECTED % (NAME, NAME)
    for framed in (
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body),
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body),
    ):
        answer = b"HTTP/1.1 200 OK\r\n" + framed
        heard, _ = raw(tmp_path, f"GET /{path} HTTP/1.1\r\nHost: a\r\n\r\n".encode(), answer)
        assert heard == (answer if path == "info" else answer.replace(NAME, b"x" * len(NAME)))


CONTENT = "/containerd.services.content.v1.Content/"


async def answered(
    call: str, content: list[bytes], *, reset: bool = False
) -> tuple[list[Frame], list[Frame]]:
    """What the daemon sends for a call, and what its client gets."""
    (client, ours), (theirs, daemon) = socket.socketpair(), socket.socketpair()
    calls = Calls(Stream(ours), Stream(theirs), lambda reason: None)
    client.sendall(PREFACE + GrpcClient().call(call) + data(1, solve()))
    if reset:
        client.sendall(Frame(RST_STREAM, 0, 1, bytes(4)).encode())
    client.shutdown(socket.SHUT_WR)
    await calls.from_client()
    sent = [Frame(DATA, 0, 1, part) for part in content]
    daemon.sendall(b"".join(frame.encode() for frame in sent))
    daemon.shutdown(socket.SHUT_WR)
    await calls.from_daemon()
    heard = b""
    while part := client.recv(65536):
        heard += part
    for connected in (client, ours, theirs, daemon):
        connected.close()
    return sent, frames(heard)


def test_content_is_described_without_names_of_builds() -> None:
    whole = LABELLED % NAME
    parts = [whole[:20], whole[20:22], whole[22:]]
    sent, got = asyncio.run(answered(CONTENT + "Info", parts))
    assert b"".join(frame.payload for frame in got) == whole.replace(NAME, b"x" * len(NAME))
    assert [len(frame.payload) for frame in got] == [len(frame.payload) for frame in sent]
    sent, got = asyncio.run(answered(CONTENT + "Read", parts))
    assert got == sent


def test_a_call_that_the_client_has_reset_gets_no_answer() -> None:
    sent, got = asyncio.run(answered(CONTENT + "Info", [LABELLED % NAME], reset=True))
    assert [frame.payload for frame in got] == [bytes(len(frame.payload)) for frame in sent]


def test_a_repeated_header_does_not_compress_an_answer() -> None:
    head = [(b":method", b"POST"), (b":path", b"/a"), (b"content-type", b"application/grpc")]
    assert path_of([*head, (b"grpc-encoding", b"identity")]) == "/a"
    for encodings in ([b"gzip"], [b"gzip", b"identity"], [b"identity", b"gzip"]):
        with pytest.raises(Broken):
            path_of([*head, *[(b"grpc-encoding", encoding) for encoding in encodings]])
