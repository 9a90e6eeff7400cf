"""Who gets in: the authorized keys, put in place without touching the gateway."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pulumi
import pulumi_docker as docker

from components.container import one_shot, upload
from components.identity import Identity
from components.settings import AuthorizedKey


@dataclass(frozen=True)
class Access:
    """The authorized keys on the host."""

    installed: docker.Container
    sha256: str
    """Of the file that sshd reads."""

    @classmethod
    def declare(
        cls,
        identity: Identity,
        keys: tuple[AuthorizedKey, ...],
        *,
        image: docker.RemoteImage,
        volume: docker.Volume,
        opts: pulumi.ResourceOptions,
    ) -> Access:
        """Declare the set of keys.

        A short-lived container writes the file; sshd reads it at each login, so that neither
        gateway nor daemon notice. Its environment names each key and its fingerprint, which is
        what a preview shows of a change.
        """
        content = "".join(f"{key.line}\n" for key in sorted(keys, key=lambda key: key.name))
        installed = one_shot(
            identity,
            "keys",
            image=image,
            script=(Path(__file__).parent / "access.sh").read_text(),
            envs=[f"{key.name}={key.public_key.fingerprint}" for key in keys],
            volumes=[docker.ContainerVolumeArgs(volume_name=volume.name, container_path="/access")],
            uploads=[upload("/authorized_keys", content)],
            opts=opts,
        )
        return cls(installed, hashlib.sha256(content.encode()).hexdigest())
