"""The settings of a stack: typed, checked, and every error reported at once.

The defaults and the descriptions for people stand in Pulumi.yaml; the engine fills the defaults
in before the program runs.
"""

from __future__ import annotations

import datetime
import difflib
import ipaddress
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import pulumi
import pydantic
from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, model_validator
from pydantic.alias_generators import to_camel

from components.ssh_key import PublicKey

_UNITS = {"": 1, "B": 1}
for _power, _prefix in enumerate("KMGT", start=1):
    _UNITS |= {f"{_prefix}B": 1000**_power, _prefix: 1000**_power, f"{_prefix}IB": 1024**_power}

_IMAGE = re.compile(
    r"^(?:[a-zA-Z0-9][a-zA-Z0-9.-]*(?::[0-9]+)?/)?"  # registry
    r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*)*"
    r"(?::[\w][\w.-]{0,127})?"  # tag
    r"(?:@sha256:[0-9a-f]{64})?$"
)
_HOST_NAME = re.compile(r"^[a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?$")
_REGISTRY = re.compile(r"^[a-zA-Z0-9][a-zA-Z0-9.-]*(:[0-9]{1,5})?$")
_FINGERPRINT = re.compile(r"^SHA256:[A-Za-z0-9+/]{43}$")
_WORD = re.compile(r"^[a-zA-Z0-9][a-zA-Z0-9._@:/+-]{0,127}$")
_WORD_RULE = "1 to 128 letters, digits and . _ @ : / + -, and start with a letter or digit"
_HOST_ENTRY_NAME = re.compile(r"^[a-z][a-z0-9-]{0,29}$")
_PLATFORM = re.compile(r"^linux/[a-z0-9]+(/v[0-9]+)?$")
_KEY_NAME = re.compile(r"^[a-zA-Z0-9][a-zA-Z0-9._@-]{0,63}$")


