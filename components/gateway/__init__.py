"""The SSH gateway: one container whose sshd only connects clients with the daemon's API."""

from __future__ import annotations

import string
from dataclasses import dataclass, field
from pathlib import Path

import pulumi
import pulumi_docker as docker

from components.gateway.host_key import HostKey
from components.host_facts import HostFacts, while_unknown_keep
from components.layout import (
    ACCESS_DIRECTORY,
    GATEWAY_LIBRARY,
    GATEWAY_USER,
    IDENTITIES_DIRECTORY,
    TOKEN_USER,
    VERIFIER_SOCKET,
)
from components.scope import (
    REPORTS_DIRECTORY,
    Scope,
    confined,
    memory,
    mount,
    on_network,
    upload,
)
from components.settings import Settings
from components.transport import Transport

_FILES = Path(__file__).parent
# with-contenv gives the service the container's environment.
_MONITOR_SERVICE = "#!/usr/bin/with-contenv bash\nexec /usr/local/bin/session-monitor watch\n"
_SSHD_PORT = 2222
_STOP_SECONDS = 10
# s6-overlay always waits this long at the container's end, 3000 by default, for processes that are
# no services. Those here are sessions, which end at once (just-containers/s6-overlay#628).
_KILL_MILLISECONDS = 200
# A session needs some 2 MB, and hundreds must fit at once.
_MEMORY_MIB = 2048
# sshd itself runs as GATEWAY_USER without capabilities. Root needs these to set up the user and to
# start services as this user (CHOWN, DAC_OVERRIDE, FOWNER, SETGID, SETUID), and to end connections
# (KILL).
_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID")


def sshd_config(transport: Transport, *, tokens: bool = False) -> str:
    """sshd's complete configuration, which replaces the image's own.

    With `tokens`, jobs may send tokens, and the keys that the verifier has let in can log in.
    """
    sockets = [f"[{path}]:*" for path in transport.forwarded_sockets]
    template = (_FILES / "sshd_config").read_text()
    if tokens:
        template += (_FILES / "sshd_config_tokens").read_text()
    keys = [ACCESS_DIRECTORY, *([IDENTITIES_DIRECTORY] if tokens else [])]
    return string.Template(template).substitute(
        user=GATEWAY_USER,
        users=" ".join([GATEWAY_USER, *([TOKEN_USER] if tokens else [])]),
        token_user=TOKEN_USER,
        any_key_command=f"{GATEWAY_LIBRARY}/any-key",
        enrol_command=f"{GATEWAY_LIBRARY}/enrol {VERIFIER_SOCKET}",
        dial_command=f"exec sh {GATEWAY_LIBRARY}/dial {transport.dial}",
        authorized_keys=" ".join(f"{folder}/authorized_keys" for folder in keys),
        revoked_keys=f"{ACCESS_DIRECTORY}/revoked_keys",
        socket_forwarding="local" if sockets else "no",
        permit_open=" ".join(sockets) or "none",
    )


@dataclass(frozen=True)
class _Tokens:
    """Inputs of the container that let jobs send tokens; empty without the setting identities."""

    volumes: list[docker.ContainerVolumeArgs] = field(default_factory=list)
    uploads: list[docker.ContainerUploadArgs] = field(default_factory=list)
    envs: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, identities: docker.Volume | None) -> _Tokens:
        if identities is None:
            return cls()
        return cls(
            [mount(identities, IDENTITIES_DIRECTORY, read_only=True)],
            [
                upload(f"{GATEWAY_LIBRARY}/any-key", (_FILES / "any_key.sh").read_text(), "0755"),
                upload(f"{GATEWAY_LIBRARY}/enrol", (_FILES / "enrol.sh").read_text()),
            ],
            [f"TOKEN_USER={TOKEN_USER}", f"VERIFIER_SOCKET={VERIFIER_SOCKET}"],
        )


def _sysctls(host: HostFacts) -> dict[str, str]:
    """Sysctls that make TCP acknowledge at once, which saves each login 40 ms.

    A client without TCP_NODELAY sends the last message of the key exchange, then waits for its
    acknowledgement before it sends the next message. In an exchange of requests and responses, TCP
    delays acknowledgements by 40 ms.
    """
    return {"net.ipv4.tcp_pingpong_thresh": "255"} if host.acks == "tunable" else {}


def declare_gateway(
    scope: Scope,
    settings: Settings,
    *,
    image: docker.RemoteImage,
    facts: pulumi.Output[HostFacts],
    access: docker.Volume,
    identities: docker.Volume | None,
    transport: Transport,
    host_keys: list[HostKey],
    reports: docker.Volume | None,
) -> docker.Container:
    """Declare the gateway's container; it presents the first of `host_keys`.

    `identities` is the verifier's volume; None if there is no verifier. `reports` is where its
    health check writes who is connected and how many logins were refused; None without metrics.
    """
    tokens = _Tokens.of(identities)
    return scope.having(transforms=while_unknown_keep(facts, "sysctls").transforms).service(
        "gateway",
        image=image,
        health=[
            "bash",
            *(
                [f"{GATEWAY_LIBRARY}/report", REPORTS_DIRECTORY]
                if reports
                else [f"{GATEWAY_LIBRARY}/health"]
            ),
        ],
        reports=reports,
        stop_seconds=_STOP_SECONDS,
        envs=[
            f"USER_NAME={GATEWAY_USER}",
            "PUID=1000",
            "PGID=1000",
            f"S6_KILL_GRACETIME={_KILL_MILLISECONDS}",
            *tokens.envs,
        ],
        ports=[
            docker.ContainerPortArgs(
                internal=_SSHD_PORT, external=settings.ssh_port, ip=settings.ssh_address
            )
        ],
        tmpfs={"/config": "mode=0755"},
        sysctls=facts.apply(_sysctls),
        volumes=[
            mount(access, ACCESS_DIRECTORY, read_only=True),
            *transport.client_volumes,
            *tokens.volumes,
        ],
        uploads=[
            upload("/custom-cont-init.d/gateway", (_FILES / "init.sh").read_text()),
            upload(f"{GATEWAY_LIBRARY}/health", (_FILES / "health.sh").read_text()),
            upload(f"{GATEWAY_LIBRARY}/dial", (_FILES / "dial.sh").read_text()),
            upload(
                "/usr/local/bin/session-monitor",
                (_FILES / "session_monitor.sh").read_text(),
                "0755",
            ),
            upload("/custom-services.d/session-monitor", _MONITOR_SERVICE),
            upload(
                f"{GATEWAY_LIBRARY}/sshd_config",
                sshd_config(transport, tokens=identities is not None),
            ),
            upload(f"{GATEWAY_LIBRARY}/host_key", host_keys[0].private_key, "0600"),
            *tokens.uploads,
            *(
                [upload(f"{GATEWAY_LIBRARY}/report", (_FILES / "report.sh").read_text())]
                if reports
                else []
            ),
        ],
        **on_network(transport.gateway_network),
        **memory(_MEMORY_MIB),
        **confined(*_CAPABILITIES),
    )
