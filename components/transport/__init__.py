"""How gateway, janitor and metrics reach the daemon: the setting `transport`."""

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

# When there is no CA key, the entrypoint of docker:<version>-dind-rootless uses these certificates
# unchanged.
_SERVER_DIRECTORY = "/certs/server"
_CLIENT_DIRECTORY = "/tls"


@dataclass(frozen=True)
class Transport:
    """The connection to the daemon, for each container that uses it."""

    network: docker.Network
    """The daemon's network."""
    gateway_network: docker.Network
    client_network: docker.Network | None
    """The network of janitor and metrics; None where they reach the daemon without one."""
    daemon_volumes: list[docker.ContainerVolumeArgs]
    client_volumes: list[docker.ContainerVolumeArgs]
    """Volumes of gateway, janitor and metrics."""
    dockerd: list[str]
    """Start of the daemon's command; options are appended."""
    docker_client: list[str]
    """Environment variables of a docker CLI in a container with `client_volumes`."""
    dial: str
    """Arguments of dial.sh, which connects a session with the daemon."""
    forwarded_sockets: list[str]
    """Sockets that sshd may forward."""
    ready: list[pulumi.Resource]
    """Resources that must exist before the daemon starts."""

    @classmethod
    def over_socket(cls, scope: Scope) -> Transport:
        """A Unix socket in a shared volume, without a TCP port.

        The command sets the socket, so that the image's entrypoint adds no TCP port.
        """
        runtime = scope.volume("runtime")
        sockets = (DAEMON_SOCKET_NAME, GUARD_SOCKET_NAME)
        return cls(
            network=scope.private_network(containers_talk=False),
            gateway_network=scope.entrance(),
            client_network=None,
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
        key is deleted once both certificates are signed. Every new daemon image gets new
        certificates and the matching client binary.
        """
        server, client = scope.volume("tls-server"), scope.volume("tls-client")
        certificates = scope.one_shot(
            "certificates",
            image=image,
            script=(Path(__file__).parent / "tls.sh").read_text(),
            envs=[f"DAEMON_NAME={DAEMON_ALIAS}"],
            volumes=[mount(server, "/server"), mount(client, "/client")],
            uploads=[],
            # To give the files to uid 1000.
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
            client_network=network,
            daemon_volumes=[mount(server, _SERVER_DIRECTORY, read_only=True)],
            client_volumes=[mount(client, _CLIENT_DIRECTORY, read_only=True)],
            dockerd=[],
            docker_client=variables,
            dial=f"env {' '.join(variables)} {_CLIENT_DIRECTORY}/docker system dial-stdio",
            forwarded_sockets=[],
            ready=[certificates],
        )
