"""Types that parse and check a setting's text: sizes, ages, shares of a disk, images, addresses.

Sizes, ages and shares keep their text, so that the state shows what the user wrote.
"""

from __future__ import annotations

import base64
import ipaddress
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer

from components.ssh_key import PublicKey

_LISTENER = "must be an IPv4 address of the Docker host and a port, such as 127.0.0.1:9105"
_UNITS = {"": 1, "B": 1}
for _power, _prefix in enumerate("KMGT", start=1):
    _UNITS |= {f"{_prefix}B": 1000**_power, _prefix: 1000**_power, f"{_prefix}IB": 1024**_power}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}

_IMAGE = re.compile(
    r"^(?:[a-zA-Z0-9][a-zA-Z0-9.-]*(?::[0-9]+)?/)?"  # registry
    r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*)*"
    r"(?::[\w][\w.-]{0,127})?"  # tag
    r"(?:@sha256:[0-9a-f]{64})?$"
)
_HOST_NAME = r"[a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?"
_REGISTRY = r"[a-zA-Z0-9][a-zA-Z0-9.-]*(:[0-9]{1,5})?"
_WORD = re.compile(r"^[a-zA-Z0-9][a-zA-Z0-9._@:/+-]{0,127}$")
_WORD_RULE = "1 to 128 letters, digits and . _ @ : / + -, and start with a letter or digit"


@dataclass(frozen=True, order=True)
class Size:
    """A size such as 50GB, 512MiB or 1.5T, in bytes; units are powers of 1000 unless `iB`."""

    text: str = field(compare=False)
    bytes: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a size. Raises ValueError."""
        match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*", text)
        if not match or match[2].upper() not in _UNITS:
            raise ValueError("must be a size such as 50GB, 512MiB or 1.5TB")
        return cls(text, int(float(match[1]) * _UNITS[match[2].upper()]))

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Listener:
    """An address and a port of the Docker host, such as 127.0.0.1:9105."""

    text: str
    address: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ADDRESS:PORT. Raises ValueError."""
        address, _, port = text.partition(":")
        if not re.fullmatch(r"[1-9][0-9]{0,4}", port) or int(port) > 65535:
            raise ValueError(_LISTENER)
        try:
            return cls(text, str(ipaddress.IPv4Address(address)), int(port))
        except ValueError:
            raise ValueError(_LISTENER) from None

    def __bool__(self) -> bool:
        return bool(self.text)

    def __str__(self) -> str:
        return self.text


NOWHERE = Listener("", "", 0)
"""The value of an empty address."""
NO_LIMIT = Size("", 0)
"""The value of an empty limit."""


@dataclass(frozen=True, order=True)
class Age:
    """An age such as 14d, 36h, 90m or 2w, in seconds."""

    text: str = field(compare=False)
    seconds: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse an age. Raises ValueError."""
        match = re.fullmatch(r"\s*([0-9]+)\s*([smhdw])\s*", text)
        if not match:
            raise ValueError(
                "must be an age: a whole number and s, m, h, d or w, such as 36h or 14d"
            )
        return cls(text, int(match[1]) * _SECONDS[match[2]])

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class DiskSpace:
    """A size, or a share of a disk such as 20%."""

    text: str
    size: Size | None
    percent: float = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a size or a share. Raises ValueError."""
        if match := re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*%\s*", text):
            return cls(text, None, float(match[1]))
        try:
            return cls(text, Size.parse(text))
        except ValueError:
            raise ValueError(
                "must be a size such as 50GB or 512MiB, or a share such as 20%"
            ) from None

    def of(self, disk: int) -> int:
        """Bytes on a disk of `disk` bytes."""
        return self.size.bytes if self.size else int(disk * self.percent / 100)

    def __str__(self) -> str:
        return self.text


def _parsed(kind: Any, what: str = "text") -> tuple[BeforeValidator, PlainSerializer]:
    """Validators that parse text to `kind` and serialize it as text; `what` describes the text."""

    def parse(value: object) -> object:
        if isinstance(value, kind):
            return value
        if not isinstance(value, str):
            raise ValueError(f"must be {what}")
        return kind.parse(value)

    return BeforeValidator(parse), PlainSerializer(str)


