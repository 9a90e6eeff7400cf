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
    """One generation of certificates and keys, in PEM, valid for ten years; keys are secrets."""

    ca: pulumi.Output[str]
    server: pulumi.Output[str]
    server_key: pulumi.Output[str]
    client: pulumi.Output[str]
    client_key: pulumi.Output[str]


def declare_certificates(scope: Scope, server: pulumi.Output[str], generation: int) -> Certificates:
    """Declare the certificates for a server with this name or address.

    They are made once, where Pulumi runs, and kept encrypted in the state. Another name or
    generation replaces all of them. The CA's key is not kept.
    """
    generated = command.local.Command(
        f"{scope.name}-certificates",
        create=(Path(__file__).parent / "certificates.sh").read_text(),
        # The script reads it; the certificates are replaced when it changes.
        stdin=server.apply(lambda server: f"{server}\n{generation}\n"),
        logging=command.local.Logging.NONE,
        opts=scope.merged(
            additional_secret_outputs=["stdout"],
            # Neither a reworded script nor a default that the plugin adds or drops may replace the
            # certificates.
            ignore_changes=[
                "addPreviousOutputInEnv",
                "create",
                "environment",
                "interpreter",
                "logging",
            ],
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
