"""Hosts the component for Pulumi programs in other languages; the engine starts it."""

import json
import sys
import tomllib
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(_ROOT))

from pulumi import ComponentResource  # noqa: E402
from pulumi.errors import InputPropertiesError  # noqa: E402
from pulumi.provider import main  # noqa: E402
from pulumi.provider.experimental.component import ComponentProvider  # noqa: E402
from pulumi.provider.experimental.util import camel_case  # noqa: E402
from pulumi.provider.server import ComponentInitError  # noqa: E402

from components import DockerBuilder, Fleet, Registry, Settings, StackSettings  # noqa: E402
from components.arguments import SharedArgs  # noqa: E402
from components.settings import (  # noqa: E402
    Age,
    AuthorizedKey,
    FleetHost,
    Identity,
    Mirror,
    RegistrySettings,
    Size,
)
from components.settings.model import Model, is_secret  # noqa: E402

_PROJECT = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
_NAME, _VERSION = _PROJECT["name"], _PROJECT["version"]
# The models that check the arguments of each component and type, and have their defaults.
_SETTINGS: dict[type[ComponentResource], type[Model]] = {
    DockerBuilder: Settings,
    Fleet: StackSettings,
    Registry: RegistrySettings,
}
_TYPES: dict[str, type[Model]] = {
    "Key": AuthorizedKey,
    "Identity": Identity,
    "Host": FleetHost,
    "RegistryMirror": Mirror,
}


class _Provider(ComponentProvider):
    """The SDK's provider without its checks: the settings check all inputs."""

    def map_inputs(self, inputs: Any, component_def: Any) -> Any:
        """The inputs unchanged: the settings know both forms of names and report every problem."""
        return inputs

    def construct(self, *args: Any, **options: Any) -> Any:
        """Declare a component. Raises InputPropertiesError, which is shown without a traceback."""
        try:
            return super().construct(*args, **options)
        except ComponentInitError as error:
            if isinstance(error.inner, ValueError):
                raise InputPropertiesError(str(error), []) from error
            raise


def provider() -> ComponentProvider:
    """The provider; its schema has every default and description."""
    hosting = _Provider([*_SETTINGS], _NAME, version=_VERSION)
    schema = json.loads(hosting.schema or "{}")
    for component, model in _SETTINGS.items():
        inputs = schema["resources"][f"{_NAME}:index:{component.__name__}"]["inputProperties"]
        _add_defaults(inputs, model)
        for key in SharedArgs.__annotations__:
            # The analyzer reads the docstrings of a type and not those of its base.
            if about := inputs.get(camel_case(key)):
                about["description"] = hosting.analyzer.get_docstring(SharedArgs, key)
    for name, model in _TYPES.items():
        _add_defaults(schema["types"][f"{_NAME}:index:{name}"]["properties"], model)
    for about in schema["types"].values():
        for member in about.get("enum", []):
            # The form that packages in other languages use: Transport.Socket.
            member["name"] = member["name"].title()
    # Without it the Go SDK lacks a go.mod, and its imports have another name than its folder.
    schema["meta"] = {"supportPack": True}
    hosting.schema = json.dumps(_one_line_each(schema))
    return hosting


def _add_defaults(properties: Any, model: type[Model]) -> None:
    for name, field in model.fields().items():
        default = str(field.default) if isinstance(field.default, Size | Age) else field.default
        # A schema allows defaults only for single values; an empty text is no default.
        if name in properties and isinstance(default, str | int) and default != "":
            properties[name]["default"] = default
        if name in properties and is_secret(field):
            properties[name]["secret"] = True


def _one_line_each(schema: Any) -> Any:
    """The schema with each description on one line; docstrings have several."""
    if isinstance(schema, list):
        return [_one_line_each(part) for part in schema]
    if isinstance(schema, dict):
        return {
            name: " ".join(part.split())
            if name == "description" and isinstance(part, str)
            else _one_line_each(part)
            for name, part in schema.items()
        }
    return schema


if __name__ == "__main__":
    main(provider(), sys.argv[1:])
