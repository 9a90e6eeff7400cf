"""Programs of containers that have Python and nothing else."""

from __future__ import annotations

import base64
import io
import zipfile
from pathlib import Path
from typing import Any

import pulumi_docker as docker

from components.layout import DAEMON_USER


def packed(packages: dict[str, Path]) -> bytes:
    """Packages by their names, from these folders, as a zip file that Python imports from.

    The same files give the same bytes, because there are no dates and no compression.
    """
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as file:
        for package, folder in packages.items():
            for module in sorted(folder.rglob("*.py")):
                path = f"{package}/{module.relative_to(folder)}"
                file.writestr(zipfile.ZipInfo(path), module.read_bytes())
    return content.getvalue()


def python_program(package: str, archive: bytes) -> dict[str, Any]:
    """Inputs of a container in which `python3 -m PACKAGE` runs from this archive.

    It runs as the daemon's user.
    """
    path = f"/usr/local/lib/{package}.zip"
    return {
        "user": DAEMON_USER,
        "envs": [f"PYTHONPATH={path}", "PYTHONDONTWRITEBYTECODE=1"],
        "uploads": [
            docker.ContainerUploadArgs(
                file=path,
                content_base64=base64.b64encode(archive).decode(),
                permissions="0644",
            )
        ],
    }
