"""The SSH gateway: one container whose sshd can do nothing but speak to the daemon's API."""

from __future__ import annotations

import string
from dataclasses import dataclass
from pathlib import Path

import pulumi
import pulumi_docker as docker

from components.container import confined, service, though_failed, upload
from components.daemon import SOCKET_NAME
from components.daemon.tls import CLIENT_DIRECTORY, Tls
from components.gateway.host_key import HostKey
from components.guard import SOCKET_NAME as GUARD_SOCKET_NAME
from components.host import HostFacts, while_unknown_keep
from components.identity import Identity
from components.settings import Settings

USER = "builder"
ACCESS_DIRECTORY = "/access"
SOCKET_DIRECTORY = "/run/builder"
# Which socket a session gets, from its key's line of authorized_keys; without it, the guard's.
SOCKET_VARIABLE = "BUILDER_SOCKET"
_FILES = Path(__file__).parent
# The kernel runs it, with the image's environment only by with-contenv.
_MONITOR_SERVICE = "#!/usr/bin/with-contenv bash\nexec /usr/local/bin/session-monitor watch\n"
_LIBRARY = "/usr/local/lib/gateway"
_SSHD_PORT = 2222
_STOP_SECONDS = 10
# The files of a session are some 2 MB; hundreds at once must fit.
_MEMORY_MIB = 2048
# sshd itself runs as USER and has none. Root needs them to set USER up and to start services as it
# (CHOWN, DAC_OVERRIDE, FOWNER, SETGID, SETUID) and to end its connections (KILL).
_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID")


def _dial_command(settings: Settings) -> str:
    """What sshd runs for every session: a pipe from the client to the daemon's API."""
    dial = f"exec sh {_LIBRARY}/dial"
    if settings.transport == "socket":
        return f"{dial} {SOCKET_DIRECTORY}/${{{SOCKET_VARIABLE}:-{GUARD_SOCKET_NAME}}}"
    variables = " ".join(Tls.docker_client())
    return f"{dial} env {variables} {CLIENT_DIRECTORY}/docker system dial-stdio"


def sshd_config(settings: Settings) -> str:
    """sshd's whole configuration; the image's own is replaced by it."""
    over_socket = settings.transport == "socket"
    sockets = [f"[{SOCKET_DIRECTORY}/{name}]:*" for name in (SOCKET_NAME, GUARD_SOCKET_NAME)]
    template = string.Template((_FILES / "sshd_config").read_text())
    return template.substitute(
        user=USER,
        dial_command=_dial_command(settings),
        authorized_keys=f"{ACCESS_DIRECTORY}/authorized_keys",
        revoked_keys=f"{ACCESS_DIRECTORY}/revoked_keys",
        socket_forwarding="local" if over_socket else "no",
        permit_open=" ".join(sockets) if over_socket else "none",
    )


def _sysctls(host: HostFacts) -> dict[str, str]:
    """Acknowledge at once what logs in.

    A client sends the last message of the key exchange and its next one apart, and without
    TCP_NODELAY waits in between for an acknowledgement, which TCP puts off for 40 ms in an exchange
    of questions and answers.
    """
    return {"net.ipv4.tcp_pingpong_thresh": "255"} if host.acks == "tunable" else {}


@dataclass(frozen=True)
class Gateway:
    """What the rest of the builder needs of the gateway."""

    container: docker.Container

    @classmethod
    def declare(
        cls,
        identity: Identity,
        settings: Settings,
        *,
        image: docker.RemoteImage,
        network: docker.Network,
        access: docker.Volume,
        transport_volumes: list[docker.ContainerVolumeArgs],
        host_keys: list[HostKey],
        host: pulumi.Output[HostFacts],
        opts: pulumi.ResourceOptions,
    ) -> Gateway:
        """Declare the gateway's container; the first of `host_keys` is the one it presents."""
        container = service(
            identity,
            "gateway",
            image=image,
            health=["bash", f"{_LIBRARY}/health"],
            stop_seconds=_STOP_SECONDS,
            opts=pulumi.ResourceOptions.merge(opts, while_unknown_keep(host, "sysctls")),
            envs=[f"USER_NAME={USER}", "PUID=1000", "PGID=1000"],
            networks_advanced=[
                docker.ContainerNetworksAdvancedArgs(name=though_failed(network.name))
            ],
            ports=[
                docker.ContainerPortArgs(
                    internal=_SSHD_PORT, external=settings.ssh_port, ip=settings.ssh_address
                )
            ],
            tmpfs={"/config": "mode=0755"},
            sysctls=host.apply(_sysctls),
            volumes=[
                docker.ContainerVolumeArgs(
                    volume_name=access.name, container_path=ACCESS_DIRECTORY, read_only=True
                ),
                *transport_volumes,
            ],
            uploads=[
                upload("/custom-cont-init.d/gateway", (_FILES / "init.sh").read_text()),
                upload(f"{_LIBRARY}/health", (_FILES / "health.sh").read_text()),
                upload(f"{_LIBRARY}/dial", (_FILES / "dial.sh").read_text()),
                upload(
                    "/usr/local/bin/session-monitor",
                    (_FILES / "session_monitor.sh").read_text(),
                    "0755",
                ),
                upload("/custom-services.d/session-monitor", _MONITOR_SERVICE),
                upload(f"{_LIBRARY}/sshd_config", sshd_config(settings)),
                upload(f"{_LIBRARY}/host_key", host_keys[0].private_key, "0600"),
            ],
            memory=_MEMORY_MIB,
            memory_swap=_MEMORY_MIB,
            **confined(*_CAPABILITIES),
        )
        return cls(container)
