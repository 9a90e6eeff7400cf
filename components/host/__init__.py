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
from components.scope import RELEASES, Scope
from components.settings import Settings

PREFLIGHT = RELEASES + (Path(__file__).parent / "preflight.sh").read_text()
"""Runs on the host, with the arguments that preflight.sh names."""
# Per run of the program: the output of the last look through each sshd.
_LOOKS: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, pulumi.Output[str]]] = (
    WeakKeyDictionary()
)


@dataclass(frozen=True)
class Preflight:
    """The check of a host, and the host's facts."""

    checked: command.local.Command
    """Everything on the host depends on this resource."""
    facts: pulumi.Output[HostFacts]
    """Known in previews too."""

    @classmethod
    def declare(cls, scope: Scope, settings: Settings) -> Preflight:
        """Read the host's facts in every preview; declare a check that runs when a fact changes.

        Shortfalls are warnings in a preview and errors in an update. A host that does not answer is
        not an error in a preview: the other resources and hosts are still planned.
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
                # Only in a preview: an update checks such a host again and reports its error.
                {"transforms": while_unknown_keep(facts, "environment").transforms}
                if pulumi.runtime.is_dry_run()
                else {}
            )
        )
        checked = command.local.Command(
            f"{scope.name}-preflight",
            # The provider runs next and needs a shared connection; the one of the look may have
            # ended.
            create=scope.host.apply(
                lambda host: host.shell("check", *arguments, clock=True, first=True)
            ),
            stdin=PREFLIGHT,
            # One variable per fact, so that a preview shows which one changed.
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
    """The host's facts now, and the warnings about them."""
    looks = _LOOKS.setdefault(asyncio.get_event_loop(), {})
    # One look at a time: the first opens the connections that the others share.
    sshd = DockerHost(scope.url or "").sshd
    before = looks.get(sshd, pulumi.Output.from_input(""))

    def look(host: DockerHost) -> str:
        # A failure is not an error here: the caller shows the command's output.
        return f"( {host.shell('look', *arguments, clock=True, first=True)} ) || :"

    seen = command.local.run_output(
        command=pulumi.Output.all(scope.host, before).apply(lambda parts: look(parts[0])),
        stdin=PREFLIGHT,
        logging=command.local.Logging.NONE,
        opts=pulumi.InvokeOutputOptions(parent=scope.options.parent),
    )
    looks[sshd] = seen.stdout
    return seen.stdout.apply(lambda text: HostFacts.parse(text or "")), seen.stderr
