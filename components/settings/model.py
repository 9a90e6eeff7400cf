"""The base class of all settings: camelCase names, frozen values, errors with a next step."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, get_args

import pydantic
import yaml
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo

from components.settings.values import Secret

# libyaml, which PyYAML's wheels contain, takes a tenth of the time.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DECLARED = yaml.load((Path(__file__).parents[2] / "Pulumi.yaml").read_text(), _LOADER)["config"]


def default(setting: str) -> Any:
    """The default of a setting, which is only in Pulumi.yaml."""
    value = _DECLARED[setting]["default"]
    return pydantic.Field(default=tuple(value) if isinstance(value, list) else value)


class Model(pydantic.BaseModel):
    """A group of settings; each can be given by its name in Pulumi.yaml or in Python."""

    model_config = pydantic.ConfigDict(
        alias_generator=to_camel,
        extra="forbid",
        frozen=True,
        validate_by_alias=True,
        validate_by_name=True,
        validate_default=True,
    )

    @classmethod
    def parse(cls, raw: Mapping[str, str]) -> Self:
        """Check the raw configuration: names without the project, values as the engine passes them.

        Raises ValueError that names every wrong setting, its value, what is allowed and the next
        step.
        """
        values: dict[str, Any] = {}
        problems: list[str] = []
        for name, text in raw.items():
            if text[:1] in ("[", "{"):
                try:
                    values[name] = json.loads(text)
                except json.JSONDecodeError as error:
                    problems.append(f"{name} = {_shown(text)}: must be JSON ({error})")
            else:
                values[name] = text
        return cls._checked(values, problems)

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Self:
        """Check typed values; names are in camelCase or in snake_case.

        Raises ValueError as `parse` does.
        """
        return cls._checked(arguments, [])

    @classmethod
    def _checked(cls, values: Mapping[str, Any], problems: list[str]) -> Self:
        try:
            settings = cls.model_validate(values)
        except pydantic.ValidationError as invalid:
            problems += [_explain(cls, error) for error in invalid.errors()]
        else:
            if not problems:
                return settings
        count = "One setting is" if len(problems) == 1 else f"{len(problems)} settings are"
        raise ValueError(
            f"{count} not usable; nothing was created or changed.\n"
            + "\n".join(f"  - {problem}" for problem in problems)
        )

    @classmethod
    def fields(cls) -> dict[str, FieldInfo]:
        """Each field by its name in Pulumi.yaml."""
        return {str(field.alias): field for field in cls.model_fields.values()}

    @classmethod
    def field(cls, name: str) -> FieldInfo | None:
        """The field that has this name in Pulumi.yaml or in Python."""
        return cls.model_fields.get(name) or cls.fields().get(name)

    @property
    def arguments(self) -> dict[str, Any]:
        """All settings as plain values, by their names in Pulumi.yaml; `of` accepts them."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


# By pydantic's kinds of errors.
_TYPES = {
    **dict.fromkeys(("bool_parsing", "bool_type"), "true or false"),
    **dict.fromkeys(
        (
            "date_from_datetime_inexact",
            "date_from_datetime_parsing",
            "date_parsing",
            "date_type",
        ),
        "a day, YYYY-MM-DD",
    ),
    "dict_type": "a map",
    "int_type": "a whole number",
    "model_type": "a map of settings",
    "string_type": "text",
    "tuple_type": "a list",
}


def _shown(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # in other languages every number is a float
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    if "PRIVATE KEY" in text or '"token"' in text:
        return "(not shown)"
    return repr(text if len(text) <= 60 else text[:57] + "...")


def is_secret(field: FieldInfo | None) -> bool:
    """Whether the field's value is shown nowhere."""
    return field is not None and any(isinstance(mark, Secret) for mark in field.metadata)


def model_in(annotation: Any) -> type[Model] | None:
    """The model that a field holds, by itself or in a list."""
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return annotation
    return next(filter(None, map(model_in, get_args(annotation))), None)


def locate(
    model: type[Model], path: Sequence[int | str]
) -> tuple[list[int | str], type[Model] | None, FieldInfo | None]:
    """A path by the names in Pulumi.yaml, the model that its end is in, and its last field.

    Without a model or a field, the end is a free name, as those of a host's labels are.
    """
    names: list[int | str] = []
    inside: type[Model] | None = model
    field: FieldInfo | None = None
    for part in path:
        if isinstance(part, str):
            if names:
                inside = model_in(field.annotation) if field else None
            field = inside.field(part) if inside else None
            part = str(field.alias) if field else part
        names.append(part)
    return names, inside, field


def _dotted(names: list[int | str]) -> str:
    """The path as `pulumi config set --path` takes it."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in names)
    return text.removeprefix(".")


def _range(field: FieldInfo | None) -> str:
    """The bounds of a whole number."""
    bounds = {type(limit).__name__: limit for limit in field.metadata} if field else {}
    least, most = getattr(bounds.get("Ge"), "ge", None), getattr(bounds.get("Le"), "le", None)
    if least is not None and most is not None:
        return f" from {least} to {most}"
    return f" from {least} up" if least is not None else ""


def _explain(model: type[Model], error: Any) -> str:
    """One line for one pydantic error: setting, value, what is allowed, next step."""
    names, inside, field = locate(model, error["loc"])
    name = _dotted(names)
    value, kind, context = error.get("input"), error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        known = sorted(inside.fields()) if inside else []
        close = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
        remove = f"; or remove it: pulumi config rm {name}" if inside is model else ""
        return f"{name} is not a setting; {hint}{remove}"
    if kind == "missing":
        return f"{name} is not set; give it a value"
    if kind == "value_error" and not name:
        return str(context["error"])
    if kind == "value_error":
        reason = str(context["error"])
    elif kind == "literal_error":
        reason = f"must be {context['expected']}"
    elif kind in ("greater_than_equal", "less_than_equal", "int_parsing", "int_from_float"):
        reason = f"must be a whole number{_range(field)}"
    elif kind in _TYPES:
        reason = f"must be {_TYPES[kind]}"
    else:
        reason = error["msg"][:1].lower() + error["msg"][1:]
    if isinstance(value, dict | list | tuple) or is_secret(field):
        return f"{name} {reason}"
    return f"{name} = {_shown(value)} {reason}"
