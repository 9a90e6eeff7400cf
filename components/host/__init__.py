"""The Docker host: how it is reached, and what is checked on it before and after creation."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pulumi
import pulumi_command as command
import pulumi_docker as docker

from components.settings import Settings

_SCRIPTS = Path(__file__).parent


@dataclass(frozen=True)
class DockerHost:
    """Where Docker runs: a local Unix socket, or a machine reached over SSH with a pinned key."""

    url: str
    """unix:///path or ssh://user@host[:port]."""
    host_key: str = ""
    """Public SSH host key of an ssh:// host ("ssh-ed25519 AAAA...")."""

    @classmethod
    def from_settings(cls, settings: Settings) -> DockerHost:
        return cls(settings.host, settings.host_key)

    @property
    def is_remote(self) -> bool:
        return self.url.startswith("ssh://")

    @property
    def ssh_options(self) -> list[str]:
        """Options of every ssh to the host: the pinned key alone, one shared connection.

        KnownHostsCommand (OpenSSH 8.5, ssh_config(5)) carries the key without a file.
        """
        # Named after the key too, so that a connection made under another pin is never reused.
        pin = hashlib.sha256(self.host_key.encode()).hexdigest()[:8]
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": "10",
            "ControlMaster": "auto",
            "ControlPath": f"~/.ssh/docker-build-machine-{pin}-%C",
            "ControlPersist": "60",
            "ServerAliveInterval": "15",
            "StrictHostKeyChecking": "yes",
            "GlobalKnownHostsFile": "/dev/null",
            "UserKnownHostsFile": "/dev/null",
            "KnownHostsCommand": f"/bin/echo %H {self.host_key}",
        }
        return [word for name, value in options.items() for word in ("-o", f"{name}={value}")]

    def provider(self, name: str, opts: pulumi.ResourceOptions | None = None) -> docker.Provider:
        """The provider for everything that is declared on this host."""
        if not self.is_remote:
            return docker.Provider(name, host=self.url, opts=opts)
        # ssh ends at once when the folder of its ControlPath is missing.
        (Path.home() / ".ssh").mkdir(mode=0o700, exist_ok=True)
        return docker.Provider(name, host=self.url, ssh_opts=self.ssh_options, opts=opts)

    def shell(self, *arguments: str) -> str:
        """A command line that runs the shell script on its standard input on the host."""
        script = shlex.join(["sh", "-s", "--", *arguments])
        if not self.is_remote:
            return f"DOCKER_HOST={shlex.quote(self.url)} {script}"
        parts = urlsplit(self.url)
        ssh = ["ssh", *self.ssh_options, "-l", parts.username or "", "-p", str(parts.port or 22)]
        unreachable = (
            f"host = {self.url} cannot be reached over SSH (the line above says why). Next: check "
            f"the name, the port, that hostKey is the key the host shows, and that "
            f"`ssh {parts.username}@{parts.hostname}` logs in without asking."
        )
        return (
            f"{shlex.join([*ssh, '--', parts.hostname or '', script])} || "
            f"{{ code=$?; test $code -ne 255 || echo {shlex.quote(unreachable)} >&2; exit $code; }}"
        )

    def run(
        self,
        name: str,
        script: str,
        arguments: list[pulumi.Input[str]],
        *,
        triggers: list[pulumi.Input[str]] | None = None,
        only_triggered: bool = False,
        opts: pulumi.ResourceOptions,
    ) -> command.local.Command:
        """Run one of this folder's scripts on the host, again whenever an argument changes.

        With `only_triggered`, again when one of `triggers` changes, and for nothing else.
        A pulumi_command.remote.Command would need a private key of its own; ssh uses the agent,
        the configuration and the pinned key that the provider uses too.
        """
        return command.local.Command(
            name,
            create=pulumi.Output.all(*arguments).apply(lambda words: self.shell(*words)),
            stdin=(_SCRIPTS / script).read_text(),
            update=":" if only_triggered else None,
            triggers=triggers,
            logging=command.local.Logging.STDERR,
            opts=opts,
        )
