"""The component's arguments as the SDK's analyzer reads them, made of the settings' own types.

One place says what a setting is; a package of the component, in any language, has its types.
"""

from __future__ import annotations

import datetime
import types
import typing
from typing import Annotated, Any, Literal, NotRequired, Required, get_args, get_origin

import pydantic

from components.settings.values import Age, DiskSpace, Size
from components.ssh_key import PublicKey

# What is checked as one of these is written as text.
_WRITTEN_AS_TEXT = (str, Age, DiskSpace, PublicKey, Size, datetime.date)


def arguments_of(model: type[pydantic.BaseModel], name: str = "BuilderArgs") -> type:
    """A TypedDict of plain types without unions, with the model's field names.

    Raises TypeError when a field has a type that no other language could give.
    """
    fields: dict[str, Any] = {}
    for field, about in model.model_fields.items():
        plain = _plain(about.annotation)
        fields[field] = Required[plain] if about.is_required() else NotRequired[plain]
    return typing.TypedDict(name, fields)  # type: ignore[operator]


def _plain(annotation: Any) -> Any:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _plain(inner[0])
    if origin is Literal:
        return type(inner[0])
    if origin is tuple:
        return list[_plain(inner[0])]  # type: ignore[misc]
    if origin in (types.UnionType, typing.Union) and inner[1:] == (types.NoneType,):
        return _plain(inner[0])
    if annotation in _WRITTEN_AS_TEXT:
        return str
    if annotation in (int, bool):
        return annotation
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return arguments_of(annotation, annotation.__name__)
    raise TypeError(f"{annotation} has no plain form")
