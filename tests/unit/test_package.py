"""The package of the component: its schema has the settings' names, types and descriptions."""

from __future__ import annotations

import json
import runpy
import tomllib
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml

from components import BuilderArgs, Settings
from components.settings import AuthorizedKey, Revocation

ROOT = Path(__file__).parents[2]
BUILDER = "docker-build-machine:index:DockerBuilder"


@pytest.fixture(scope="module")
def schema() -> Any:
    provider = runpy.run_path(str(ROOT / "package" / "__main__.py"))["provider"]()
    return json.loads(provider.schema)


def test_the_one_resource_has_every_setting_described_and_none_beside(schema: Any) -> None:
    assert set(schema["resources"]) == {BUILDER}
    inputs = schema["resources"][BUILDER]["inputProperties"]
    settings = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())["config"]
    # Several hosts are several components; their nodes and their registry are no part of one.
    for name in ("hosts", "buildkitImage", "registry", "registryImage"):
        del settings[name]
    assert {name: about["description"] for name, about in inputs.items()} == {
        name: about["description"] for name, about in settings.items()
    }
    for name, about in settings.items():
        kind = inputs[name].get("type") or schema["types"][inputs[name]["$ref"][8:]]["type"]
        assert kind == about["type"]
        if about["type"] in ("array", "object") or about["default"] == "":
            assert "default" not in inputs[name]
        else:
            assert inputs[name]["default"] == about["default"]


def test_a_setting_with_few_values_is_an_enum_of_them(schema: Any) -> None:
    fields = {**Settings.model_fields, "role": AuthorizedKey.model_fields["role"]}
    listed = {
        name: set(get_args(field.annotation))
        for name, field in fields.items()
        if get_origin(field.annotation) is Literal
    }
    assert set(listed) == {"transport", "isolation", "private_networks", "role"}
    enums = {name: about for name, about in schema["types"].items() if "enum" in about}
    assert {frozenset(member["value"] for member in about["enum"]) for about in enums.values()} == {
        frozenset(values) for values in listed.values()
    }
    assert all(member["description"] for about in enums.values() for member in about["enum"])


def test_the_version_is_that_of_pyproject(schema: Any) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert schema["version"] == project["version"]
    assert schema["name"] == project["name"]


def test_what_a_machine_of_the_same_program_tells_may_be_an_output(schema: Any) -> None:
    inputs = schema["resources"][BUILDER]["inputProperties"]
    open_ = {name for name, about in inputs.items() if not about.get("plain")}
    assert open_ == {"host", "hostKey", "sshHost", "keys"}
    key = schema["types"]["docker-build-machine:index:Key"]["properties"]
    assert {name for name, about in key.items() if not about.get("plain")} == {"publicKey"}


def test_keys_and_revocations_have_the_fields_of_the_settings(schema: Any) -> None:
    for name, model in (("Key", AuthorizedKey), ("RevokedKey", Revocation)):
        about = schema["types"][f"docker-build-machine:index:{name}"]
        names = {field.alias or name for name, field in model.model_fields.items()}
        assert set(about["properties"]) == names
        assert all(field["description"] for field in about["properties"].values())
    assert schema["types"]["docker-build-machine:index:Key"]["required"] == ["name", "publicKey"]


def test_the_arguments_are_the_fields_of_the_settings() -> None:
    assert set(BuilderArgs.__annotations__) == set(Settings.model_fields)


def test_the_outputs_are_those_that_the_stack_exports(schema: Any) -> None:
    resource = schema["resources"]["docker-build-machine:index:DockerBuilder"]
    assert {"sshDestination", "dockerHost", "sshAlias", "sshConfig", "knownHosts"} <= set(
        resource["properties"]
    )
