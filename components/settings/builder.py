"""The settings of one builder: typed and checked, with all errors reported at once.

Pulumi.yaml has the defaults and descriptions.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

import pydantic
from pydantic import Field, model_validator

from components.settings.identities import Identity
from components.settings.keys import AuthorizedKey, Revocation
from components.settings.model import Model, default
from components.settings.values import (
    Address,
    Age,
    AgeText,
    CollectorUrl,
    Cpus,
    DiskSpaceText,
    HostKeyText,
    HostName,
    HostUrl,
    ImagePattern,
    ImageReference,
    LimitText,
    ListenerText,
    Network,
    Platform,
    Port,
    RegistryName,
    Size,
    at_least,
    at_least_space,
    check_host_key,
)


class Settings(Model):
    """The settings of one builder; the field names in camelCase are the names in Pulumi.yaml."""

    host: HostUrl = default("host")
    host_key: HostKeyText = default("hostKey")
    platforms: tuple[Platform, ...] = default("platforms")
    prepare: bool = default("prepare")
    ssh_host: HostName = default("sshHost")
    ssh_address: Address = default("sshAddress")
    ssh_port: Port = default("sshPort")
    keys: tuple[AuthorizedKey, ...] = default("keys")
    revoked: tuple[Revocation, ...] = default("revoked")
    identities: tuple[Identity, ...] = default("identities")
    host_keys: Annotated[tuple[int, ...], Field(min_length=1, max_length=3)] = default("hostKeys")
    transport: Literal["socket", "tls"] = default("transport")
    isolation: Literal["unprivileged", "privileged"] = default("isolation")
    private_networks: Literal["allow", "block"] = default("privateNetworks")
    private_networks_except: tuple[Network, ...] = default("privateNetworksExcept")
    daemon_image: ImageReference = default("daemonImage")
    gateway_image: ImageReference = default("gatewayImage")
    guard_image: ImageReference = default("guardImage")
    image_store: Literal["keep", "containerd", "overlay2"] = default("imageStore")
    cache_size: Annotated[DiskSpaceText, at_least_space(Size.parse("1GB"))] = default("cacheSize")
    min_free_space: Annotated[DiskSpaceText, at_least_space(Size.parse("100MB"))] = default(
        "minFreeSpace"
    )
    keep_cache: bool = default("keepCache")
    leftover_age: Annotated[AgeText, at_least(Age.parse("10s"))] = default("leftoverAge")
    image_age: Annotated[AgeText, at_least(Age.parse("10s"))] = default("imageAge")
    keep_images: tuple[ImagePattern, ...] = default("keepImages")
    history_age: Annotated[AgeText, at_least(Age.parse("10s"))] = default("historyAge")
    history_builds: Annotated[int, Field(ge=1, le=100_000)] = default("historyBuilds")
    metrics: ListenerText = default("metrics")
    traces: CollectorUrl = default("traces")
    drain_time: AgeText = default("drainTime")
    memory: Annotated[LimitText, at_least(Size.parse("512MB"))] = default("memory")
    cpus: Cpus = default("cpus")
    processes: Annotated[int, Field(ge=500, le=1_000_000)] = default("processes")
    insecure_registries: tuple[RegistryName, ...] = default("insecureRegistries")

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
        check_host_key(self.host, self.host_key)
        return self

    @model_validator(mode="after")
    def _check_metrics(self) -> Self:
        if self.metrics.port == self.ssh_port:
            raise ValueError(
                f"metrics = '{self.metrics}' has the port of sshPort; next: choose another port"
            )
        return self

    @model_validator(mode="after")
    def _check_private_networks(self) -> Self:
        if self.private_networks == "block" and self.isolation == "privileged":
            raise ValueError(
                "privateNetworks = 'block' needs isolation = 'unprivileged', because a privileged "
                "container has other processes that could change the rules; next: change one of "
                "the two settings"
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
    def _check_identities(self) -> Self:
        names = [key.name for key in self.keys] + [rule.name for rule in self.identities]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"identities has the name {', '.join(twice)} twice, or a key has it too; names "
                "must differ, because the log tells logins apart by them"
            )
        authorities: dict[str, str] = {}
        for rule in self.identities:
            if authorities.setdefault(rule.issuer, rule.issuer_ca) != rule.issuer_ca:
                raise ValueError(
                    f"identities gives {rule.issuer} different values of issuerCa; next: give all "
                    "rules of one issuer the same"
                )
        return self

    @model_validator(mode="after")
    def _check_roles(self) -> Self:
        for setting, grants, which in (
            ("identities", self.active_identities, "which is the default and which"),
            ("keys", self.active_keys, "which"),
        ):
            limited = [grant.name for grant in grants if grant.role == "build"]
            if limited and self.transport == "tls":
                raise ValueError(
                    f"{setting} gives {', '.join(limited)} the role build, {which} transport = tls "
                    "cannot serve; next: pulumi config set transport socket, or give them the role "
                    "admin"
                )
        return self

    @property
    def active_keys(self) -> tuple[AuthorizedKey, ...]:
        """The keys that can log in: all but the expired ones."""
        return tuple(key for key in self.keys if not key.has_expired)

    @property
    def active_identities(self) -> tuple[Identity, ...]:
        """The rules that count: all but the expired ones."""
        return tuple(rule for rule in self.identities if not rule.has_expired)

    @property
    def has_build_keys(self) -> bool:
        """Whether a key or an identity has the role `build`, so that the guard is needed."""
        roles = {key.role for key in self.active_keys}
        return "build" in roles | {rule.role for rule in self.active_identities}

    @property
    def ssh_name(self) -> str:
        """The name or address by which clients reach the gateway."""
        return self.ssh_host or urlsplit(self.host).hostname or "127.0.0.1"
