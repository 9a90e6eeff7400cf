"""The settings of a registry: a store and a mirror on one host."""

from __future__ import annotations

import re
from typing import Annotated, Self
from urllib.parse import urlsplit

import pydantic
from pydantic import Field, model_validator

from components.settings.model import Model, default
from components.settings.values import (
    Address,
    Age,
    AgeText,
    HostKeyText,
    HostUrl,
    ImageReference,
    Port,
    RegistryName,
    Repository,
    ServerName,
    Size,
    SizeText,
    Token,
    UpstreamUrl,
    UserName,
    at_least_age,
    at_least_size,
    check_host_key,
)

REACHABLE = (
    "a name or IPv4 address of the registry's host, as builders reach it from their containers: "
    "not localhost, not in 172.17.0.0/16"
)


def is_reachable(name: str) -> bool:
    """Whether this name can be the registry's host for builders.

    In a builder's container, localhost is the container itself, and 172.17.0.0/16 is the bridge of
    its own daemon.
    """
    return not (name in ("", "localhost") or name.startswith(("127.", "172.17.")) or ":" in name)


class Login(Model):
    """How a mirror logs in at its upstream."""

    user: UserName = ""
    token: Token = ""
    """The user's access token or password. Empty, as the user: no login."""

    @model_validator(mode="after")
    def _check_login(self) -> Self:
        if bool(self.user) != bool(self.token):
            given, missing = ("user", "token") if self.user else ("token", "user")
            raise ValueError(
                f"{given} is set without {missing}; next: set both, the token with pulumi config "
                "set --secret --path, or none"
            )
        return self


class Mirror(Login):
    """A mirror of one more registry than Docker Hub."""

    registry: RegistryName
    """With which the names of its images begin, such as ghcr.io."""
    port: Port
    upstream: UpstreamUrl | None = None
    """What it pulls from; None: https:// and the registry."""
    check: Repository = ""
    """A repository there that the mirror may pull from. Empty: the login is not checked."""

    @property
    def url(self) -> str:
        return self.upstream or f"https://{self.registry}"

    @property
    def role(self) -> str:
        """The role of its container."""
        return "mirror-" + re.sub(r"[.:]", "-", self.registry.lower())

    @pydantic.field_validator("registry")
    @classmethod
    def _check_registry(cls, registry: str) -> str:
        if registry in ("docker.io", "index.docker.io", "registry-1.docker.io"):
            raise ValueError("is Docker Hub, whose mirror is there already (upstream, mirrorPort)")
        return registry


class RegistryOptions(Login):
    """The settings of a registry that do not depend on its host."""

    name: ServerName = ""
    """Name by which builders reach its host. Empty: the host of its ssh:// URL."""
    address: Address = "0.0.0.0"
    """Address of the host on which store and mirror listen."""
    port: Port = 5000
    """Port of the store, to which builders push and from which they pull."""
    mirror_port: Port = 5001
    upstream: UpstreamUrl = "https://registry-1.docker.io"
    """Registry that the mirror pulls from; builders use the mirror for images of Docker Hub."""
    mirrors: tuple[Mirror, ...] = ()
    """Mirrors of other registries than Docker Hub."""
    size: Annotated[SizeText, at_least_size("10MB")] = Size.parse("20GB")
    """Size of the store above which the tags with the oldest pushes are deleted."""
    age: Annotated[AgeText, at_least_age("10s")] = Age.parse("30d")
    """How long after its last push a tag is deleted."""
    certificates: Annotated[int, Field(ge=1)] = 1
    """Generation of the certificates; another number replaces all of them."""

    @pydantic.field_validator("mirrors")
    @classmethod
    def _check_mirrors(cls, mirrors: tuple[Mirror, ...]) -> tuple[Mirror, ...]:
        if len({mirror.role for mirror in mirrors}) != len(mirrors):
            raise ValueError("has one registry twice, or two that differ only in . : and -")
        return mirrors

    @property
    def ports(self) -> dict[str, int]:
        """The ports of store and mirrors, by their settings."""
        more = {f"port of {mirror.registry}": mirror.port for mirror in self.mirrors}
        return {"port": self.port, "mirrorPort": self.mirror_port, **more}

    @property
    def has_token(self) -> bool:
        """Whether a mirror logs in."""
        return any(login.token for login in (self, *self.mirrors))


class RegistrySettings(RegistryOptions):
    """A registry on this host."""

    host: HostUrl = default("host")
    host_key: HostKeyText = default("hostKey")
    image: ImageReference = default("registryImage")

    @property
    def server(self) -> str:
        """The name or address by which builders reach the host."""
        return self.name or urlsplit(self.host).hostname or ""

    @model_validator(mode="after")
    def _check_host_key(self) -> Self:
        check_host_key(self.host, self.host_key)
        return self

    @model_validator(mode="after")
    def _check_server(self) -> Self:
        if not is_reachable(self.server):
            raise ValueError(f"name = {self.server!r} must be {REACHABLE}; next: give it")
        if len(set(self.ports.values())) != len(self.ports):
            shown = ", ".join(f"{name} = {port}" for name, port in self.ports.items())
            raise ValueError(f"the ports must differ: {shown}")
        return self