def parse_size(text: str) -> int:
    """Bytes of a size as people write it: 50GB, 512MiB, 1.5T; powers of 1000 unless `iB`.

    Raises ValueError when it is none.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*", text)
    if not match or match[2].upper() not in _UNITS:
        raise ValueError("must be a size such as 50GB, 512MiB or 1.5TB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


_AGES = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def parse_disk_space(text: str, disk: int) -> int:
    """Bytes of a size, or of a share such as 20% of a disk of `disk` bytes.

    Raises ValueError when it is neither.
    """
    if match := re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*%\s*", text):
        return int(disk * float(match[1]) / 100)
    try:
        return parse_size(text)
    except ValueError:
        raise ValueError("must be a size such as 50GB or 512MiB, or a share such as 20%") from None


def parse_age(text: str) -> int:
    """Seconds of an age as people write it: 14d, 36h, 90m, 2w. Raises ValueError if it is none."""
    match = re.fullmatch(r"\s*([0-9]+)\s*([smhdw])\s*", text)
    if not match:
        raise ValueError("must be an age: a whole number and s, m, h, d or w, such as 36h or 14d")
    return int(match[1]) * _AGES[match[2]]


def _check_image(reference: str) -> str:
    if not _IMAGE.match(reference):
        raise ValueError(
            "must be an image reference, name:tag or name@sha256:<64 hex digits>, in lower case"
        )
    last = reference.rsplit("/", 1)[-1]
    if "@" not in last and (":" not in last or last.endswith(":latest")):
        raise ValueError(
            "must be pinned, so that every `pulumi up` means the same image: add a version tag "
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
        raise ValueError(f"{allowed}; plain or TLS TCP to the host's daemon is not offered")
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


def _check_host_name(name: str) -> str:
    if name:
        try:
            ipaddress.ip_address(name)
        except ValueError:
            if not _HOST_NAME.match(name):
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


def _check_registry(registry: str) -> str:
    if not _REGISTRY.match(registry):
        raise ValueError("must be host or host:port, without scheme and path")
    return registry


def _check_server_name(name: str) -> str:
    if name and not _HOST_NAME.match(name):
        raise ValueError("must be a host name or an IPv4 address, without port")
    return name


def _check_upstream(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not _REGISTRY.match(parts.netloc) or parts.path:
        raise ValueError("must be https://host[:port] or http://host[:port], without path and user")
    return url


def _check_platform(platform: str) -> str:
    if not _PLATFORM.match(platform):
        raise ValueError("must be a platform as Docker writes it: linux/amd64, linux/arm64")
    return platform


def _check_size(minimum: str) -> AfterValidator:
    def check(text: str) -> str:
        if text and parse_size(text) < parse_size(minimum):
            raise ValueError(f"must be at least {minimum}")
        return text

    return AfterValidator(check)


def _check_disk_space(minimum: str) -> AfterValidator:
    def check(text: str) -> str:
        if text.rstrip().endswith("%"):
            if not 1 <= parse_disk_space(text, 100) <= 90:
                raise ValueError("must be a share from 1% to 90%")
        elif parse_disk_space(text, 0) < parse_size(minimum):
            raise ValueError(f"must be at least {minimum}")
        return text

    return AfterValidator(check)


def _check_age(minimum: str) -> AfterValidator:
    def check(text: str) -> str:
        if parse_age(text) < parse_age(minimum):
            raise ValueError(f"must be at least {minimum}")
        return text

    return AfterValidator(check)


def _check_pattern(pattern: str) -> str:
    if not re.fullmatch(r"[\w.:/@*?\[\]-]{1,255}", pattern):
        raise ValueError("must be an image name; * ? and [] match as in a shell, such as acme/*:v?")
    return pattern


def _check_cpus(text: str) -> str:
    if text and not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,2})?", text):
        raise ValueError("must be a number of CPUs such as 2 or 1.5")
    if text and float(text) < 0.1:
        raise ValueError("must be at least 0.1")
    return text


def _parse_public_key(value: object) -> PublicKey:
    if isinstance(value, PublicKey):
        return value
    if not isinstance(value, str):
        raise ValueError("must be the text of a .pub file")
    return PublicKey.parse(value)


def _as_text(value: object) -> object:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _as_public_key_text(text: str) -> str:
    return str(PublicKey.parse(text)) if text else text


class _Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(
        alias_generator=to_camel,
        extra="forbid",
        frozen=True,
        validate_by_alias=True,
        validate_by_name=True,
        validate_default=True,
    )


Port = Annotated[int, Field(ge=1, le=65535)]


class AuthorizedKey(_Model):
    """One entry of `keys`: who may log in, with which key, from where and until when."""

    name: str
    """Name in the log, in previews and in the key's comment."""
    public_key: Annotated[PublicKey, BeforeValidator(_parse_public_key), PlainSerializer(str)]
    """One line of a .pub file."""
    from_: Annotated[tuple[str, ...], Field(alias="from")] = ()
    """Addresses or CIDR ranges from which the key is accepted; empty for any."""
    until: datetime.date | None = None
    """Last day (UTC) on which the key is accepted; none for always."""
    principals: tuple[str, ...] = ()
    """When given, the key is a certificate authority: a certificate that it signed gets in with
    one of these principals (ssh-keygen(1), -n), the key itself does not."""
    role: Literal["admin", "build"] = "admin"
    """What those who got in with it may do: everything, or build, pull, push, tag and read."""

    @pydantic.field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not _KEY_NAME.match(name):
            raise ValueError(
                "must be 1 to 64 letters, digits, dots, dashes, underscores or @, and start with "
                "a letter or digit"
            )
        return name

    @pydantic.field_validator("principals")
    @classmethod
    def _check_principals(cls, principals: tuple[str, ...]) -> tuple[str, ...]:
        for text in principals:
            if not _WORD.match(text):
                raise ValueError(f"{text!r} must be {_WORD_RULE}")
        return principals

    @pydantic.field_validator("from_")
    @classmethod
    def _check_from(cls, ranges: tuple[str, ...]) -> tuple[str, ...]:
        for text in ranges:
            try:
                ipaddress.ip_network(text)
            except ValueError:
                raise ValueError(
                    f"{text!r} must be an address or a CIDR range without host bits, such as "
                    "192.0.2.7 or 192.0.2.0/24"
                ) from None
        return ranges

    @property
    def has_expired(self) -> bool:
        """Whether the last day (UTC) has passed."""
        return self.until is not None and self.until < datetime.datetime.now(datetime.UTC).date()

    @property
    def is_authority(self) -> bool:
        return bool(self.principals)

    @property
    def last_second(self) -> str:
        """The last second (UTC) of `until`, as YYYYMMDDHHMMSS; empty for none."""
        return f"{self.until:%Y%m%d}235959" if self.until else ""


