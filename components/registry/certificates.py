"""The certificates of the stack's registry: a CA, the servers' and the clients'."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pulumi
import pulumi_command as command

from components.scope import Scope

_PEM = re.compile(r"-----BEGIN ([A-Z ]+)-----\n.*?-----END \1-----\n?", re.DOTALL)


@dataclass(frozen=True)
class Certificates:
    """One generation, in PEM; keys are secrets. All of them end ten years after they were made."""

    ca: pulumi.Output[str]
    server: pulumi.Output[str]
    server_key: pulumi.Output[str]
    client: pulumi.Output[str]
    client_key: pulumi.Output[str]


def declare_certificates(scope: Scope, server: pulumi.Output[str], generation: int) -> Certificates:
    """Declare those for a server of this name or address.

    They are made once, where Pulumi runs, and live, encrypted, in the state; another name or
    generation makes all of them anew. The CA's key is thrown away.
    """
    generated = command.local.Command(
        f"{scope.name}-certificates",
        create=(Path(__file__).parent / "certificates.sh").read_text(),
        # It differs with whatever makes them anew, and is what the script reads.
        stdin=server.apply(lambda server: f"{server}\n{generation}\n"),
        logging=command.local.Logging.NONE,
        opts=scope.merged(
            additional_secret_outputs=["stdout"],
            # Another wording of the command must not make others.
            ignore_changes=["create", "environment", "interpreter", "logging"],
        ),
    )

    def part(number: int) -> pulumi.Output[str]:
        return generated.stdout.apply(lambda text: blocks(text)[number])

    return Certificates(
        ca=pulumi.Output.unsecret(part(0)),
        server=pulumi.Output.unsecret(part(1)),
        server_key=pulumi.Output.secret(part(2)),
        client=pulumi.Output.unsecret(part(3)),
        client_key=pulumi.Output.secret(part(4)),
    )


def blocks(text: str) -> list[str]:
    """The PEM blocks of a text, each with a newline at its end."""
    return [match[0].rstrip("\n") + "\n" for match in _PEM.finditer(text)]
