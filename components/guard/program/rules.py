"""Requests that a key of role `build` may send to the daemon; all others are refused.

The paths are those of the Docker Engine API. The gRPC methods are those of BuildKit's control.proto
and gateway.proto, which dockerd serves on POST /grpc.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from urllib.parse import unquote_plus

from .protobuf import Fields, Path

_ROLE = (
    "a key of role build may build, pull, push, tag and read; next: use a key of role admin, or "
    "ask who runs the builder for one"
)


class Refused(Exception):
    """A request that is not allowed; the text is shown to the user who sent it."""

    def __init__(self, what: str, status: int = 403) -> None:
        super().__init__(f"{what} is not allowed: {_ROLE}")
        self.status = status
        """Status of the HTTP response."""


class Kind(Enum):
    """What follows an allowed request."""

    PLAIN = "a response"
    SESSION = "a stream on which the daemon sends requests to the client"
    GRPC = "a stream on which the client sends requests to the daemon"


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
        # Only the list: settings and logs of containers may contain other users' secrets.
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
# The allowed values; the daemon's own network (host) and those of containers are not among them.
_VALUES = {
    "networkmode": {"", "default", "bridge", "none"},
    "cgroupparent": {""},
    "isolation": {"", "default"},
}


def check(method: str, path: str, query: str) -> Kind:
    """Check a request; return what follows it. Raises Refused.

    `path` is decoded and has no percent sign, empty segment or dot segment (http1.parse_head), so
    the daemon's router cannot see a different path.
    """
    match = _ROUTES[method].fullmatch(path) if method in _ROUTES else None
    if not match:
        # `docker inspect IMAGE` first requests a container and continues after a 404.
        lookup = method == "GET" and _CONTAINER.fullmatch(path)
        raise Refused(f"{method} {path}", 404 if lookup else 403)
    if match[1] == "/build":
        _check_build(query)
    return _UPGRADES.get(match[1], Kind.PLAIN)


def _check_build(query: str) -> None:
    # Go before 1.17 treats a semicolon as an ampersand.
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
        # Session is the same stream as POST /session, with the daemon as client.
        *(_CONTROL + m for m in ("DiskUsage", "Info", "ListWorkers", "Session", "Status")),
        # Calls of a frontend that runs on the client. NewContainer and ExecProcess are missing,
        # because they run commands outside any Dockerfile.
        *(
            _BRIDGE + m
            for m in (
                "Ping",
                "ResolveImageConfig",
                "ResolveSourceMeta",
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


@dataclass(frozen=True)
class _Rules:
    """Rules of one message; a path has the numbers of the fields that lead to a field."""

    forbidden: dict[Path, str]
    """Each field that may not be there, and the name of what has it."""
    options: Path = ()
    """The names of a frontend's options: the keys of a map."""
    required: Path = ()

    def check(self, fields: Fields, ended: bool) -> None:
        """Check the fields that have arrived. Raises Refused."""
        for path, what in self.forbidden.items():
            if path in fields.lengths:
                raise Refused(what)
        if b"cgroup-parent" in fields.texts.get(self.options, ()):
            raise Refused(_WITH_CGROUP_PARENT)
        if ended and self.required and not fields.lengths.get(self.required):
            raise Refused("the history of all builds")


_WITH_CGROUP_PARENT = "a build with --cgroup-parent"
# Definition.def, Op.exec, ExecOp.meta, Meta.cgroupParent (ops.proto). A frontend that runs in a
# container sends its own definitions past the guard, but a rootless BuildKit ignores this field.
_CGROUP_PARENT = (1, 2, 1, 10)
_RULES = {
    _CONTROL + "Solve": _Rules(
        {
            # Entitlements: without it BuildKit itself refuses steps that need it.
            (9,): "a build with entitlements (network.host, security.insecure)",
            # Definition, and the values of the map FrontendInputs.
            (2, *_CGROUP_PARENT): _WITH_CGROUP_PARENT,
            (10, 2, *_CGROUP_PARENT): _WITH_CGROUP_PARENT,
        },
        options=(7, 1),
    ),
    _BRIDGE + "Solve": _Rules(
        {
            (1, *_CGROUP_PARENT): _WITH_CGROUP_PARENT,
            (13, 2, *_CGROUP_PARENT): _WITH_CGROUP_PARENT,
        },
        options=(3, 1),
    ),
    # Ref, the random name of a build; names.py hides it in the daemon's answers.
    _CONTROL + "ListenBuildHistory": _Rules({}, required=(2,)),
}


class Message:
    """The single message of a gRPC call whose content is checked as its bytes arrive."""

    def __init__(self, call: str) -> None:
        self._rules = _RULES[call]
        self._prefix = b""
        self._left = 0
        self._fields = Fields(*self._rules.forbidden, self._rules.options)

    def feed(self, data: bytes) -> None:
        """Check the next bytes before they are passed on. Raises Refused."""
        if len(self._prefix) < 5:
            missing = 5 - len(self._prefix)
            self._prefix, data = self._prefix + data[:missing], data[missing:]
            if len(self._prefix) < 5:
                return
            if self._prefix[0] != 0:
                raise Refused("a compressed request of this kind")
            self._left = int.from_bytes(self._prefix[1:], "big")
            if self._left > _LARGEST_MESSAGE:
                raise Refused("a message that is too large for BuildKit")
        if len(data) > self._left:
            raise Refused("a second message in one request of this kind")
        self._left -= len(data)
        try:
            self._fields.feed(data)
            if not self._left:
                self._fields.end()
        except ValueError as error:
            raise Refused(f"an invalid protobuf message ({error})") from None
        self._rules.check(self._fields, not self._left)


def names_builds(path: str) -> bool:
    """Whether the daemon's answer to this request or call can name builds (names.py)."""
    return path == _CONTENT + "Info" or ("/images/" in path and path.endswith("/json"))


def check_call(path: str) -> Message | None:
    """Check a gRPC method; return the check of its message, if it has one. Raises Refused."""
    if path in _RULES:
        return Message(path)
    if path not in _CALLS:
        raise Refused(f"the BuildKit call {path[:120]}")
    return None