class Revocation(_Model):
    """One entry of `revoked`: a key by its fingerprint, or a certificate by serial or id."""

    fingerprint: str = ""
    """Of a key or of a certificate's key, as sshd logs it: "SHA256:" and 43 base64 digits."""
    ca: str = ""
    """Name of the key, of those with `principals`, that signed the certificate."""
    serial: Annotated[int | None, Field(ge=1, lt=2**64)] = None
    id: str = ""
    """The certificate's identity (ssh-keygen(1), -I)."""

    @pydantic.field_validator("fingerprint")
    @classmethod
    def _check_fingerprint(cls, text: str) -> str:
        if text and not _FINGERPRINT.match(text):
            raise ValueError("must be as `ssh-keygen -lf` shows it: SHA256: and 43 characters")
        return text

    @pydantic.field_validator("id")
    @classmethod
    def _check_id(cls, text: str) -> str:
        if text and not _WORD.match(text):
            raise ValueError(f"must be {_WORD_RULE}; revoke another one by serial or fingerprint")
        return text

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        kinds = [bool(self.fingerprint), self.serial is not None, bool(self.id)]
        if sum(kinds) != 1 or bool(self.ca) == bool(self.fingerprint):
            raise ValueError(
                "must be one of {fingerprint: SHA256:...}, {ca: <name of a key>, serial: <number>}"
                " and {ca: <name of a key>, id: <text>}"
            )
        return self

    @property
    def line(self) -> str:
        """The line of ssh-keygen's KRL specification (ssh-keygen(1))."""
        if self.fingerprint:
            return f"hash: {self.fingerprint}"
        return f"serial: {self.serial}" if self.serial is not None else f"id: {self.id}"


