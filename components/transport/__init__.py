"""How gateway and janitor reach the daemon: what the setting `transport` means."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pulumi
import pulumi_docker as docker

from components.layout import (
    DAEMON_ALIAS,
    DAEMON_SOCKET,
    DAEMON_SOCKET_NAME,
    DAEMON_SOCKETS,
    GATEWAY_SOCKETS,
    GUARD_SOCKET_NAME,
    SOCKET_VARIABLE,
)
from components.scope import Scope, mount

# The entrypoint of docker:<version>-dind-rootless takes these as they are when there is no CA key.
_SERVER_DIRECTORY = "/certs/server"
_CLIENT_DIRECTORY = "/tls"


@dataclass(frozen=True)
class Transport:
    """The way to the daemon, for each of the containers that has an end of it."""

    network: docker.Network
    """The daemon's network."""
    gateway_network: docker.Network
    janitor_network: docker.Network | None
    daemon_volumes: list[docker.ContainerVolumeArgs]
    client_volumes: list[docker.ContainerVolumeArgs]
    """Volumes of gateway and janitor."""
    dockerd: list[str]
    """First words of the daemon's command; options follow."""
    docker_client: list[str]
    """Environment variables of a docker CLI in a container with `client_volumes`."""
    dial: str
    """Shell words that connect standard input and output of a session to the daemon."""
    forwarded_sockets: list[str]
    """Sockets that sshd may forward."""
    ready: list[pulumi.Resource]
    """What must be there before the daemon starts."""

    @classmethod
    def over_socket(cls, scope: Scope) -> Transport:
        """A Unix socket in a shared volume; no TCP port.

        The command names the socket, so that the image's entrypoint adds no TCP port.
        """
        runtime = scope.volume("runtime")
        sockets = (DAEMON_SOCKET_NAME, GUARD_SOCKET_NAME)
        return cls(
            network=scope.private_network(containers_talk=False),
            gateway_network=scope.entrance(),
            janitor_network=None,
            daemon_volumes=[mount(runtime, DAEMON_SOCKETS)],
            client_volumes=[mount(runtime, GATEWAY_SOCKETS, read_only=True)],
            dockerd=["dockerd", f"--host=unix://{DAEMON_SOCKET}"],
            docker_client=[f"DOCKER_HOST=unix://{GATEWAY_SOCKETS}/{DAEMON_SOCKET_NAME}"],
            dial=f"{GATEWAY_SOCKETS}/${{{SOCKET_VARIABLE}:-{GUARD_SOCKET_NAME}}}",
            forwarded_sockets=[f"{GATEWAY_SOCKETS}/{name}" for name in sockets],
            ready=[],
        )

    @classmethod
    def over_tls(cls, scope: Scope, *, image: docker.RemoteImage) -> Transport:
        """Mutual TLS on TCP 2376 of the private network.

        The command starts with an option, so that the image's entrypoint adds that port. The CA's
        key is thrown away once both certificates are signed. They are made anew with every daemon
        image, together with the client binary that fits it.
        """
        server, client = scope.volume("tls-server"), scope.volume("tls-client")
        certificates = scope.one_shot(
            "certificates",
            image=image,
            script=(Path(__file__).parent / "tls.sh").read_text(),
            envs=[f"DAEMON_NAME={DAEMON_ALIAS}"],
            volumes=[mount(server, "/server"), mount(client, "/client")],
            uploads=[],
            # The files become uid 1000's.
            capabilities=("CHOWN", "FOWNER"),
        )
        network = scope.private_network(containers_talk=True)
        variables = [
            f"DOCKER_HOST=tcp://{DAEMON_ALIAS}:2376",
            "DOCKER_TLS_VERIFY=1",
            f"DOCKER_CERT_PATH={_CLIENT_DIRECTORY}",
        ]
        return cls(
            network=network,
            gateway_network=network,
            janitor_network=network,
            daemon_volumes=[mount(server, _SERVER_DIRECTORY, read_only=True)],
            client_volumes=[mount(client, _CLIENT_DIRECTORY, read_only=True)],
            dockerd=[],
            docker_client=variables,
            dial=f"env {' '.join(variables)} {_CLIENT_DIRECTORY}/docker system dial-stdio",
            forwarded_sockets=[],
            ready=[certificates],
        )
