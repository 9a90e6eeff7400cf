"""What a program gives to the component: settings, of which some may be Outputs."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import pulumi

from components.settings.builder import Settings

_ALLOWED = "host, hostKey, sshHost, and publicKey of keys"


@dataclass(frozen=True)
class GivenSettings:
    """Settings as far as they are known, and all of them once they are."""

    known: Settings
    """Host, host key, SSH host and public keys are stand-ins where they are Outputs."""
    complete: pulumi.Output[Settings]
    """Every setting. It fails, with every error in its message, before anything is created."""
    arguments: dict[str, Any]
    """Every setting in its plain form, or as the Output that it is, by its name in Pulumi.yaml."""

    @classmethod
    def of(cls, args: Mapping[str, Any] | Settings) -> GivenSettings:
        """Check what is known; names are in camelCase or in snake_case.

        Raises ValueError whose text names every wrong setting.
        """
        if isinstance(args, Settings):
            return cls(args, pulumi.Output.from_input(args), args.arguments)
        given = _plain(args)
        outputs: dict[tuple[str | int, ...], pulumi.Output[Any]] = {}
        known = Settings.of(_without_outputs(given, (), outputs))
        arguments = known.arguments
        for path, output in outputs.items():
            _put(arguments, path, output)
        complete = (
            pulumi.Output.all(**given).apply(_check) if outputs else pulumi.Output.from_input(known)
        )
        return cls(known, complete, arguments)


def _check(values: dict[str, Any]) -> Settings:
    try:
        return Settings.of(values)
    except ValueError as error:
        raise pulumi.RunError(str(error)) from None


def _plain(value: Any) -> Any:
    """The value with members of enums, which other languages' packages give, as text."""
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value.value if isinstance(value, Enum) else value


def _without_outputs(
    value: Any, path: tuple[str | int, ...], outputs: dict[tuple[str | int, ...], Any]
) -> Any:
    """The value with a valid stand-in for each Output, which is noted with its path.

    Raises ValueError for an Output where none can be.
    """
    if isinstance(value, Mapping):
        return {name: _without_outputs(v, (*path, name), outputs) for name, v in value.items()}
    if isinstance(value, list):
        return [_without_outputs(v, (*path, n), outputs) for n, v in enumerate(value)]
    if not isinstance(value, pulumi.Output):
        return value
    match path:
        case ("host",):
            name, stand_in = "host", "unix:///not-known-yet"
        case ("hostKey" | "host_key",):
            name, stand_in = "hostKey", ""
        case ("sshHost" | "ssh_host",):
            name, stand_in = "sshHost", ""
        case ("keys", int(number), "publicKey" | "public_key"):
            name, stand_in = "publicKey", _stand_in_key(number)
        case _:
            raise ValueError(
                f"{path[0]} has an Output, which only these can be: {_ALLOWED}; next: give a plain "
                "value"
            )
    outputs[(*path[:-1], name)] = value
    return stand_in


def _stand_in_key(number: int) -> str:
    """A public key in form; nobody has the private one."""
    kind = b"ssh-ed25519"
    blob = struct.pack(f">I{len(kind)}sI32s", len(kind), kind, 32, number.to_bytes(32, "big"))
    return f"{kind.decode()} {base64.b64encode(blob).decode()}"


def _put(arguments: Any, path: tuple[str | int, ...], output: pulumi.Output[Any]) -> None:
    for part in path[:-1]:
        arguments = arguments[part]
    arguments[path[-1]] = output
