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
    at_least,
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
    """How a mirror logs in at its upstream; without both it does not."""

    user: UserName = ""
    token: Token = ""

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
    """A mirror of one more registry than Docker Hub; arguments.RegistryMirror describes it."""

    registry: RegistryName
    port: Port
    upstream: UpstreamUrl | None = None
    check: Repository = ""

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
    """The settings of a registry that do not depend on its host.

    arguments.RegistryArgs describes the fields.
    """

    name: ServerName = ""
    address: Address = "0.0.0.0"
    port: Port = 5000
    mirror_port: Port = 5001
    upstream: UpstreamUrl = "https://registry-1.docker.io"
    mirrors: tuple[Mirror, ...] = ()
    size: Annotated[SizeText, at_least(Size.parse("10MB"))] = Size.parse("20GB")
    age: Annotated[AgeText, at_least(Age.parse("10s"))] = Age.parse("30d")
    certificates: Annotated[int, Field(ge=1)] = 1

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
