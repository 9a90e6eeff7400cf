"""How the daemon's container is isolated from its host: the setting `isolation`."""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pulumi
import pulumi_docker as docker

from components.daemon.egress import Egress
from components.daemon.limits import Limits
from components.daemon.rootless import Rootless
from components.host_facts import HostFacts, while_unknown_keep
from components.layout import APPARMOR_PROFILE
from components.registry_access import RegistryAccess
from components.scope import Scope, mount
from components.settings import Settings

_SYSCALLS = Path(__file__).parent / "syscalls"
# newuidmap and newgidmap need these to give the daemon its range of users and groups. The daemon
# itself runs as an ordinary user without capabilities.
_CAPABILITIES = ("CAP_SETUID", "CAP_SETGID")
# The rootless network needs this device.
_TUN = "/dev/net/tun"
# For `docker run --device /dev/fuse`, on hosts that have it. The kernel lets every user of a user
# namespace mount a file system of that kind there. The container has no other device of the host.
_FUSE = "/dev/fuse"
# The kernel lets a user namespace mount /proc only if no part of /proc is hidden.
_SYSTEMPATHS = "systempaths=unconfined"
# Privileged containers of the builder, such as buildx's, need a writable /sys. The kernel allows
# that mount only if a complete writable /sys is already mounted somewhere; only root can enter this
# folder.
_SYSFS_DIRECTORY = "/root/sys"
_SYSFS = {"type": "sysfs", "device": "sysfs"}
# Address families of socket(2): AF_ALG, which exposes the kernel's crypto code, and AF_VSOCK, which
# reaches the hypervisor past every network namespace.
_FORBIDDEN_FAMILIES = (38, 40)
# Arguments of personality(2): Linux and 32 bits, each also with UNAME26, and the query.
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
_ARCHITECTURES = {
    "X86_64": ["X86", "X32"],
    "AARCH64": ["ARM"],
    "S390X": [],
    "PPC64LE": [],
    "RISCV64": [],
}


def seccomp_profile() -> str:
    """The seccomp profile of the daemon's container, in Docker's JSON format."""

    def allow(name: str, operation: str, value: int) -> dict[str, object]:
        argument = {"index": 0, "value": value, "op": f"SCMP_CMP_{operation}"}
        return {"names": [name], "action": "SCMP_ACT_ALLOW", "args": [argument]}

    lines = [line.partition("#")[0] for line in _SYSCALLS.read_text().splitlines()]
    names = sorted({name for line in lines for name in line.split()})
    low, high = _FORBIDDEN_FAMILIES
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "archMap": [
            {
                "architecture": f"SCMP_ARCH_{name}",
                "subArchitectures": [f"SCMP_ARCH_{other}" for other in others],
            }
            for name, others in _ARCHITECTURES.items()
        ],
        "syscalls": [
            {"names": names, "action": "SCMP_ACT_ALLOW"},
            allow("socket", "LT", low),
            *(allow("socket", "EQ", family) for family in range(low + 1, high)),
            allow("socket", "GT", high),
            *(allow("personality", "EQ", value) for value in _PERSONALITIES),
        ],
    }
    return json.dumps(profile, separators=(",", ":"))


def _apparmor(facts: HostFacts) -> str:
    """The AppArmor option. Docker's default profile is unusable: it forbids the daemon's mounts."""
    return f"apparmor={APPARMOR_PROFILE if facts.apparmor == 'profile' else 'unconfined'}"


def _devices(facts: HostFacts) -> list[str]:
    """The host's devices in the container."""
    return [_TUN, *([_FUSE] if facts.fuse == "present" else [])]


@dataclass(frozen=True)
class Isolation:
    """Inputs of the daemon's container, and a label that changes when they change."""

    label: pulumi.Output[str]
    """Changes whenever the other fields change. Security options cannot be compared themselves,
    because the provider does not read `systempaths` back."""
    inputs: dict[str, Any]
    """Inputs of the container."""
    egress: Egress
    volumes: list[docker.ContainerVolumeArgs] = field(default_factory=list)
    checked: list[pulumi.Resource] = field(default_factory=list)
    """Checks that a rootless daemon can run in such a container on this host."""

    @classmethod
    def declare(
        cls,
        scope: Scope,
        settings: Settings,
        *,
        facts: pulumi.Output[HostFacts],
        image: docker.RemoteImage,
        limits: Limits,
        rootless: Rootless,
        registry: RegistryAccess | None,
    ) -> Isolation:
        """Declare what this mode needs on the host, and the check that it works there."""
        apparmor = facts.apply(_apparmor)
        if settings.isolation == "privileged":
            return cls(
                apparmor.apply(
                    lambda option: (
                        "privileged" if option == "apparmor=unconfined" else f"privileged {option}"
                    )
                ),
                {"privileged": True, "security_opts": [apparmor]},
                Egress(),
            )
        profile = seccomp_profile()
        sysfs = scope.volume("sysfs", driver_opts=_SYSFS)
        options = [
            "--cap-drop=ALL",
            *(f"--cap-add={name}" for name in _CAPABILITIES),
            f"--device={_TUN}",
        ]
        unless_unknown = scope.having(transforms=while_unknown_keep(facts, "create").transforms)
        checked = unless_unknown.script(
            "isolation",
            (Path(__file__).parent / "isolation.sh").read_text(),
            [
                image.image_id,
                settings.daemon_image,
                rootless.network_driver,
                sysfs.name,
                _SYSFS_DIRECTORY,
                *options,
                apparmor.apply(lambda option: f"--security-opt={option}"),
                f"--security-opt={_SYSTEMPATHS}",
            ],
            data={"profile": profile, "rootlesskit": rootless.rootlesskit},
        )
        egress = Egress.of(settings, (*rootless.words, *limits.words), registry)
        devices = facts.apply(_devices)

        def label(parts: list[str]) -> str:
            devices, apparmor, *outward = parts
            security = [f"--security-opt={option}" for option in (apparmor, _SYSTEMPATHS)]
            words = shlex.join([profile, *options, *devices, *security, *outward])
            return f"unprivileged {hashlib.sha256(words.encode()).hexdigest()[:12]}"

        return cls(
            pulumi.Output.all(devices, apparmor, *egress.words).apply(label),
            {
                **egress.inputs,
                "capabilities": docker.ContainerCapabilitiesArgs(
                    adds=[*_CAPABILITIES, *egress.capabilities, *limits.capabilities], drops=["ALL"]
                ),
                "devices": devices.apply(
                    lambda paths: [docker.ContainerDeviceArgs(host_path=path) for path in paths]
                ),
                "security_opts": [f"seccomp={profile}", apparmor, _SYSTEMPATHS],
            },
            egress,
            [mount(sysfs, _SYSFS_DIRECTORY, read_only=False)],
            [checked],
        )
