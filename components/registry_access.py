"""How clients of a registry reach it: addresses and certificates."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import pulumi
import pulumi_docker as docker

from components.scope import upload


@dataclass(frozen=True)
class RegistryAccess:
    """The parts of arguments.RegistryClient, which describes them; only the key is a secret."""

    store: pulumi.Output[str]
    mirror: pulumi.Output[str]
    mirrored: pulumi.Output[dict[str, str]]
    ca: pulumi.Output[str]
    certificate: pulumi.Output[str]
    key: pulumi.Output[str]

    @classmethod
    def of(cls, given: pulumi.Input[Mapping[str, Any]]) -> RegistryAccess:
        """The outputs of a registry, each by its name, or all of them as one Output.

        Raises ValueError when one of them is missing.
        """
        names = [field.name for field in fields(cls) if field.name != "mirrored"]
        if isinstance(given, Mapping) and (missing := sorted({*names} - given.keys())):
            raise ValueError(
                f"registryClient has no {', '.join(missing)}; next: give it the outputs of a "
                "Registry"
            )

        def part(name: str) -> pulumi.Output[Any]:
            if isinstance(given, Mapping):
                return pulumi.Output.from_input(given.get(name))
            return pulumi.Output.all(given).apply(lambda parts: parts[0].get(name))

        return cls(
            store=pulumi.Output.unsecret(part("store")),
            mirror=pulumi.Output.unsecret(part("mirror")),
            # Registries of earlier releases have none.
            mirrored=pulumi.Output.unsecret(part("mirrored").apply(lambda mirrors: mirrors or {})),
            ca=pulumi.Output.unsecret(part("ca")),
            certificate=pulumi.Output.unsecret(part("certificate")),
            key=pulumi.Output.secret(part("key")),
        )

    @property
    def fingerprint(self) -> pulumi.Output[str]:
        """Changes whenever `uploads` change: with any of the certificates, and with the mirrors."""
        return pulumi.Output.all(self.ca, self.mirrored).apply(
            lambda parts: hashlib.sha256(
                (parts[0] + (json.dumps(parts[1], sort_keys=True) if parts[1] else "")).encode()
            ).hexdigest()[:12]
        )

    @property
    def servers(self) -> pulumi.Output[str]:
        """host:port of the store and of all mirrors, separated by a space."""
        return pulumi.Output.all(self.store, self.mirror, self.mirrored).apply(
            lambda parts: " ".join([*parts[:2], *parts[2].values()])
        )

    def uploads(self, folder: str) -> pulumi.Output[list[docker.ContainerUploadArgs]]:
        """The registry's files for a dockerd whose certs.d is `folder`.

        Everybody in the daemon's container can read them, because uploads belong to root and the
        daemon's user must read them. Build steps and containers have another root folder.
        """
        parts = pulumi.Output.all(
            self.store, self.mirror, self.mirrored, self.ca, self.certificate, self.key
        )

        def files(parts: list[Any]) -> list[docker.ContainerUploadArgs]:
            store, mirror, mirrors, *texts = parts

            def certificates(server: str) -> list[docker.ContainerUploadArgs]:
                names = ("ca.crt", "client.cert", "client.key")
                return [
                    upload(f"{folder}/{server}/{name}", text)
                    for name, text in zip(names, texts, strict=True)
                ]

            def hosts(registry: str, url: str, server: str) -> docker.ContainerUploadArgs:
                return upload(f"{folder}/{registry}/hosts.toml", _hosts(url, server, folder))

            return [
                *certificates(store),
                *certificates(mirror),
                hosts("docker.io", "https://registry-1.docker.io", mirror),
                *(file for server in mirrors.values() for file in certificates(server)),
                *(hosts(name, f"https://{name}", server) for name, server in mirrors.items()),
            ]

        return parts.apply(files)


def without_client(
    args: Mapping[str, Any],
) -> tuple[dict[str, Any], pulumi.Input[Mapping[str, Any]] | None]:
    """Split a component's arguments into settings and `registryClient`, which may be missing.

    It is not a setting, so it is not among the component's inputs, which a preview shows.
    """
    names = ("registryClient", "registry_client")
    client = next((args[name] for name in names if args.get(name) is not None), None)
    return {name: value for name, value in args.items() if name not in names}, client


def _hosts(url: str, mirror: str, certs_d: str) -> str:
    """hosts.toml that asks the mirror first, and the registry at `url` if the mirror fails.

    BuildKit in dockerd 28 and newer reads it, and so does `docker pull` with containerd's image
    store. With registry-mirrors only, that BuildKit would send a mirror the certificates in certs.d
    for docker.io (moby's daemon/hosts.go).
    """
    folder = f"{certs_d}/{mirror}"
    return f"""server = "{url}"

[host."https://{mirror}"]
capabilities = ["pull", "resolve"]
ca = "{folder}/ca.crt"
client = [["{folder}/client.cert", "{folder}/client.key"]]
"""
