"""What is on a Docker host, read by its docker CLI: over ssh with the pinned key, or locally."""

from __future__ import annotations

import io
import json
import re
import tarfile
from dataclasses import dataclass
from typing import Any

from components.docker_host import HostDocker, HostError


@dataclass(frozen=True)
class File:
    """One file in a container."""

    content: bytes
    mode: int
    owner: int


_MISSING = re.compile(r"no such|not found|could not find", re.IGNORECASE)


class HostReader(HostDocker):
    """Reads, and changes nothing."""

    def inspect(self, kind: str, name: str) -> dict[str, Any] | None:
        """`docker KIND inspect NAME`, None when there is none of that name."""
        result = self.run(kind, "inspect", name)
        if result.returncode == 0:
            found: dict[str, Any] = json.loads(result.stdout)[0]
            return found
        complaint = result.stderr.decode(errors="replace").strip()
        if _MISSING.search(complaint):
            return None
        raise HostError(f"{name} on {self.host.url} cannot be inspected: {complaint}")

    def labelled(self, kind: str, label: str) -> set[str]:
        """Names of all containers, volumes or networks with the label."""
        every = ["--all"] if kind == "container" else []
        form = "{{.Names}}" if kind == "container" else "{{.Name}}"
        return set(
            self.output(kind, "ls", *every, "--filter", f"label={label}", "--format", form).split()
        )

    def file(self, container: str, path: str) -> File | None:
        """A file of a container, running or not; None when it is not there."""
        result = self.run("cp", f"{container}:{path}", "-")
        if result.returncode:
            complaint = result.stderr.decode(errors="replace").strip()
            if _MISSING.search(complaint):
                return None
            raise HostError(f"{path} in {container} cannot be read: {complaint}")
        with tarfile.open(fileobj=io.BytesIO(result.stdout)) as archive:
            entry = archive.next()
            content = archive.extractfile(entry) if entry else None
            if entry is None or content is None:
                return None
            return File(content.read(), entry.mode & 0o7777, entry.uid)
