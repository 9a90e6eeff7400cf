"""docker as one client runs it: how it reaches a daemon, with its own ssh and settings."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Result = subprocess.CompletedProcess[str]
# Of every image that the bench builds: one that lost its tag to the next build is found by it too.
LABEL = ("--label", "docker-build-machine.bench=yes")


def run(*command: str, env: dict[str, str] | None = None, **options: Any) -> Result:
    """Run a command to its end. Raises RuntimeError with its output if it fails."""
    result = subprocess.run(
        command,
        env={**os.environ, **(env or {})},
        **{"capture_output": True, "text": True, **options},
    )
    if result.returncode:
        output = f"{result.stdout or ''}{result.stderr or ''}"[-3000:]
        raise RuntimeError(f"{' '.join(command)[:300]} ended with {result.returncode}:\n{output}")
    return result


def timed(action: Callable[..., object], *arguments: object) -> float:
    """How many seconds the action takes."""
    start = time.monotonic()
    action(*arguments)
    return time.monotonic() - start


def in_turns(clients: list[Client], number: int) -> list[Client]:
    """The clients in the order of this round: each round starts with another one."""
    first = number % len(clients)
    return clients[first:] + clients[:first]


def take_cli(image: str, folder: Path) -> None:
    """Copy docker and buildx from the daemon's image into a new folder; all clients use them."""
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


def put_ssh(folder: Path, *options: str, through: Sequence[str] = ()) -> str:
    """Write FOLDER/ssh, which runs ssh with these options; returns a PATH that finds it first.

    docker cannot give ssh another configuration, and ssh ignores HOME. `through` is a command that
    starts ssh elsewhere.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ssh = shlex.join([*through, shutil.which("ssh") or "ssh", *options])
    script = folder / "ssh.new"
    script.write_text(f'#!/bin/sh\nexec {ssh} "$@"\n')
    script.chmod(0o755)
    script.replace(folder / "ssh")
    return f"{folder}:{os.environ['PATH']}"


@dataclass(frozen=True)
class Client:
    """One way of reaching one daemon."""

    path: str
    """Its name in the report."""
    host: str
    """DOCKER_HOST."""
    folder: Path
    """Its docker and ssh configuration, separate from that of this machine's user."""
    builder: str = ""
    """The buildx builder that it uses; empty for the daemon's own."""
    bases: str = ""
    """A prefix for the names of base images, if the daemon pulls them from a registry."""

    @classmethod
    def create(cls, path: str, host: str, folder: Path, ssh_config: str = "") -> Client:
        """A client with a new folder; ssh reads only `ssh_config`."""
        put_ssh(folder / "bin", "-F", f"{folder}/ssh_config")
        (folder / "ssh_config").write_text(ssh_config)
        buildx = Path(shutil.which("docker") or "").with_name("docker-buildx")
        if buildx.exists():
            (folder / "cli-plugins").mkdir()
            (folder / "cli-plugins" / "docker-buildx").symlink_to(buildx)
        return cls(path, host, folder)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of this process, with the variables that select the daemon."""
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
        """Build a context; returns the seconds. The image is then in the client's daemon."""
        load = ("--load",) if self.builder else ()
        build = (
            "build",
            "--progress=plain",
            "--tag",
            "bench",
            *load,
            *LABEL,
            *options,
            str(context),
        )
        return timed(self.docker, *build)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start docker and return at once; only its errors are kept."""
        return subprocess.Popen(
            ["docker", *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )


def forget(client: Client) -> None:
    """Remove the images that were built; the build cache is pruned like any other."""
    ours = f"label={LABEL[1]}"
    built = client.docker("image", "ls", "--quiet", "--filter", ours).stdout.split()
    if built:
        client.docker("image", "rm", "--force", *sorted(set(built)))
