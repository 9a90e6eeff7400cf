"""docker on the machine of a builder: over ssh with the pinned host key, or on this machine."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

from components.host import DockerHost

_SECONDS = 60


class HostError(Exception):
    """The host, or Docker on it, does not do what it is asked; its text is for people."""


@dataclass(frozen=True)
class HostDocker:
    """Runs docker on one host, for everything but Pulumi's own resources."""

    host: DockerHost

    def command_line(self, *words: str) -> list[str]:
        """The command line that runs `docker WORDS` there."""
        return self.host.command_line("docker", *words)

    def run(self, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run `docker WORDS` there to its end.

        Raises HostError when the host does not answer, or docker takes longer than 60 seconds.
        """
        try:
            result = subprocess.run(
                self.command_line(*words),
                input=stdin,
                capture_output=True,
                check=False,
                timeout=_SECONDS,
            )
        except FileNotFoundError as missing:
            raise HostError(f"{missing.filename} is not installed here; next: install it") from None
        except subprocess.TimeoutExpired:
            raise HostError(
                f"{self.host.url} does not answer within {_SECONDS} s (docker {words[0]}); next: "
                "look at the host itself"
            ) from None
        # Of a shell or of env; the commands in a container have codes of their own.
        if result.returncode == 127 and words[0] != "exec":
            raise HostError(
                f"there is no docker on {self.host.url} ({_words(result)}); next: install its CLI"
            )
        if result.returncode == 255 and self.host.is_remote:
            raise HostError(f"{_words(result)}\n{self.host.unreachable}")
        return result

    def said(self, *words: str, stdin: bytes = b"") -> str:
        """What docker printed. Raises HostError, with its words, when it failed."""
        result = self.run(*words, stdin=stdin)
        if result.returncode:
            raise HostError(f"docker {words[0]} on {self.host.url} failed: {_words(result)}")
        return result.stdout.decode(errors="replace")


def _words(result: subprocess.CompletedProcess[bytes]) -> str:
    return result.stderr.decode(errors="replace").strip()
