"""Hosts the component for Pulumi programs in other languages; the engine starts it."""

import json
import sys
import tomllib
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(_ROOT))

import yaml  # noqa: E402
from pulumi.errors import InputPropertiesError  # noqa: E402
from pulumi.provider import main  # noqa: E402
from pulumi.provider.experimental.component import ComponentProvider  # noqa: E402
from pulumi.provider.server import ComponentInitError  # noqa: E402

from components import DockerBuilder  # noqa: E402


class _Provider(ComponentProvider):
    """The SDK's provider, in which the settings alone check what they are given."""

    def map_inputs(self, inputs: Any, component_def: Any) -> Any:
        """The inputs as they come: the settings know their names and report every problem."""
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
    """The provider, with the version in pyproject.toml and the defaults in Pulumi.yaml."""
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    hosting = _Provider([DockerBuilder], project["name"], version=project["version"])
    schema = _one_line_each(json.loads(hosting.schema or "{}"))
    settings = yaml.safe_load((_ROOT / "Pulumi.yaml").read_text())["config"]
    for resource in schema["resources"].values():
        for name, about in resource["inputProperties"].items():
            default = settings[name].get("default")
            # A schema has defaults of single values alone, and none for what is left empty.
            if isinstance(default, str | int) and default != "":
                about["default"] = default
    hosting.schema = json.dumps(schema)
    return hosting


def _one_line_each(schema: Any) -> Any:
    """The schema with descriptions on one line, as they stand in docstrings on several."""
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
