"""The settings of a registry: a store and a mirror on one host."""

from __future__ import annotations

from typing import Annotated, Self
from urllib.parse import urlsplit

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
    ServerName,
    Size,
    SizeText,
    UpstreamUrl,
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


class RegistryOptions(Model):
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
    size: Annotated[SizeText, at_least_size("10MB")] = Size.parse("20GB")
    """Size of the store above which the tags with the oldest pushes are deleted."""
    age: Annotated[AgeText, at_least_age("10s")] = Age.parse("30d")
    """How long after its last push a tag is deleted."""
    certificates: Annotated[int, Field(ge=1)] = 1
    """Generation of the certificates; another number replaces all of them."""


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
        if self.port == self.mirror_port:
            raise ValueError(f"port and mirrorPort are both {self.port}; they must differ")
        return self