class Settings(_Model):
    """Everything a stack can set; the field names in camelCase are the names in Pulumi.yaml."""

    host: Annotated[str, AfterValidator(_check_host_url)] = "unix:///var/run/docker.sock"
    host_key: Annotated[str, AfterValidator(_as_public_key_text)] = ""
    platforms: tuple[Annotated[str, AfterValidator(_check_platform)], ...] = ()
    prepare: bool = False
    ssh_host: Annotated[str, AfterValidator(_check_host_name)] = ""
    ssh_address: Annotated[str, AfterValidator(_check_address)] = "0.0.0.0"
    ssh_port: Port = 2222
    keys: tuple[AuthorizedKey, ...] = ()
    revoked: tuple[Revocation, ...] = ()
    host_keys: Annotated[tuple[int, ...], Field(min_length=1, max_length=3)] = (1,)
    transport: Literal["socket", "tls"] = "socket"
    isolation: Literal["unprivileged", "privileged"] = "unprivileged"
    private_networks: Literal["allow", "block"] = "allow"
    private_networks_except: tuple[Annotated[str, AfterValidator(_check_network)], ...] = ()
    daemon_image: Annotated[str, AfterValidator(_check_image)] = "docker:29.7.2-dind-rootless"
    gateway_image: Annotated[str, AfterValidator(_check_image)] = (
        "lscr.io/linuxserver/openssh-server:10.3_p1-r1-ls238"
    )
    guard_image: Annotated[str, AfterValidator(_check_image)] = "python:3.13.9-alpine3.22"
    cache_size: Annotated[str, _check_disk_space("1GB")] = "40%"
    min_free_space: Annotated[str, _check_disk_space("100MB")] = "10%"
    keep_cache: bool = True
    leftover_age: Annotated[str, _check_age("10s")] = "1d"
    image_age: Annotated[str, _check_age("10s")] = "14d"
    keep_images: tuple[Annotated[str, AfterValidator(_check_pattern)], ...] = ()
    drain_time: Annotated[str, _check_age("0s")] = "10m"
    memory: Annotated[str, _check_size("512MB")] = ""
    cpus: Annotated[str, BeforeValidator(_as_text), AfterValidator(_check_cpus)] = ""
    processes: Annotated[int, Field(ge=500, le=1_000_000)] = 16384
    insecure_registries: tuple[Annotated[str, AfterValidator(_check_registry)], ...] = ()

    @pydantic.field_validator("host_keys")
    @classmethod
    def _check_generations(cls, generations: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(generations)) != len(generations) or min(generations) < 1:
            raise ValueError("must be different whole numbers from 1 up, such as [1] or [1, 2]")
        return generations

    @pydantic.field_validator("keys")
    @classmethod
    def _check_keys(cls, keys: tuple[AuthorizedKey, ...]) -> tuple[AuthorizedKey, ...]:
        problems = []
        if not keys:
            problems.append(
                "is empty, so nobody could log in; next: pulumi config set --path 'keys[0].name' "
                "me && pulumi config set --path 'keys[0].publicKey' "
                '"$(cat ~/.ssh/id_ed25519.pub)"'
            )
        names: set[str] = set()
        owners: dict[str, str] = {}
        for key in keys:
            if key.name in names:
                problems.append(f"has the name {key.name!r} twice; names must differ")
            names.add(key.name)
            other = owners.setdefault(key.public_key.base64, key.name)
            if other != key.name:
                problems.append(f"has one key under two names, {other!r} and {key.name!r}")
        if problems:
            raise ValueError("; ".join(problems))
        return keys

    @model_validator(mode="after")
    def _check_host_key(self) -> Self:
        if self.host.startswith("ssh://") and not self.host_key:
            name = urlsplit(self.host).hostname
            raise ValueError(
                f"hostKey is empty, but host = {self.host} is reached over SSH and must be known "
                f"before the first connection; next: compare `ssh-keyscan -t ed25519 {name}` with "
                "what the host's owner tells you, then pulumi config set hostKey 'ssh-ed25519 "
                "AAAA...'"
            )
        return self

    @model_validator(mode="after")
    def _check_private_networks(self) -> Self:
        if self.private_networks == "block" and self.isolation == "privileged":
            raise ValueError(
                "privateNetworks = 'block' needs isolation = 'unprivileged', where what sets the "
                "rules up has that power alone; next: change one of them"
            )
        return self

    @model_validator(mode="after")
    def _check_revoked(self) -> Self:
        authorities = [key.name for key in self.keys if key.is_authority]
        unknown = sorted({entry.ca for entry in self.revoked} - {"", *authorities})
        if unknown:
            raise ValueError(
                f"revoked names {', '.join(unknown)} as ca; allowed: the name of a key with "
                f"principals ({', '.join(authorities) or 'there is none'}); next: correct the "
                "name, or remove the entry if the authority is gone"
            )
        return self

    @model_validator(mode="after")
    def _check_roles(self) -> Self:
        limited = [key.name for key in self.active_keys if key.role == "build"]
        if limited and self.transport == "tls":
            raise ValueError(
                f"keys gives {', '.join(limited)} the role build, which transport = tls cannot "
                "serve; next: pulumi config set transport socket, or give them no role"
            )
        return self

    @property
    def active_keys(self) -> tuple[AuthorizedKey, ...]:
        """The keys that get in: all but the expired ones."""
        return tuple(key for key in self.keys if not key.has_expired)

    @property
    def has_build_keys(self) -> bool:
        """Whether there is a key that the guard has to serve."""
        return any(key.role == "build" for key in self.active_keys)

    @property
    def ssh_name(self) -> str:
        """The name or address by which clients reach the gateway."""
        return self.ssh_host or urlsplit(self.host).hostname or "127.0.0.1"

    @classmethod
    def parse(cls, raw: Mapping[str, str]) -> Self:
        """Check the raw configuration: names without project, values as the engine gives them.

        Raises ValueError whose text names every wrong setting, its value, what is allowed and
        the next step.
        """
        values: dict[str, Any] = {}
        problems: list[str] = []
        for name, text in raw.items():
            if text[:1] in ("[", "{"):
                try:
                    values[name] = json.loads(text)
                except json.JSONDecodeError as error:
                    problems.append(f"{name} = {_shown(text)}: must be JSON ({error})")
            else:
                values[name] = text
        return cls._checked(values, problems)

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Self:
        """Check values that have their types already: names in camelCase or in snake_case.

        Raises ValueError as `parse` does.
        """
        return cls._checked(arguments, [])

    @classmethod
    def _checked(cls, values: Mapping[str, Any], problems: list[str]) -> Self:
        try:
            settings = cls.model_validate(values)
        except pydantic.ValidationError as invalid:
            problems += [_explain(error) for error in invalid.errors()]
        else:
            if not problems:
                return settings
        count = "One setting is" if len(problems) == 1 else f"{len(problems)} settings are"
        raise ValueError(
            f"{count} not usable; nothing was created or changed.\n"
            + "\n".join(f"  - {problem}" for problem in problems)
        )

    @property
    def arguments(self) -> dict[str, Any]:
        """Every setting in its plain form, by the names in Pulumi.yaml; `of` reads it back."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class FleetHost(_Model):
    """One entry of `hosts`: a machine that gets a builder of its own."""

    name: str
    """What its builder is told apart by: `builder-<name>`."""
    host: Annotated[str, AfterValidator(_check_host_url)]
    host_key: Annotated[str, AfterValidator(_as_public_key_text)] = ""
    ssh_host: Annotated[str, AfterValidator(_check_host_name)] = ""
    ssh_address: Annotated[str, AfterValidator(_check_address)] | None = None
    """The stack's when left out, as is the port."""
    ssh_port: Port | None = None
    platforms: tuple[Annotated[str, AfterValidator(_check_platform)], ...] = ()
    labels: dict[str, str] = {}
    """What projects choose hosts by (client/assign.py)."""
    weight: Annotated[int, Field(ge=1, le=100)] = 1
    """Its share of the projects, against the other hosts' weights."""

    @pydantic.field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not _HOST_ENTRY_NAME.match(name):
            raise ValueError(
                "must be 1 to 30 small letters, digits and dashes, and start with a letter"
            )
        return name

    @pydantic.field_validator("labels")
    @classmethod
    def _check_labels(cls, labels: dict[str, str]) -> dict[str, str]:
        for word in (*labels, *labels.values()):
            if not _WORD.match(word):
                raise ValueError(f"{word!r} must be {_WORD_RULE}")
        return labels

    @model_validator(mode="after")
    def _check_known(self) -> Self:
        if self.host.startswith("ssh://") and not self.host_key:
            raise ValueError(f"{self.name} has host = {self.host} and no hostKey")
        return self


