"""docker on the machine that runs a stack's builder, reached as the program reaches it."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import dataclass
from urllib.parse import urlsplit

from client.stack import Stack, StackError
from components.host import DockerHost

_SECONDS = 30


@dataclass(frozen=True)
class Host:
    """The Docker host of one builder."""

    host: DockerHost

    @classmethod
    def of(cls, stack: Stack) -> Host:
        """The host of the stack's settings, with the host key that they pin."""
        settings = stack.settings
        return cls(
            DockerHost(
                settings.get("host") or "unix:///var/run/docker.sock", settings.get("hostKey") or ""
            )
        )

    def command(self, *words: str) -> list[str]:
        """The command line that runs `docker WORDS` there."""
        if not self.host.is_remote:
            return ["docker", "--host", self.host.url, *words]
        parts = urlsplit(self.host.url)
        ssh = ["ssh", *self.host.ssh_options, "-l", parts.username or ""]
        there = ["-p", str(parts.port or 22), "--", parts.hostname or ""]
        return [*ssh, *there, shlex.join(["docker", *words])]

    def docker(self, *words: str) -> str:
        """What `docker WORDS` prints there.

        Raises StackError when it fails or takes longer than 30 seconds.
        """
        try:
            result = subprocess.run(
                self.command(*words),
                text=True, capture_output=True, timeout=_SECONDS, check=False,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except FileNotFoundError as missing:
            raise StackError(
                f"{missing.filename} is not installed here; next: install it"
            ) from None
        except subprocess.TimeoutExpired:
            raise StackError(
                f"{self.host.url}: `docker {words[0]}` took longer than {_SECONDS} seconds; next: "
                "look at the host itself"
            ) from None
        if result.returncode != 0:
            raise StackError(f"{self.host.url}: docker {words[0]}: {result.stderr.strip()}")
        return result.stdout
