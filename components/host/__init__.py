"""The check of a Docker host before anything is created on it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

import pulumi
import pulumi_command as command

from components.docker_host import DockerHost
from components.host_facts import HostFacts, while_unknown_keep
from components.scope import Scope
from components.settings import Settings

_SCRIPT = Path(__file__).parent / "preflight.sh"
# The last look through each sshd in a run of the program.
_LOOKS: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, pulumi.Output[str]]] = (
    WeakKeyDictionary()
)


@dataclass(frozen=True)
class Preflight:
    """The check, and what it is based on."""

    checked: command.local.Command
    """What everything on the host depends on."""
    facts: pulumi.Output[HostFacts]
    """What the host is, in previews too."""

    @classmethod
    def declare(cls, scope: Scope, settings: Settings) -> Preflight:
        """Look at the host in every preview, and check it when a fact differs.

        Shortfalls are warnings of the preview and errors of the update. A host that does not
        answer is no error of a preview: its other resources, and other hosts, are still planned.
        """
        arguments = [
            scope.owner,
            scope.prefix,
            settings.ssh_address,
            str(settings.ssh_port),
            ",".join(settings.platforms),
            str(settings.prepare).lower(),
        ]
        facts, warnings = _look(scope, arguments)
        unless_unknown = scope.having(
            **(
                # An update checks again a host that did not answer, and says why it does not.
                {"transforms": while_unknown_keep(facts, "environment").transforms}
                if pulumi.runtime.is_dry_run()
                else {}
            )
        )
        checked = command.local.Command(
            f"{scope.name}-preflight",
            # However long that took, the provider comes next and finds its connection.
            create=scope.host.apply(
                lambda host: host.shell("check", *arguments, clock=True, first=True)
            ),
            stdin=_SCRIPT.read_text(),
            # Each fact by its name, so that a preview shows which of them changed.
            environment=facts.apply(lambda facts: facts.variables),
            logging=command.local.Logging.STDERR,
            opts=unless_unknown.options,
        )

        def warn(text: str) -> None:
            if text:
                pulumi.log.warn(text, resource=checked)

        if pulumi.runtime.is_dry_run():
            warnings.apply(warn)
        return cls(checked, facts)


def _look(
    scope: Scope, arguments: list[str]
) -> tuple[pulumi.Output[HostFacts], pulumi.Output[str]]:
    """What the host is now, and the warnings about it."""
    looks = _LOOKS.setdefault(asyncio.get_event_loop(), {})
    # One at a time: the first one opens the connections that the others share.
    sshd = DockerHost(scope.url or "").sshd
    before = looks.get(sshd, pulumi.Output.from_input(""))

    def look(host: DockerHost) -> str:
        # A failure is no error here: the caller shows what the command printed.
        return f"( {host.shell('look', *arguments, clock=True, first=True)} ) || :"

    seen = command.local.run_output(
        command=pulumi.Output.all(scope.host, before).apply(lambda parts: look(parts[0])),
        stdin=_SCRIPT.read_text(),
        logging=command.local.Logging.NONE,
        opts=pulumi.InvokeOutputOptions(parent=scope.options.parent),
    )
    looks[sshd] = seen.stdout
    return seen.stdout.apply(lambda text: HostFacts.parse(text or "")), seen.stderr
