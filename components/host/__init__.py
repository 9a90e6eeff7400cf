"""The Docker host: how it is reached, and what is checked on it before and after creation."""

from __future__ import annotations

import asyncio
import hashlib
import shlex
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import pulumi
import pulumi_command as command
import pulumi_docker as docker

from components.settings import Settings

# What preflight.sh loads where AppArmor refuses user namespaces to everybody else.
APPARMOR_PROFILE = "docker-build-machine"
_SCRIPTS = Path(__file__).parent
# What was last seen through each sshd in a run of the program.
_LOOKS: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, pulumi.Output[str]]] = (
    WeakKeyDictionary()
)


@dataclass(frozen=True)
class HostFacts:
    """What preflight.sh saw on a host; all empty when it did not answer."""

    docker: str = ""
    """Release of the host's Docker daemon."""
    cgroup: str = ""
    """Version of the control groups, 1 or 2."""
    processes: str = ""
    """How many a container may have."""
    kernel: str = ""
    """Release of the kernel."""
    architecture: str = ""
    """As `uname -m` tells it."""
    namespaces: str = ""
    """User namespaces: allowed, until-reboot (what a boot reads refuses them) or refused."""
    apparmor: str = ""
    """Of the daemon's container: profile where APPARMOR_PROFILE is loaded, else unconfined."""
    tun: str = ""
    """/dev/net/tun: usable, closed (not for everybody), broken (does not open) or missing."""
    fuse: str = ""
    """/dev/fuse: present or missing."""
    overlay: str = ""
    """Overlay file systems: supported or missing."""
    disk: str = ""
    """Free space where Docker keeps its data: enough or short."""
    inodes: str = ""
    """Free inodes there: enough or short."""
    clock: str = ""
    """Against the machine that runs Pulumi: right or wrong."""
    acks: str = ""
    """When TCP acknowledges at once (tcp_pingpong_thresh, Linux 6.7): tunable or fixed."""
    conflicts: str = ""
    """How many ports and volumes of the builder something else has."""

    @classmethod
    def parse(cls, text: str) -> HostFacts:
        """The facts of preflight.sh's standard output, name=value a line."""
        lines = [line.partition("=") for line in text.splitlines()]
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, _, value in lines if name in known})

    @property
    def known(self) -> bool:
        """Whether the host and its Docker answered."""
        return bool(self.docker)

    @property
    def variables(self) -> dict[str, str]:
        """The facts as environment variables; `processes` differs a little after each boot."""
        facts = {name: value for name, value in asdict(self).items() if name != "processes"}
        return {f"HOST_{name.upper()}": value for name, value in facts.items()}


def while_unknown_keep(facts: pulumi.Output[HostFacts], *properties: str) -> pulumi.ResourceOptions:
    """Options of a resource with `properties` that follow from the facts.

    While the host does not answer they stay as they are in the state.
    """

    async def keep(
        args: pulumi.ResourceTransformArgs,
    ) -> pulumi.ResourceTransformResult | None:
        seen = await facts.future()
        if seen is None or seen.known:
            return None
        args.opts.ignore_changes = [*(args.opts.ignore_changes or []), *properties]
        return pulumi.ResourceTransformResult(args.props, args.opts)

    return pulumi.ResourceOptions(transforms=[keep])


