"""What is on a Docker host, read by its docker CLI: over ssh with the pinned key, or locally."""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import tarfile
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from components.host import DockerHost


class HostError(Exception):
    """The host, or something on it that must be read, does not answer; its text is for people."""


@dataclass(frozen=True)
class File:
    """One file in a container."""

    content: bytes
    mode: int
    owner: int


@dataclass(frozen=True)
class HostReader:
    """Reads, and changes nothing."""

    host: DockerHost

    def docker(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run docker on the host to its end, 60 seconds at most."""
        command, environment = ["docker", *arguments], dict(os.environ)
        if self.host.is_remote:
            parts = urlsplit(self.host.url)
            command = [
                "ssh", *self.host.ssh_options, "-l", parts.username or "",
                "-p", str(parts.port or 22), "--", parts.hostname or "", shlex.join(command),
            ]  # fmt: skip
        else:
            environment["DOCKER_HOST"] = self.host.url
        try:
            return subprocess.run(
                command, input=stdin, env=environment, capture_output=True, check=False, timeout=60
            )
        except subprocess.TimeoutExpired:
            raise HostError(f"{self.host.url} does not answer within 60 s") from None

    def said(self, *arguments: str, stdin: bytes = b"") -> str:
        """What docker printed. Raises HostError, with its words, when it failed."""
        result = self.docker(*arguments, stdin=stdin)
        if result.returncode:
            why = result.stderr.decode(errors="replace").strip()
            raise HostError(f"docker {arguments[0]} on {self.host.url} failed: {why}")
        return result.stdout.decode(errors="replace")

    def inspect(self, kind: str, name: str) -> dict[str, Any] | None:
        """`docker KIND inspect NAME`, None when there is none of that name."""
        result = self.docker(kind, "inspect", name)
        if result.returncode == 0:
            found: dict[str, Any] = json.loads(result.stdout)[0]
            return found
        said = result.stderr.decode(errors="replace")
        if "no such" in said.lower() or "not found" in said.lower():
            return None
        raise HostError(f"{name} on {self.host.url} cannot be looked at: {said.strip()}")

    def labelled(self, kind: str, label: str) -> set[str]:
        """Names of all containers, volumes or networks with the label."""
        every = ["--all"] if kind == "container" else []
        form = "{{.Names}}" if kind == "container" else "{{.Name}}"
        return set(
            self.said(kind, "ls", *every, "--filter", f"label={label}", "--format", form).split()
        )

    def file(self, container: str, path: str) -> File | None:
        """A file of a container, running or not; None when it is not there."""
        result = self.docker("cp", f"{container}:{path}", "-")
        if result.returncode:
            return None
        with tarfile.open(fileobj=io.BytesIO(result.stdout)) as archive:
            entry = archive.next()
            content = archive.extractfile(entry) if entry else None
            if entry is None or content is None:
                return None
            return File(content.read(), entry.mode & 0o7777, entry.uid)
