"""The one way to a Docker host: a local socket, or a machine behind SSH with a pinned key."""

from __future__ import annotations

import hashlib
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

_DOCKER_SECONDS = 60


@dataclass(frozen=True)
class DockerHost:
    """Where Docker runs."""

    url: str
    """unix:///path or ssh://user@host[:port]."""
    host_key: str = ""
    """Public SSH host key of an ssh:// host ("ssh-ed25519 AAAA...")."""

    @property
    def is_remote(self) -> bool:
        return self.url.startswith("ssh://")

    @property
    def sshd(self) -> str:
        """host:port of the host's sshd, which limits logins; empty without SSH."""
        parts = urlsplit(self.url)
        return f"{parts.hostname}:{parts.port or 22}" if self.is_remote else ""

    @property
    def ssh_options(self) -> list[str]:
        """Options of every ssh to the host: accept only the pinned key, share one connection."""
        return self._options("auto")

    def _options(self, master: str, purpose: str = "") -> list[str]:
        """Options with this ControlMaster; each `purpose` has a shared connection of its own.

        Scripts do not share the provider's connection, because sshd allows ten sessions on one
        (MaxSessions) and the provider may use all of them. When several ssh start at once, only one
        can open the shared connection, and the others print errors.
        """
        # ssh fails when the folder of its ControlPath is missing.
        (Path.home() / ".ssh").mkdir(mode=0o700, exist_ok=True)
        # The name depends on the key, so that a connection for another pinned key is never reused.
        pin = hashlib.sha256(f"{self.host_key}{purpose}".encode()).hexdigest()[:8]
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": "10",
            "ControlMaster": master,
            "ControlPath": f"~/.ssh/docker-build-machine-{pin}-%C",
            "ControlPersist": "60",
            "ServerAliveInterval": "15",
            "StrictHostKeyChecking": "yes",
            "GlobalKnownHostsFile": "/dev/null",
            "UserKnownHostsFile": "/dev/null",
            # Passes the key without a file (OpenSSH 8.5, ssh_config(5)).
            "KnownHostsCommand": f"/bin/echo %H {self.host_key}",
        }
        return [word for name, value in options.items() for word in ("-o", f"{name}={value}")]

    @property
    def ssh(self) -> list[str]:
        """The ssh command of a remote host; the caller appends the command to run there."""
        return self._ssh(self.ssh_options)

    def _ssh(self, options: list[str]) -> list[str]:
        parts = urlsplit(self.url)
        login = ["-l", parts.username or "", "-p", str(parts.port or 22)]
        return ["ssh", *options, *login, "--", parts.hostname or ""]

    @property
    def unreachable(self) -> str:
        """The message for a failed ssh, to be printed after ssh's own error."""
        parts = urlsplit(self.url)
        return (
            f"host = {self.url} cannot be reached over SSH (the line above says why). Next: check "
            f"the name, the port, that hostKey is the host's key, and that "
            f"`ssh {parts.username}@{parts.hostname}` logs in without a prompt."
        )

    def command_line(self, *words: str) -> list[str]:
        """The command line that runs this command on the host, with the host's Docker."""
        if self.is_remote:
            return [*self.ssh, shlex.join(words)]
        return ["env", f"DOCKER_HOST={self.url}", *words]

    def shell(self, *arguments: str, clock: bool = False, first: bool = False) -> str:
        """A command line that runs the shell script from its standard input on the host.

        With `clock`, the script on a remote host gets this machine's time, in seconds, in CLOCK.
        With `first`, the command opens the connections that the provider and later scripts share.
        """
        script = shlex.join(["sh", "-s", "--", *arguments])
        if not self.is_remote:
            return f"DOCKER_HOST={shlex.quote(self.url)} {script}"
        ssh = self.ssh if first else self._ssh(self._options("no", "scripts"))
        run = shlex.join(ssh) + (" CLOCK=$(date +%s)" if clock else "") + f" {shlex.quote(script)}"
        message = shlex.quote(self.unreachable)
        explained = f"{run} || {{ code=$?; test $code -ne 255 || echo {message} >&2; exit $code; }}"
        if not first:
            return explained
        # Without output: the other connection fails for the same reason and prints it.
        opening = f"{shlex.join(self._ssh(self._options('auto', 'scripts')))} true"
        return f"{opening} </dev/null >/dev/null 2>&1 & {explained}; wait"


class HostError(Exception):
    """The host, or Docker on it, failed; the text explains this to the user."""


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
                timeout=_DOCKER_SECONDS,
            )
        except FileNotFoundError as missing:
            raise HostError(f"{missing.filename} is not installed here; next: install it") from None
        except subprocess.TimeoutExpired:
            raise HostError(
                f"{self.host.url} does not answer within {_DOCKER_SECONDS} s (docker {words[0]}); "
                "next: look at the host itself"
            ) from None
        # A shell and env exit with 127 for a missing command; so may a command in a container
        # (exec).
        if result.returncode == 127 and words[0] != "exec":
            raise HostError(
                f"there is no docker on {self.host.url} ({_errors(result)}); next: install its CLI"
            )
        if result.returncode == 255 and self.host.is_remote:
            raise HostError(f"{_errors(result)}\n{self.host.unreachable}")
        return result

    def output(self, *words: str, stdin: bytes = b"") -> str:
        """The standard output of docker. Raises HostError, with docker's errors, when it fails."""
        result = self.run(*words, stdin=stdin)
        if result.returncode:
            raise HostError(f"docker {words[0]} on {self.host.url} failed: {_errors(result)}")
        return result.stdout.decode(errors="replace")


def _errors(result: subprocess.CompletedProcess[bytes]) -> str:
    return result.stderr.decode(errors="replace").strip()
