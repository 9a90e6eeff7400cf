"""Mutual TLS between gateway and daemon, for the transport `tls`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pulumi
import pulumi_docker as docker

from components.container import one_shot
from components.daemon import NETWORK_ALIAS
from components.identity import Identity
from components.volumes import volume

# The entrypoint of docker:<version>-dind-rootless takes these as they are when there is no CA key.
_SERVER_DIRECTORY = "/certs/server"
CLIENT_DIRECTORY = "/tls"


@dataclass(frozen=True)
class Tls:
    """The certificates' volumes, each for one side alone, and the container that filled them."""

    server: docker.Volume
    client: docker.Volume
    certificates: docker.Container

    @classmethod
    def declare(
        cls, identity: Identity, *, image: docker.RemoteImage, opts: pulumi.ResourceOptions
    ) -> Tls:
        """Declare volumes and certificates.

        The CA's key is thrown away once both certificates are signed. They are made anew with
        every daemon image, together with the client binary that fits it.
        """
        server = volume(identity, "tls-server", opts=opts)
        client = volume(identity, "tls-client", opts=opts)
        certificates = one_shot(
            identity,
            "certificates",
            image=image,
            script=(Path(__file__).parent / "tls.sh").read_text(),
            envs=[f"DAEMON_NAME={NETWORK_ALIAS}"],
            volumes=[
                docker.ContainerVolumeArgs(volume_name=server.name, container_path="/server"),
                docker.ContainerVolumeArgs(volume_name=client.name, container_path="/client"),
            ],
            uploads=[],
            # The files become uid 1000's.
            capabilities=("CHOWN", "FOWNER"),
            opts=opts,
        )
        return cls(server, client, certificates)

    def daemon_volumes(self) -> list[docker.ContainerVolumeArgs]:
        return [
            docker.ContainerVolumeArgs(
                volume_name=self.server.name, container_path=_SERVER_DIRECTORY, read_only=True
            )
        ]

    def gateway_volumes(self) -> list[docker.ContainerVolumeArgs]:
        return [
            docker.ContainerVolumeArgs(
                volume_name=self.client.name, container_path=CLIENT_DIRECTORY, read_only=True
            )
        ]

    @staticmethod
    def docker_client() -> list[str]:
        """Environment variables of a docker CLI that has the client's volume."""
        return [
            f"DOCKER_HOST=tcp://{NETWORK_ALIAS}:2376",
            "DOCKER_TLS_VERIFY=1",
            f"DOCKER_CERT_PATH={CLIENT_DIRECTORY}",
        ]
