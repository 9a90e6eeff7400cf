"""The gateway's host key, which is kept in the stack's state, not in a container or volume."""

from __future__ import annotations

from dataclasses import dataclass

import pulumi
import pulumi_command as command

from components.scope import Scope
from components.ssh_key import PublicKey

_GENERATE = """\
set -eu
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
ssh-keygen -q -t ed25519 -N '' -C "$(date +%s)" -f "$folder/key"
cat "$folder/key.pub" "$folder/key"
"""


@dataclass(frozen=True)
class HostKey:
    """One generation of the host key."""

    private_key: pulumi.Output[str]
    """The complete private key file; a secret."""
    public_key: pulumi.Output[str]
    """Type and base64, without a comment."""
    created: pulumi.Output[int | None]
    """Seconds since 1970; None for a key of a release that did not write it into the comment."""

    @classmethod
    def declare(cls, scope: Scope, generation: int, *, keep: bool) -> HostKey:
        """Declare the key of one generation; it is made once and kept, encrypted, in the state.

        With `keep` it is protected, so that clients find the same host key after destroy and up.
        The other keys of a rotation are not, so that they can be removed from the settings at its
        end.
        """
        generated = command.local.Command(
            f"{scope.name}-host-key-{generation}",
            create=_GENERATE,
            logging=command.local.Logging.NONE,
            opts=scope.merged(
                protect=keep,
                additional_secret_outputs=["stdout"],
                # Neither another text of the command nor a default that the plugin adds or drops
                # may make a new key.
                ignore_changes=["*"],
            ),
        )
        files = generated.stdout.apply(lambda text: text.split("\n", 1))
        public = pulumi.Output.unsecret(files.apply(lambda files: files[0]))
        return cls(
            private_key=pulumi.Output.secret(files.apply(lambda files: files[1] + "\n")),
            public_key=public.apply(lambda line: str(PublicKey.parse(line))),
            created=public.apply(_created),
        )


def _created(public_key: str) -> int | None:
    comment = public_key.split()[2:]
    return int(comment[0]) if comment and comment[0].isdigit() else None