@dataclass(frozen=True)
class Preflight:
    """The check of a host before anything is created on it."""

    checked: command.local.Command
    """What everything on the host depends on."""
    facts: pulumi.Output[HostFacts]
    """What the host is, in previews too."""


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
    def sshd(self) -> str:
        """host:port of what counts the logins; empty without SSH."""
        parts = urlsplit(self.url)
        return f"{parts.hostname}:{parts.port or 22}" if self.is_remote else ""

    @property
    def ssh_options(self) -> list[str]:
        """Options of every ssh to the host: the pinned key alone, one shared connection.

        KnownHostsCommand (OpenSSH 8.5, ssh_config(5)) carries the key without a file.
        """
        return self._options("auto")

    def _options(self, master: str, purpose: str = "") -> list[str]:
        """Scripts share a connection of their own (`purpose`): sshd lets ten sessions have one
        (MaxSessions), and the provider may have as many.

        Of several at once one alone can open it; the others would complain.
        """
        # ssh ends at once when the folder of its ControlPath is missing.
        (Path.home() / ".ssh").mkdir(mode=0o700, exist_ok=True)
        # Named after the key too, so that a connection made under another pin is never reused.
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
            "KnownHostsCommand": f"/bin/echo %H {self.host_key}",
        }
        return [word for name, value in options.items() for word in ("-o", f"{name}={value}")]

    def provider(self, name: str, opts: pulumi.ResourceOptions | None = None) -> docker.Provider:
        """The provider for everything that is declared on this host."""
        if not self.is_remote:
            return docker.Provider(name, host=self.url, opts=opts)
        return docker.Provider(name, host=self.url, ssh_opts=self.ssh_options, opts=opts)

    @property
    def ssh(self) -> list[str]:
        """The ssh that everything on a remote host goes through; what runs there follows it."""
        return self._ssh(self.ssh_options)

    def _ssh(self, options: list[str]) -> list[str]:
        parts = urlsplit(self.url)
        login = ["-l", parts.username or "", "-p", str(parts.port or 22)]
        return ["ssh", *options, *login, "--", parts.hostname or ""]

    @property
    def unreachable(self) -> str:
        """What to say when ssh has failed, below its own words."""
        parts = urlsplit(self.url)
        return (
            f"host = {self.url} cannot be reached over SSH (the line above says why). Next: check "
            f"the name, the port, that hostKey is the key the host shows, and that "
            f"`ssh {parts.username}@{parts.hostname}` logs in without asking."
        )

    def command_line(self, *words: str) -> list[str]:
        """The command line that runs these words, with this host's Docker, on the host."""
        if self.is_remote:
            return [*self.ssh, shlex.join(words)]
        return ["env", f"DOCKER_HOST={self.url}", *words]

    def shell(self, *arguments: str, clock: bool = False, first: bool = False) -> str:
        """A command line that runs the shell script on its standard input on the host.

        With `clock` the script of a remote host finds this machine's time, in seconds, in CLOCK.
        A `first` one opens the connections that the provider and later scripts share.
        """
        script = shlex.join(["sh", "-s", "--", *arguments])
        if not self.is_remote:
            return f"DOCKER_HOST={shlex.quote(self.url)} {script}"
        command = shlex.join(self.ssh if first else self._ssh(self._options("no", "scripts")))
        command += f"{' CLOCK=$(date +%s)' if clock else ''} {shlex.quote(script)}"
        said = shlex.quote(self.unreachable)
        told = f"{command} || {{ code=$?; test $code -ne 255 || echo {said} >&2; exit $code; }}"
        if not first:
            return told
        # Without a word: the other connection fails for the same reason.
        opening = f"{shlex.join(self._ssh(self._options('auto', 'scripts')))} true"
        return f"{opening} </dev/null >/dev/null 2>&1 & {told}; wait"

    def preflight(
        self,
        name: str,
        arguments: list[str],
        *,
        opts: pulumi.ResourceOptions,
    ) -> Preflight:
        """Look at the host in every preview, and check it when what was seen differs.

        Shortfalls are warnings of the preview and errors of the update. A host that does not
        answer is no error of a preview: its other resources, and other hosts, are still planned.
        """
        script = (_SCRIPTS / "preflight.sh").read_text()
        look = f"( {self.shell('look', *arguments, clock=True, first=True)} ) || :"
        looks = _LOOKS.setdefault(asyncio.get_event_loop(), {})
        # One at a time: the first one opens the connections that the others share.
        before = looks.get(self.sshd, pulumi.Output.from_input(""))
        seen = command.local.run_output(
            # What the command says is told below; its end is no error.
            command=before.apply(lambda _: look),
            stdin=script,
            logging=command.local.Logging.NONE,
            opts=pulumi.InvokeOutputOptions(parent=opts.parent),
        )
        looks[self.sshd] = seen.stdout
        facts = seen.stdout.apply(lambda text: HostFacts.parse(text or ""))
        checked = command.local.Command(
            name,
            # Whatever time it took, the provider comes next and finds its connection.
            create=self.shell("check", *arguments, clock=True, first=True),
            stdin=script,
            # Each fact by its name, so that a preview shows which of them changed.
            environment=facts.apply(lambda facts: facts.variables),
            logging=command.local.Logging.STDERR,
            # An update checks again a host that did not answer, and says why it does not.
            opts=pulumi.ResourceOptions.merge(opts, while_unknown_keep(facts, "environment"))
            if pulumi.runtime.is_dry_run()
            else opts,
        )

        def warn(said: str) -> None:
            if said:
                pulumi.log.warn(said, resource=checked)

        if pulumi.runtime.is_dry_run():
            seen.stderr.apply(warn)
        return Preflight(checked, facts)

    def run(
        self,
        name: str,
        script: str,
        arguments: list[pulumi.Input[str]],
        *,
        data: str = "",
        triggers: list[pulumi.Input[str]] | None = None,
        only_triggered: bool = False,
        opts: pulumi.ResourceOptions,
    ) -> command.local.Command:
        """Run one of this folder's scripts on the host, again whenever an argument changes.

        The script finds `data`, which would be too much for an argument, in the variable `data`.
        With `only_triggered`, again when one of `triggers` changes, and for nothing else.
        A pulumi_command.remote.Command would need a private key of its own; ssh uses the agent,
        the configuration and the pinned key that the provider uses too.
        """
        return command.local.Command(
            name,
            create=pulumi.Output.all(*arguments).apply(lambda words: self.shell(*words)),
            stdin=(f"data={shlex.quote(data)}\n" if data else "") + (_SCRIPTS / script).read_text(),
            update=":" if only_triggered else None,
            triggers=triggers,
            logging=command.local.Logging.STDERR,
            opts=opts,
        )
