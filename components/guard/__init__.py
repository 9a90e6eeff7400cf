"""The guard: one container that lets keys of role `build` ask for builds and nothing else."""

from __future__ import annotations

import base64
import io
import zipfile
from importlib.resources import files
from pathlib import Path

import pulumi
import pulumi_docker as docker

from components.container import confined, service
from components.daemon import RUNTIME_DIRECTORY, SOCKET
from components.identity import Identity

SOCKET_NAME = "guard.sock"
_SOCKET = f"{RUNTIME_DIRECTORY}/{SOCKET_NAME}"
_ARCHIVE = "/usr/local/lib/guard.zip"
_MEMORY_MIB = 512
_STOP_SECONDS = 10


def archive() -> bytes:
    """The program and hpack, its one dependency, as a zip file that Python runs.

    The same files make the same bytes: dates and compression are left out.
    """
    sources = {"guard": Path(__file__).parent / "program", "hpack": Path(str(files("hpack")))}
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as packed:
        for package, folder in sources.items():
            for module in sorted(folder.glob("*.py")):
                packed.writestr(zipfile.ZipInfo(f"{package}/{module.name}"), module.read_bytes())
    return content.getvalue()


def declare_guard(
    identity: Identity,
    *,
    image: docker.RemoteImage,
    runtime: list[docker.ContainerVolumeArgs],
    opts: pulumi.ResourceOptions,
) -> docker.Container:
    """Declare the guard's container.

    It has no network and no power but the daemon's user: it opens its own socket beside the
    daemon's, in the volume `runtime`, which the gateway sees too.
    """
    return service(
        identity,
        "guard",
        image=image,
        health=["python3", "-m", "guard", "ping", _SOCKET],
        stop_seconds=_STOP_SECONDS,
        opts=opts,
        entrypoints=["python3", "-m", "guard", "serve", _SOCKET, SOCKET],
        envs=[f"PYTHONPATH={_ARCHIVE}", "PYTHONDONTWRITEBYTECODE=1"],
        user="1000:1000",
        network_mode="none",
        memory=_MEMORY_MIB,
        memory_swap=_MEMORY_MIB,
        volumes=runtime,
        uploads=[
            docker.ContainerUploadArgs(
                file=_ARCHIVE,
                content_base64=base64.b64encode(archive()).decode(),
                permissions="0644",
            )
        ],
        **confined(),
    )