class RegistrySettings(_Model):
    """The setting `registry`: a store and a mirror on one of the hosts."""

    host: str = ""
    """Name of the entry of `hosts`; needed where there are several."""
    name: Annotated[str, AfterValidator(_check_server_name)] = ""
    """What builders call that host; as its ssh:// URL does when left out."""
    address: Annotated[str, AfterValidator(_check_address)] = "0.0.0.0"
    """Of the host, on which store and mirror listen."""
    port: Port = 5000
    """Of the store: what builders push to and pull from."""
    mirror_port: Port = 5001
    upstream: Annotated[str, AfterValidator(_check_upstream)] = "https://registry-1.docker.io"
    """What the mirror asks for what it does not have; builders ask it for images of Docker Hub."""
    size: Annotated[str, _check_size("10MB")] = "20GB"
    """Of the store; beyond it the tags that were pushed the longest ago go."""
    age: Annotated[str, _check_age("10s")] = "30d"
    """After it, since its last push, a tag goes."""
    certificates: Annotated[int, Field(ge=1)] = 1
    """Generation; another one is made anew, all of them."""


def _registry_or_none(value: object) -> object:
    return None if value == {} else value


class StackSettings(Settings):
    """The settings of a stack: those of its builder, or of the builders of its `hosts`."""

    hosts: tuple[FleetHost, ...] = ()
    buildkit_image: Annotated[str, AfterValidator(_check_image)] = "moby/buildkit:v0.26.2"
    registry: Annotated[RegistrySettings | None, BeforeValidator(_registry_or_none)] = None
    registry_image: Annotated[str, AfterValidator(_check_image)] = "registry:3.0.0"

    @model_validator(mode="after")
    def _check_hosts(self) -> Self:
        if not self.hosts:
            return self
        alone = ("host", "host_key", "ssh_host", "platforms")
        given = [
            name for name in alone if getattr(self, name) != Settings.model_fields[name].default
        ]
        if given:
            raise ValueError(
                f"{', '.join(map(to_camel, given))} and hosts exclude each other: give each entry "
                "of hosts its own"
            )
        names = [entry.name for entry in self.hosts]
        places = [
            (urlsplit(entry.host).hostname, entry.ssh_port or self.ssh_port) for entry in self.hosts
        ]
        for what, values in (("name", names), ("sshPort on one host", places)):
            if len(set(values)) != len(values):
                raise ValueError(f"hosts has the same {what} twice; they must differ")
        return self

    @model_validator(mode="after")
    def _check_registry(self) -> Self:
        if self.registry is None:
            return self
        names = [entry.name for entry in self.hosts]
        if (self.registry.host or len(names) > 1) and self.registry.host not in names:
            raise ValueError(
                f"registry.host = {self.registry.host!r} must be the name of an entry of hosts: "
                f"{', '.join(names) or 'there is none, so leave it out'}"
            )
        name = self.registry_name
        # What these are in a builder's container: itself, and the bridge of its own daemon.
        if name in ("", "localhost") or name.startswith(("127.", "172.17.")) or ":" in name:
            raise ValueError(
                f"registry.name = {name!r} must be a name or IPv4 address of the registry's host, "
                "as builders reach it from their containers: not localhost, not in 172.17.0.0/16; "
                "next: pulumi config set --path registry.name <an address of that host>"
            )
        ports = [self.registry.port, self.registry.mirror_port, self.registry_builder.ssh_port]
        if len(set(ports)) != len(ports):
            raise ValueError(
                f"registry has port = {ports[0]} and mirrorPort = {ports[1]}, and its host has "
                f"sshPort = {ports[2]}; they must differ"
            )
        return self

    @property
    def registry_builder(self) -> Settings:
        """The settings of the builder beside which the registry is, on the same host."""
        chosen = self.registry.host if self.registry else ""
        return self.builders.get(f"builder-{chosen}") or next(iter(self.builders.values()))

    @property
    def registry_name(self) -> str:
        """The name or address by which builders reach the registry; empty when it has none."""
        given = self.registry.name if self.registry else ""
        return given or urlsplit(self.registry_builder.host).hostname or ""

    @property
    def builders(self) -> dict[str, Settings]:
        """The settings of each builder, by the component's name."""
        shared = {
            name: getattr(self, name) for name in Settings.model_fields if name != "platforms"
        }
        if not self.hosts:
            return {"builder": Settings.model_construct(**shared, platforms=self.platforms)}
        return {
            f"builder-{entry.name}": Settings.model_construct(
                **shared
                | {
                    "host": entry.host,
                    "host_key": entry.host_key,
                    "ssh_host": entry.ssh_host,
                    "ssh_address": entry.ssh_address or self.ssh_address,
                    "ssh_port": entry.ssh_port or self.ssh_port,
                    "platforms": entry.platforms,
                }
            )
            for entry in self.hosts
        }


