"""The settings that a program gives to a component; some may be Outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, TypeVar

import pulumi
from pydantic.fields import FieldInfo

from components.settings.model import Model, is_secret, locate, model_in
from components.settings.values import MayBeOutput, stand_in_key

M = TypeVar("M", bound=Model)
_Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Given(Generic[M]):
    """The settings as far as they are known, and the complete settings as an Output."""

    known: M
    """With a placeholder for each Output; a host that is an Output counts as an ssh:// host."""
    complete: pulumi.Output[M]
    """All settings. It fails, with all errors in its message, before anything is created."""
    arguments: dict[str, Any]
    """All settings by their names in Pulumi.yaml, as plain values or Outputs; secrets are secret
    Outputs."""

    @classmethod
    def of(cls, model: type[M], args: Mapping[str, Any]) -> Given[M]:
        """Check the known settings; names are in camelCase or in snake_case.

        Raises ValueError that names every wrong setting.
        """
        values = _plain(args)
        replaced: dict[_Path, Any] = {}
        for number, (path, output) in enumerate([*_outputs(values, ())]):
            name, stand_in = _locate(model, path)
            *where, last = path
            holder = _at(values, where)
            holder[last] = stand_in.stand_in(number)
            replaced[name] = output
            if last == "host" and holder.get("hostKey", holder.get("host_key", "")) == "":
                # Whether the host needs a key is not known yet.
                holder.pop("host_key", None)
                holder["hostKey"] = stand_in_key(number)
                replaced[(*name[:-1], "hostKey")] = ""
        known = model.of(values)
        if not replaced:
            return cls.all_known(known)

        arguments = _with_secrets(model, known.arguments)
        for (*where, last), value in replaced.items():
            field = locate(model, [*where, last])[2]
            _at(arguments, where)[last] = pulumi.Output.secret(value) if is_secret(field) else value

        def check(complete: dict[str, Any]) -> M:
            try:
                return model.of(complete)
            except ValueError as error:
                raise pulumi.RunError(str(error)) from None

        return cls(known, pulumi.Output.all(**_plain(args)).apply(check), arguments)

    @classmethod
    def all_known(cls, settings: M) -> Given[M]:
        """Settings that are checked already and contain no Output."""
        arguments = _with_secrets(type(settings), settings.arguments)
        return cls(settings, pulumi.Output.from_input(settings), arguments)


def _with_secrets(model: type[Model], arguments: dict[str, Any]) -> dict[str, Any]:
    """The same arguments; those that are secrets, at any depth, as secret Outputs."""

    def wrapped(field: FieldInfo, value: Any) -> Any:
        inside = model_in(field.annotation)
        if is_secret(field):
            return pulumi.Output.secret(value) if value else value
        if inside and isinstance(value, list):
            return [_with_secrets(inside, one) for one in value]
        return _with_secrets(inside, value) if inside and isinstance(value, dict) else value

    fields = model.fields()
    return {name: wrapped(fields[name], value) for name, value in arguments.items()}


def _plain(value: Any) -> Any:
    """A copy in which members of enums are text."""
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value.value if isinstance(value, Enum) else value


def _outputs(value: Any, path: _Path) -> Iterator[tuple[_Path, pulumi.Output[Any]]]:
    """Each Output in the value, and where it is."""
    if isinstance(value, pulumi.Output):
        yield path, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _outputs(inner, (*path, name))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _outputs(inner, (*path, number))


def _locate(model: type[Model], path: _Path) -> tuple[_Path, MayBeOutput]:
    """The path by the names in Pulumi.yaml, and the mark of its last field.

    Raises ValueError for a field that cannot be an Output.
    """
    names, _, field = locate(model, path)
    allowed = _allows(field)
    if allowed is None or isinstance(path[-1], int):
        raise ValueError(
            f"{path[0]} has an Output, which only these can be: {', '.join(_all(model))}; next: "
            "give a plain value"
        )
    return tuple(names), allowed


def _allows(field: FieldInfo | None) -> MayBeOutput | None:
    return next((m for m in field.metadata if isinstance(m, MayBeOutput)), None) if field else None


def _all(model: type[Model]) -> Iterator[str]:
    """What may be an Output."""
    for name, field in model.fields().items():
        if _allows(field):
            yield name
        elif inside := model_in(field.annotation):
            yield from (f"{inner} of {name}" for inner in _all(inside))


def _at(values: Any, path: Sequence[str | int]) -> Any:
    for part in path:
        values = values[part]
    return values
