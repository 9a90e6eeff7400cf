"""The settings of a stack: of its builder or builders, its hosts and its registry."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Self
from urllib.parse import urlsplit

import pulumi
import pydantic
from pydantic import BeforeValidator, Field, model_validator
from pydantic.alias_generators import to_camel

from components.settings.builder import Settings
from components.settings.given import Given
from components.settings.model import Model, default
from components.settings.registry import (
    REACHABLE,
    RegistryOptions,
    RegistrySettings,
    is_reachable,
)
from components.settings.values import (
    Address,
    HostKeyText,
    HostName,
    HostUrl,
    ImageReference,
    ListenerText,
    Platform,
    Port,
    check_host_key,
    check_word,
    matching,
)

_HostEntryName = Annotated[
    str,
    matching(
        "[a-z][a-z0-9-]{0,29}",
        "1 to 30 small letters, digits and dashes, and start with a letter",
    ),
]


class FleetHost(Model):
    """One entry of `hosts`: a machine with its own builder, `builder-<name>`.

    arguments.Host describes the fields.
    """

    name: _HostEntryName
    host: HostUrl
    host_key: HostKeyText = ""
    ssh_host: HostName = ""
    ssh_address: Address | None = None
    ssh_port: Port | None = None
    metrics: ListenerText | None = None
    platforms: tuple[Platform, ...] = ()
    labels: dict[str, str] = {}
    weight: Annotated[int, Field(ge=1, le=100)] = 1

    @pydantic.field_validator("labels")
    @classmethod
    def _check_labels(cls, labels: dict[str, str]) -> dict[str, str]:
        for word in (*labels, *labels.values()):
            check_word(word)
        return labels

    @model_validator(mode="after")
    def _check_host_key(self) -> Self:
        check_host_key(self.host, self.host_key, "set hostKey of this entry to it")
        return self


class StackRegistry(RegistryOptions):
    """The setting `registry`: a store and a mirror on one of the hosts."""

    host: str = ""
    """Name of an entry of `hosts`; required with several hosts."""


def _registry_or_none(value: object) -> object:
    return None if value == {} else value


class StackSettings(Settings):
    """The settings of a stack with one builder, or with a builder on each of its `hosts`."""

    hosts: tuple[FleetHost, ...] = default("hosts")
    buildkit_image: ImageReference = default("buildkitImage")
    registry: Annotated[StackRegistry | None, BeforeValidator(_registry_or_none)] = default(
        "registry"
    )
    registry_image: ImageReference = default("registryImage")

    @model_validator(mode="after")
    def _check_hosts(self) -> Self:
        if not self.hosts:
            return self
        per_host = ("host", "host_key", "ssh_host", "platforms")
        given = [
            name for name in per_host if getattr(self, name) != Settings.model_fields[name].default
        ]
        if given:
            raise ValueError(
                f"{', '.join(map(to_camel, given))} and hosts exclude each other; next: set this "
                "in each entry of hosts instead"
            )
        names = [entry.name for entry in self.hosts]
        places = [
            (urlsplit(entry.host).hostname, entry.ssh_port or self.ssh_port) for entry in self.hosts
        ]
        pages = [
            (urlsplit(builder.host).hostname, builder.metrics.port)
            for builder in self.builders.values()
            if builder.metrics
        ]
        for what, values in (
            ("name", names),
            ("sshPort on one host", places),
            ("port of metrics on one host", pages),
        ):
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
        beside = self._beside_registry
        name = self.registry.name or urlsplit(beside.host).hostname or ""
        if not is_reachable(name):
            raise ValueError(
                f"registry.name = {name!r} must be {REACHABLE}; next: pulumi config set --path "
                "registry.name <an address of that host>"
            )
        ports = self.registry.ports
        if len({*ports.values(), beside.ssh_port}) != len(ports) + 1:
            shown = " and ".join(f"{name} = {port}" for name, port in ports.items())
            raise ValueError(
                f"registry has {shown}, and its host has sshPort = {beside.ssh_port}; they must "
                "differ"
            )
        if beside.metrics.port in ports.values():
            raise ValueError(
                f"registry has the port of metrics = '{beside.metrics}' on its host; next: choose "
                "another port"
            )
        return self

    @property
    def _beside_registry(self) -> Settings:
        """The settings of the builder on the registry's host."""
        chosen = self.registry.host if self.registry else ""
        return self.builders.get(chosen) or next(iter(self.builders.values()))

    @property
    def placed_registry(self) -> RegistrySettings | None:
        """The complete settings of the registry, with host and image; None without `registry`."""
        if self.registry is None:
            return None
        host, host_key = self._beside_registry.host, self._beside_registry.host_key
        return RegistrySettings(
            **self.registry.model_dump(exclude={"host"})
            | {
                "name": self.registry.name or urlsplit(host).hostname,
                "host": host,
                "host_key": host_key,
                "image": self.registry_image,
            }
        )

    @cached_property
    def builders(self) -> dict[str, Settings]:
        """The settings of each builder by the name of its host, which is empty without `hosts`."""
        shared = {
            name: getattr(self, name) for name in Settings.model_fields if name != "platforms"
        }
        if not self.hosts:
            return {"": Settings(**shared, platforms=self.platforms)}
        return {
            entry.name: Settings(
                **shared
                | {
                    "host": entry.host,
                    "host_key": entry.host_key,
                    "ssh_host": entry.ssh_host,
                    "ssh_address": entry.ssh_address or self.ssh_address,
                    "ssh_port": entry.ssh_port or self.ssh_port,
                    "metrics": self.metrics if entry.metrics is None else entry.metrics,
                    "platforms": entry.platforms,
                }
            )
            for entry in self.hosts
        }


def load_settings() -> Given[StackSettings]:
    """The settings of the running stack, all of them known.

    Raises pulumi.RunError with every problem of the configuration in one message.
    """
    project = pulumi.get_project() + ":"
    raw = {
        name.removeprefix(project): value
        for name, value in pulumi.runtime.get_config_env().items()
        if name.startswith(project)
    }
    try:
        settings = StackSettings.parse(raw)
        if settings.registry and settings.registry.has_token and not _is_encrypted("registry"):
            raise ValueError(
                "registry has a token in clear in the stack's configuration; next: make a new "
                "token, and pulumi config set --secret --path registry.token (of another mirror: "
                "'registry.mirrors[0].token')"
            )
    except ValueError as error:
        raise pulumi.RunError(str(error)) from None
    return Given.all_known(settings)


def _is_encrypted(setting: str) -> bool:
    """Whether the setting, or something in it, was set as a secret."""
    return f"{pulumi.get_project()}:{setting}" in pulumi.runtime.get_config_secret_keys_env()
