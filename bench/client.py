"""docker as one client runs it: its way to a daemon, its ssh and its settings."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Result = subprocess.CompletedProcess[str]


def run(*command: str, env: dict[str, str] | None = None, **options: Any) -> Result:
    """Run a command to its end. Raises RuntimeError with what it said when it fails."""
    result = subprocess.run(
        command,
        env={**os.environ, **(env or {})},
        **{"capture_output": True, "text": True, **options},
    )
    if result.returncode:
        said = f"{result.stdout or ''}{result.stderr or ''}"[-3000:]
        raise RuntimeError(f"{' '.join(command)[:300]} ended with {result.returncode}:\n{said}")
    return result


def timed(action: Callable[..., object], *arguments: object) -> float:
    """Seconds that it takes."""
    start = time.monotonic()
    action(*arguments)
    return time.monotonic() - start


def in_turns(clients: list[Client], number: int) -> list[Client]:
    """The clients in the order of this round: another one first each time."""
    first = number % len(clients)
    return clients[first:] + clients[:first]


def take_cli(image: str, folder: Path) -> None:
    """Put docker and buildx of the daemon's image into a new folder: one release for all."""
    copy = (
        'cp "$(command -v docker)" /out/docker && cp "$(find /usr/libexec /usr/local/libexec '
        '/usr/lib/docker -name docker-buildx 2>/dev/null | head -n 1)" /out/docker-buildx'
    )
    folder.mkdir()
    run(
        "docker",
        "run",
        "--rm",
        "--user",
        "0:0",
        "--volume",
        f"{folder}:/out",
        "--entrypoint",
        "sh",
        image,
        "-c",
        copy,
    )


@dataclass(frozen=True)
class Client:
    """One way of reaching one daemon."""

    path: str
    """What the way is called in the report."""
    host: str
    """DOCKER_HOST."""
    folder: Path
    """Its docker and ssh configuration, apart from those of this machine's user."""
    builder: str = ""
    """A buildx builder that it builds with; empty for the daemon's own."""
    bases: str = ""
    """What stands before the names of base images where none is loaded: a registry."""

    @classmethod
    def create(cls, path: str, host: str, folder: Path, ssh_config: str = "") -> Client:
        """A client with a new folder; ssh reads `ssh_config` alone."""
        (folder / "bin").mkdir(parents=True)
        (folder / "ssh_config").write_text(ssh_config)
        wrapper = folder / "bin" / "ssh"
        # OpenSSH takes the home from the user database; HOME does not change it.
        wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/ssh_config "$@"\n')
        wrapper.chmod(0o755)
        buildx = Path(shutil.which("docker") or "").with_name("docker-buildx")
        if buildx.exists():
            (folder / "cli-plugins").mkdir()
            (folder / "cli-plugins" / "docker-buildx").symlink_to(buildx)
        return cls(path, host, folder)

    @property
    def environment(self) -> dict[str, str]:
        """This process's own, with what leads to the daemon."""
        return {
            **os.environ,
            "DOCKER_HOST": self.host,
            "DOCKER_CONFIG": str(self.folder),
            "DOCKER_BUILDKIT": "1",
            "BUILDX_NO_DEFAULT_ATTESTATIONS": "1",
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
            **({"BUILDX_BUILDER": self.builder} if self.builder else {}),
        }

    def docker(self, *arguments: str, **options: Any) -> Result:
        return run("docker", *arguments, env=self.environment, **options)

    def build(self, context: Path, *options: str) -> float:
        """Build a context; seconds. An image of it is in the client's daemon afterwards."""
        load = ("--load",) if self.builder else ()
        build = ("build", "--progress=plain", "--tag", "bench", *load, *options, str(context))
        return timed(self.docker, *build)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """docker, at work beside others; it says nothing but errors."""
        return subprocess.Popen(
            ["docker", *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