def at_least(minimum: Size | Age) -> AfterValidator:
    """Check that a size or an age is at least `minimum`, or no limit."""

    def check(value: Any) -> Any:
        if value.text and value < minimum:
            raise ValueError(f"must be at least {minimum}")
        return value

    return AfterValidator(check)


def at_least_space(minimum: Size) -> AfterValidator:
    """Check that a size is at least `minimum`, or a share from 1% to 90%."""

    def check(space: DiskSpace) -> DiskSpace:
        if space.size is None and not 1 <= space.percent <= 90:
            raise ValueError("must be a share from 1% to 90%")
        if space.size is not None and space.size < minimum:
            raise ValueError(f"must be at least {minimum}")
        return space

    return AfterValidator(check)


def matching(pattern: str, rule: str) -> AfterValidator:
    """Check that the whole text matches the pattern; the error is `must be` and the rule."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"must be {rule}")
        return text

    return AfterValidator(check)


def _empty_is_no_limit(value: object) -> object:
    return NO_LIMIT if value == "" else value


def _empty_is_nowhere(value: object) -> object:
    return NOWHERE if value == "" else value


def check_word(text: str) -> str:
    """A word that is safe in sshd's files. Raises ValueError."""
    if not _WORD.match(text):
        raise ValueError(f"{text!r} must be {_WORD_RULE}")
    return text


def _check_image(reference: str) -> str:
    if not _IMAGE.match(reference):
        raise ValueError(
            "must be an image reference, name:tag or name@sha256:<64 hex digits>, in lower case"
        )
    last = reference.rsplit("/", 1)[-1]
    if "@" not in last and (":" not in last or last.endswith(":latest")):
        raise ValueError(
            "must be pinned, so that every `pulumi up` uses the same image: add a version tag "
            "other than latest, or a digest"
        )
    return reference


def _check_host_url(url: str) -> str:
    allowed = "must be unix:///path/to/docker.sock or ssh://user@host[:port]"
    parts = urlsplit(url)
    if parts.scheme == "unix":
        if parts.netloc or not parts.path.startswith("/"):
            raise ValueError(f"{allowed} (an absolute path: three slashes)")
        return url
    if parts.scheme != "ssh":
        raise ValueError(f"{allowed}; plain or TLS TCP to the host's daemon is not supported")
    try:
        port_ok = parts.port is None or parts.port > 0
    except ValueError:
        port_ok = False
    if not parts.hostname or not port_ok or parts.path not in ("", "/") or parts.password:
        raise ValueError(f"{allowed} (no password, no path, port 1 to 65535)")
    if not parts.username:
        raise ValueError(f"{allowed}; the user is missing")
    for part in (parts.username, parts.hostname):
        if part.startswith("-") or not re.fullmatch(r"[\w.:-]+", part):
            raise ValueError(f"{allowed}; letters, digits, dots and dashes only")
    return url


def check_host_key(
    host: str, host_key: str, give: str = "pulumi config set hostKey 'ssh-ed25519 AAAA...'"
) -> None:
    """Raises ValueError when a host that needs a key has none; `give` is how to set it."""
    if host.startswith("ssh://") and not host_key:
        name = urlsplit(host).hostname
        raise ValueError(
            f"hostKey is empty, but host = {host} is reached over SSH and must be known before the "
            f"first connection; next: compare `ssh-keyscan -t ed25519 {name}` with what the host's "
            f"owner tells you, then {give}"
        )


def _check_host_name(name: str) -> str:
    if name:
        try:
            ipaddress.ip_address(name)
        except ValueError:
            if not re.fullmatch(_HOST_NAME, name):
                raise ValueError("must be a host name or an IP address, without port") from None
    return name


def _check_address(address: str) -> str:
    try:
        ipaddress.IPv4Address(address)
    except ValueError:
        raise ValueError(
            "must be an IPv4 address of the Docker host: 0.0.0.0 for all, 127.0.0.1 for itself"
        ) from None
    return address


def _check_network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        raise ValueError(
            "must be an address or a CIDR range without host bits, such as 10.0.5.7 or 10.0.5.0/24"
        ) from None


def _check_upstream(url: str) -> str:
    parts = urlsplit(url)
    usable = parts.scheme in ("http", "https") and re.fullmatch(_REGISTRY, parts.netloc)
    if not usable or parts.path:
        raise ValueError("must be https://host[:port] or http://host[:port], without path and user")
    return url


