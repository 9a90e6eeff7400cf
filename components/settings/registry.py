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
    """Whether builders can mean the registry's host by this name.

    In a builder's container localhost is itself, and 172.17.0.0/16 the bridge of its own daemon.
    """
    return not (name in ("", "localhost") or name.startswith(("127.", "172.17.")) or ":" in name)


class RegistryOptions(Model):
    """What a registry is, wherever it is."""

    name: ServerName = ""
    """What builders call its host; as its ssh:// URL does when left out."""
    address: Address = "0.0.0.0"
    """Of the host, on which store and mirror listen."""
    port: Port = 5000
    """Of the store: what builders push to and pull from."""
    mirror_port: Port = 5001
    upstream: UpstreamUrl = "https://registry-1.docker.io"
    """What the mirror asks for what it does not have; builders ask it for images of Docker Hub."""
    size: Annotated[SizeText, at_least_size("10MB")] = Size.parse("20GB")
    """Of the store; beyond it the tags that were pushed the longest ago go."""
    age: Annotated[AgeText, at_least_age("10s")] = Age.parse("30d")
    """After it, since its last push, a tag goes."""
    certificates: Annotated[int, Field(ge=1)] = 1
    """Generation; another one is made anew, all of them."""


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
