"""The package of the component: its schema has the settings' names, types and descriptions."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

from components import BuilderArgs, Settings

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def schema() -> Any:
    provider = runpy.run_path(str(ROOT / "package" / "__main__.py"))["provider"]()
    return json.loads(provider.schema)


def test_the_one_resource_has_every_setting_described_and_none_beside(schema: Any) -> None:
    assert set(schema["resources"]) == {"docker-build-machine:index:DockerBuilder"}
    inputs = schema["resources"]["docker-build-machine:index:DockerBuilder"]["inputProperties"]
    settings = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())["config"]
    # Several hosts are several components; their nodes and their registry are no part of one.
    for name in ("hosts", "buildkitImage", "registry", "registryImage"):
        del settings[name]
    assert {name: about["description"] for name, about in inputs.items()} == {
        name: about["description"] for name, about in settings.items()
    }
    types = {name: about["type"] for name, about in inputs.items()}
    assert types == {name: about["type"] for name, about in settings.items()}


def test_no_type_is_a_union_and_every_value_is_plain(schema: Any) -> None:
    assert "oneOf" not in json.dumps(schema)
    resource = schema["resources"]["docker-build-machine:index:DockerBuilder"]
    assert all(about["plain"] for about in resource["inputProperties"].values())


def test_a_key_has_the_fields_of_the_settings(schema: Any) -> None:
    key = schema["types"]["docker-build-machine:index:AuthorizedKey"]
    assert {"name", "publicKey", "from", "until", "principals"} <= set(key["properties"])
    assert key["required"] == ["name", "publicKey"]


def test_the_arguments_are_the_fields_of_the_settings() -> None:
    assert set(BuilderArgs.__annotations__) == set(Settings.model_fields)


def test_the_outputs_are_those_that_the_stack_exports(schema: Any) -> None:
    resource = schema["resources"]["docker-build-machine:index:DockerBuilder"]
    assert {"sshDestination", "dockerHost", "sshAlias", "sshConfig", "knownHosts"} <= set(
        resource["properties"]
    )