def _check_collector(url: str) -> str:
    parts = urlsplit(url)
    usable = parts.scheme in ("http", "https") and re.fullmatch(_REGISTRY, parts.netloc)
    if url and (
        not usable or not re.fullmatch(r"(/[\w.~-]+)*", parts.path) or set("?#") & set(url)
    ):
        raise ValueError(
            "must be https://host[:port] or http://host[:port], with a path or without, and "
            "without user, query, fragment and a / at the end"
        )
    return url


def _check_credential(text: str) -> str:
    if not text.isprintable() or text != text.strip():
        raise ValueError("must be one line of printable characters, without spaces at its ends")
    return text


def _check_cpus(text: str) -> str:
    if text and not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,2})?", text):
        raise ValueError("must be a number of CPUs such as 2 or 1.5")
    if text and float(text) < 0.1:
        raise ValueError("must be at least 0.1")
    return text


def _number_as_text(value: object) -> object:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _public_key_text(text: str) -> str:
    return str(PublicKey.parse(text)) if text else text


@dataclass(frozen=True)
class MayBeOutput:
    """Marks a setting that may be an Output of a resource of the same program."""

    stand_in: Callable[[int], str]
    """A valid value, another one for each number, until the Output is known."""


@dataclass(frozen=True)
class Secret:
    """Marks a setting that is shown nowhere: not in errors, previews, outputs and clear state."""


def stand_in_key(number: int) -> str:
    """A public key in form; nobody has the private one."""
    kind = b"ssh-ed25519"
    blob = struct.pack(f">I{len(kind)}sI32s", len(kind), kind, 32, number.to_bytes(32, "big"))
    return f"{kind.decode()} {base64.b64encode(blob).decode()}"


SizeText = Annotated[Size, *_parsed(Size)]
AgeText = Annotated[Age, *_parsed(Age)]
DiskSpaceText = Annotated[DiskSpace, *_parsed(DiskSpace)]
ListenerText = Annotated[Listener, *_parsed(Listener), BeforeValidator(_empty_is_nowhere)]
LimitText = Annotated[SizeText, BeforeValidator(_empty_is_no_limit)]
PublicKeyText = Annotated[
    PublicKey, *_parsed(PublicKey, "the text of a .pub file"), MayBeOutput(stand_in_key)
]
HostKeyText = Annotated[str, AfterValidator(_public_key_text), MayBeOutput(stand_in_key)]
Port = Annotated[int, Field(ge=1, le=65535)]
ImageReference = Annotated[str, AfterValidator(_check_image)]
HostUrl = Annotated[
    str, AfterValidator(_check_host_url), MayBeOutput("ssh://nobody@not-known-yet-{}".format)
]
HostName = Annotated[str, AfterValidator(_check_host_name), MayBeOutput("not-known-yet-{}".format)]
ServerName = Annotated[
    str,
    matching(f"({_HOST_NAME})?", "a host name or an IPv4 address, without port"),
    MayBeOutput("not-known-yet-{}".format),
]
Address = Annotated[str, AfterValidator(_check_address)]
Network = Annotated[str, AfterValidator(_check_network)]
RegistryName = Annotated[str, matching(_REGISTRY, "host or host:port, without scheme and path")]
UpstreamUrl = Annotated[str, AfterValidator(_check_upstream)]
CollectorUrl = Annotated[str, AfterValidator(_check_collector)]
UserName = Annotated[str, AfterValidator(_check_credential), MayBeOutput("not-known-yet-{}".format)]
Token = Annotated[
    str,
    Field(repr=False),
    AfterValidator(_check_credential),
    MayBeOutput("not-known-yet-{}".format),
    Secret(),
]
Repository = Annotated[
    str,
    matching(
        "([a-z0-9]+(?:[._/-]+[a-z0-9]+)*)?",
        "a repository without registry and tag, such as acme/base",
    ),
]
Platform = Annotated[
    str,
    matching(
        "linux/[a-z0-9]+(/v[0-9]+)?", "a platform as Docker writes it: linux/amd64, linux/arm64"
    ),
]
ImagePattern = Annotated[
    str,
    matching(
        r"[\w.:/@*?\[\]-]{1,255}",
        "an image name; * ? and [] match as in a shell, such as acme/*:v?",
    ),
]
Cpus = Annotated[str, BeforeValidator(_number_as_text), AfterValidator(_check_cpus)]
