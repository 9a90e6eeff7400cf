"""What the stack's registry gives to its clients."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import pulumi
import pulumi_docker as docker

from components.scope import upload


@dataclass(frozen=True)
class Certificates:
    """One generation, in PEM; keys are secrets. All of them end ten years after they were made."""

    ca: pulumi.Output[str]
    server: pulumi.Output[str]
    server_key: pulumi.Output[str]
    client: pulumi.Output[str]
    client_key: pulumi.Output[str]

    @property
    def fingerprint(self) -> pulumi.Output[str]:
        """Of the CA: differs whenever any of them does."""
        return self.ca.apply(lambda text: hashlib.sha256(text.encode()).hexdigest()[:12])


@dataclass(frozen=True)
class RegistryAccess:
    """Where the registry is, and what tells it who asks."""

    name: str
    """Host name or address, as builders reach it."""
    port: int
    mirror_port: int
    certificates: Certificates

    @property
    def store(self) -> str:
        """host:port, as image names begin."""
        return f"{self.name}:{self.port}"

    @property
    def mirror(self) -> str:
        """host:port of the mirror."""
        return f"{self.name}:{self.mirror_port}"

    def uploads(self, folder: str) -> list[docker.ContainerUploadArgs]:
        """The files of a dockerd whose certs.d is `folder`.

        Everybody in the container may read them: that is the daemon's user, which no upload can
        belong to; build steps and containers see another root.
        """
        files = {
            "ca.crt": self.certificates.ca,
            "client.cert": self.certificates.client,
            "client.key": self.certificates.client_key,
        }
        return [
            *(
                upload(f"{folder}/{server}/{name}", text)
                for server in (self.store, self.mirror)
                for name, text in files.items()
            ),
            upload(f"{folder}/docker.io/hosts.toml", self._hub(f"{folder}/{self.mirror}")),
        ]

    def _hub(self, folder: str) -> str:
        """Docker Hub by the mirror, whose certificates are in `folder`, for BuildKit.

        With registry-mirrors alone the BuildKit of dockerd 28 shows a mirror what is in certs.d
        for docker.io (moby's daemon/hosts.go); older ones do not read this file and need none.
        """
        return f"""server = "https://registry-1.docker.io"

[host."https://{self.mirror}"]
capabilities = ["pull", "resolve"]
ca = "{folder}/ca.crt"
client = [["{folder}/client.cert", "{folder}/client.key"]]
"""

    def client(self) -> pulumi.Output[dict[str, str]]:
        """What any other client needs; a secret."""
        return pulumi.Output.all(
            store=self.store,
            mirror=self.mirror,
            ca=self.certificates.ca,
            certificate=self.certificates.client,
            key=self.certificates.client_key,
        )