def _shown(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # other languages give every number as one
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    if "PRIVATE KEY" in text:
        return "(not shown)"
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _setting_name(location: tuple[int | str, ...]) -> str:
    """The name in Pulumi.yaml, whichever of a field's two names was given."""
    models: list[type[_Model]] = [
        StackSettings,
        FleetHost,
        AuthorizedKey,
        Revocation,
        RegistrySettings,
    ]
    fields = {key: field for model in models for key, field in model.model_fields.items()}
    name = ""
    for part in location:
        if part in fields:
            part = fields[str(part)].alias or to_camel(str(part))
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else part
    return name


def _explain(error: Any) -> str:
    """One line for one pydantic error: setting, value, what is allowed, next step."""
    name, value = _setting_name(error["loc"]), error.get("input")
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        models: dict[str, type[_Model]] = {
            "keys": AuthorizedKey,
            "revoked": Revocation,
            "hosts": FleetHost,
            "registry": RegistrySettings,
        }
        model = models.get(error["loc"][0], StackSettings)
        known = [field.alias or to_camel(key) for key, field in model.model_fields.items()]
        last = str(error["loc"][-1])
        close = difflib.get_close_matches(last, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(sorted(known))}"
        remove = f"; or remove it: pulumi config rm {name}" if model is StackSettings else ""
        return f"{name} is not a setting; {hint}{remove}"
    if kind == "missing":
        return f"{name} is not set; give it a value"
    if kind == "value_error" and not name:
        return str(context["error"])
    if kind == "value_error":
        reason = str(context["error"])
    elif kind == "literal_error":
        reason = f"must be {context['expected']}"
    elif kind in ("greater_than_equal", "less_than_equal", "int_parsing", "int_from_float"):
        allowed = {"sshPort": "1 to 65535", "processes": "500 to 1000000"}
        reason = f"must be a whole number from {allowed[name]}" if name in allowed else error["msg"]
    else:
        reason = error["msg"][:1].lower() + error["msg"][1:]
    if isinstance(value, dict | list | tuple):
        return f"{name} {reason}"
    return f"{name} = {_shown(value)} {reason}"


def load_settings() -> StackSettings:
    """The settings of the running stack.

    Raises pulumi.RunError with every problem of the configuration in one message.
    """
    project = pulumi.get_project() + ":"
    raw = {
        name.removeprefix(project): value
        for name, value in pulumi.runtime.get_config_env().items()
        if name.startswith(project)
    }
    try:
        return StackSettings.parse(raw)
    except ValueError as error:
        raise pulumi.RunError(str(error)) from None
