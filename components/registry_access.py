"""How clients of a registry reach it: addresses and certificates."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import pulumi
import pulumi_docker as docker

from components.scope import upload


@dataclass(frozen=True)
class RegistryAccess:
    """The registry's addresses, and the certificates of a client. Only the key is a secret."""

    store: pulumi.Output[str]
    """host:port of the store, with which image names begin."""
    mirror: pulumi.Output[str]
    """host:port of the mirror."""
    ca: pulumi.Output[str]
    """The CA's certificate; this and the next two are in PEM."""
    certificate: pulumi.Output[str]
    key: pulumi.Output[str]

    @classmethod
    def of(cls, given: pulumi.Input[Mapping[str, Any]]) -> RegistryAccess:
        """The outputs of a registry, each by its name, or all of them as one Output.

        Raises ValueError when one of them is missing.
        """
        names = [field.name for field in fields(cls)]
        if isinstance(given, Mapping) and (missing := sorted({*names} - given.keys())):
            raise ValueError(
                f"registryClient has no {', '.join(missing)}; next: give it the outputs of a "
                "Registry"
            )

        def part(name: str) -> pulumi.Output[str]:
            if isinstance(given, Mapping):
                return pulumi.Output.from_input(given[name])
            return pulumi.Output.all(given).apply(lambda parts: str(parts[0][name]))

        return cls(
            store=pulumi.Output.unsecret(part("store")),
            mirror=pulumi.Output.unsecret(part("mirror")),
            ca=pulumi.Output.unsecret(part("ca")),
            certificate=pulumi.Output.unsecret(part("certificate")),
            key=pulumi.Output.secret(part("key")),
        )

    @property
    def fingerprint(self) -> pulumi.Output[str]:
        """Fingerprint of the CA; it changes whenever any of the certificates changes."""
        return self.ca.apply(lambda text: hashlib.sha256(text.encode()).hexdigest()[:12])

    def uploads(self, folder: str) -> list[docker.ContainerUploadArgs]:
        """The registry's files for a dockerd whose certs.d is `folder`.

        Everybody in the daemon's container can read them, because uploads belong to root and the
        daemon's user must read them. Build steps and containers have another root folder.
        """
        files = {"ca.crt": self.ca, "client.cert": self.certificate, "client.key": self.key}
        return [
            *(
                upload(pulumi.Output.format("{}/{}/{}", folder, server, name), text)
                for server in (self.store, self.mirror)
                for name, text in files.items()
            ),
            upload(f"{folder}/docker.io/hosts.toml", self.mirror.apply(lambda m: _hub(m, folder))),
        ]


def without_client(
    args: Mapping[str, Any],
) -> tuple[dict[str, Any], pulumi.Input[Mapping[str, Any]] | None]:
    """Split a component's arguments into settings and `registryClient`, which may be missing.

    It is not a setting, so it is not among the component's inputs, which a preview shows.
    """
    names = ("registryClient", "registry_client")
    client = next((args[name] for name in names if args.get(name) is not None), None)
    return {name: value for name, value in args.items() if name not in names}, client


def _hub(mirror: str, certs_d: str) -> str:
    """hosts.toml that makes BuildKit use the mirror for Docker Hub.

    With registry-mirrors only, the BuildKit of dockerd 28 sends a mirror the certificates in
    certs.d for docker.io (moby's daemon/hosts.go). Older releases do not read or need this file.
    """
    folder = f"{certs_d}/{mirror}"
    return f"""server = "https://registry-1.docker.io"

[host."https://{mirror}"]
capabilities = ["pull", "resolve"]
ca = "{folder}/ca.crt"
client = [["{folder}/client.cert", "{folder}/client.key"]]
"""
