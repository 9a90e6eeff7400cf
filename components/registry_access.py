"""What a registry gives to its clients."""

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
    """Where the registry is, and what tells it who asks. The key alone is a secret."""

    store: pulumi.Output[str]
    """host:port, as image names begin."""
    mirror: pulumi.Output[str]
    """host:port of the mirror."""
    ca: pulumi.Output[str]
    """Certificates and key in PEM."""
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
        """Of the CA: differs whenever any of the certificates does."""
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
    """The settings among a component's arguments, and its `registryClient` where it has one.

    That is no setting: the component's inputs, which a preview shows, are without it.
    """
    names = ("registryClient", "registry_client")
    client = next((args[name] for name in names if args.get(name) is not None), None)
    return {name: value for name, value in args.items() if name not in names}, client


def _hub(mirror: str, certs_d: str) -> str:
    """Docker Hub by the mirror, for BuildKit.

    With registry-mirrors alone the BuildKit of dockerd 28 shows a mirror what is in certs.d for
    docker.io (moby's daemon/hosts.go); older ones do not read this file and need none.
    """
    folder = f"{certs_d}/{mirror}"
    return f"""server = "https://registry-1.docker.io"

[host."https://{mirror}"]
capabilities = ["pull", "resolve"]
ca = "{folder}/ca.crt"
client = [["{folder}/client.cert", "{folder}/client.key"]]
"""
