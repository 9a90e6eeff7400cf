"""What a key of role `build` may ask of the daemon: lists of what is allowed; all else is refused.

The paths are those of the Docker Engine API, the gRPC methods those of BuildKit's control.proto and
gateway.proto, as dockerd serves them on POST /grpc.
"""

from __future__ import annotations

import re
from enum import Enum
from urllib.parse import unquote_plus

from .protobuf import Fields

_ROLE = (
    "a key of role build may build, pull, push, tag and read; next: use a key of role admin, or "
    "ask who runs the builder for one"
)


class Refused(Exception):
    """A request that is not allowed; the text is for the person who sent it."""

    def __init__(self, what: str, status: int = 403) -> None:
        super().__init__(f"{what} is not allowed: {_ROLE}")
        self.status = status
        """Of the HTTP answer."""


class Kind(Enum):
    """What follows an allowed request."""

    PLAIN = "a response"
    SESSION = "a stream on which the daemon asks and the client serves"
    GRPC = "a stream on which the client asks the daemon"


_NAME = r"[A-Za-z0-9][A-Za-z0-9._:@/-]*"
_ALLOWED = {
    "HEAD": [r"/_ping"],
    "GET": [
        r"/_ping",
        r"/version",
        r"/info",
        r"/system/df",
        r"/images/(?:json|search|get)",
        rf"/images/{_NAME}/(?:json|history|get|attestations)",
        rf"/distribution/{_NAME}/json",
        # Lists alone: the settings of a container and its log may hold others' secrets.
        r"/containers/json",
        rf"/(?:networks|volumes)(?:/{_NAME})?",
    ],
    "POST": [
        r"/auth",
        r"/build",
        r"/build/cancel",
        r"/images/(?:create|load)",
        rf"/images/{_NAME}/(?:push|tag)",
        r"/session",
        r"/grpc",
    ],
}
_ROUTES = {
    method: re.compile(rf"(?:/v1\.[0-9]{{1,3}})?({'|'.join(paths)})")
    for method, paths in _ALLOWED.items()
}
_CONTAINER = re.compile(rf"(?:/v1\.[0-9]{{1,3}})?/containers/{_NAME}/json")
_UPGRADES = {"/session": Kind.SESSION, "/grpc": Kind.GRPC}

# Query parameters of POST /build; securityopt is not among them.
_BUILD = re.compile(
    r"dockerfile|t|extrahosts|remote|q|nocache|cachefrom|pull|rm|forcerm|memory|memswap|"
    r"cpu(?:shares|setcpus|setmems|period|quota)|buildargs|shmsize|squash|labels|networkmode|"
    r"platform|target|outputs|version|buildid|session|ulimits|cgroupparent|isolation"
)
# The daemon's own network and those of containers are not among them.
_VALUES = {
    "networkmode": {"", "default", "bridge", "none"},
    "cgroupparent": {""},
    "isolation": {"", "default"},
}


def check(method: str, path: str, query: str) -> Kind:
    """What follows the request. Raises Refused.

    `path` is decoded and has no percent sign, empty or dot segment (http1.parse_head), so that the
    daemon's router cannot see another one.
    """
    match = _ROUTES[method].fullmatch(path) if method in _ROUTES else None
    if not match:
        # `docker inspect IMAGE` asks for a container first and goes on after a 404.
        lookup = method == "GET" and _CONTAINER.fullmatch(path)
        raise Refused(f"{method} {path}", 404 if lookup else 403)
    if match[1] == "/build":
        _check_build(query)
    return _UPGRADES.get(match[1], Kind.PLAIN)


def _check_build(query: str) -> None:
    # Releases of Go before 1.17 take a semicolon for an ampersand.
    if ";" in query or re.search(r"%(?![0-9A-Fa-f]{2})", query):
        raise Refused("a build with a ; or a lone % in its query")
    for pair in query.split("&") if query else ():
        name, _, value = (unquote_plus(part) for part in pair.partition("="))
        if not _BUILD.fullmatch(name):
            raise Refused(f"a build with the parameter {name[:40]!r}")
        if value not in _VALUES.get(name, {value}):
            raise Refused(f"a build with {name}={value[:80]!r}")


_CONTROL = "/moby.buildkit.v1.Control/"
_BRIDGE = "/moby.buildkit.v1.frontend.LLBBridge/"
_CONTENT = "/containerd.services.content.v1.Content/"
_CALLS = frozenset(
    [
        # Session is what POST /session is: a stream on which the daemon asks.
        *(_CONTROL + m for m in ("DiskUsage", "Info", "ListWorkers", "Session", "Status")),
        # What a frontend on the client asks; NewContainer and ExecProcess run commands outside of
        # any Dockerfile and are not among them.
        *(
            _BRIDGE + m
            for m in (
                "Ping",
                "ResolveImageConfig",
                "ResolveSourceMeta",
                "Solve",
                "ReadFile",
                "ReadDir",
                "StatFile",
                "Evaluate",
                "Inputs",
                "Return",
                "Warn",
            )
        ),
        *(_CONTENT + m for m in ("Info", "Read")),
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        "/grpc.health.v1.Health/Check",
    ]
)

# BuildKit's own limit, DefaultMaxRecvMsgSize.
_LARGEST_MESSAGE = 16 * 1024 * 1024
# SolveRequest.Entitlements (network.host, security.insecure): without one BuildKit itself refuses
# steps that ask for it.
_ENTITLEMENTS = 9
# BuildHistoryRequest.Ref: random, known to whoever started the build.
_REF = 2


def _check_solve(fields: Fields, ended: bool) -> None:
    if _ENTITLEMENTS in fields.lengths:
        raise Refused("a build with entitlements (network.host, security.insecure)")


def _check_history(fields: Fields, ended: bool) -> None:
    if ended and not fields.lengths.get(_REF):
        raise Refused("the history of all builds")


_MESSAGES = {
    _CONTROL + "Solve": _check_solve,
    _CONTROL + "ListenBuildHistory": _check_history,
}


class Message:
    """The one message of a gRPC call whose content matters, checked while it passes."""

    def __init__(self, call: str) -> None:
        self._check = _MESSAGES[call]
        self._prefix = b""
        self._left = 0
        self._fields = Fields()

    def feed(self, data: bytes) -> None:
        """Look at the next bytes before they are sent on. Raises Refused."""
        if len(self._prefix) < 5:
            missing = 5 - len(self._prefix)
            self._prefix, data = self._prefix + data[:missing], data[missing:]
            if len(self._prefix) < 5:
                return
            if self._prefix[0] != 0:
                raise Refused("a compressed request of this kind")
            self._left = int.from_bytes(self._prefix[1:], "big")
            if self._left > _LARGEST_MESSAGE:
                raise Refused("a message that BuildKit would not take")
        if len(data) > self._left:
            raise Refused("a second message in one request of this kind")
        self._left -= len(data)
        try:
            self._fields.feed(data)
            if not self._left:
                self._fields.end()
        except ValueError as error:
            raise Refused(f"a message that is no protobuf ({error})") from None
        self._check(self._fields, not self._left)


def check_call(path: str) -> Message | None:
    """A gRPC method; what must be looked at in its message, if anything. Raises Refused."""
    if path in _MESSAGES:
        return Message(path)
    if path not in _CALLS:
        raise Refused(f"the BuildKit call {path[:120]}")
    return None
