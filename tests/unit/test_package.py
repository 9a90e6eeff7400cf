"""The package of the component: its schema has the settings' names, types and descriptions."""

from __future__ import annotations

import json
import runpy
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml

from components import BuilderArgs, FleetArgs, RegistryArgs, Settings, StackSettings
from components.settings import (
    AuthorizedKey,
    FleetHost,
    Identity,
    Mirror,
    RegistrySettings,
    Revocation,
)
from components.settings.model import Model
from tests.unit.conftest import Run
from tests.unit.test_fleet import HOSTS

ROOT = Path(__file__).parents[2]
BUILDER = "docker-build-machine:index:DockerBuilder"
FLEET = "docker-build-machine:index:Fleet"
REGISTRY = "docker-build-machine:index:Registry"


@pytest.fixture(scope="module")
def schema() -> Any:
    provider = runpy.run_path(str(ROOT / "package" / "__main__.py"))["provider"]()
    return json.loads(provider.schema)


def described(settings: Any, *left_out: str) -> dict[str, str]:
    return {n: about["description"] for n, about in settings.items() if n not in left_out}


def test_builder_and_fleet_have_every_setting_with_description_and_no_other(schema: Any) -> None:
    assert set(schema["resources"]) == {BUILDER, FLEET, REGISTRY}
    settings = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())["config"]
    # The registry of a stack is a component of its own.
    for name in ("registry", "registryImage"):
        del settings[name]
    for token, others in (
        (BUILDER, ("hosts", "buildkitImage")),
        (FLEET, ("host", "hostKey", "sshHost", "platforms")),
    ):
        inputs = dict(schema["resources"][token]["inputProperties"])
        assert inputs.pop("registryClient")["description"]
        assert described(inputs) == described(settings, *others)
        for name in inputs:
            about = settings[name]
            kind = inputs[name].get("type") or schema["types"][inputs[name]["$ref"][8:]]["type"]
            assert kind == about["type"]
            if about["type"] in ("array", "object") or about["default"] == "":
                assert "default" not in inputs[name]
            else:
                assert inputs[name]["default"] == about["default"]


def test_the_registry_has_the_settings_of_its_host_and_their_defaults(schema: Any) -> None:
    inputs = schema["resources"][REGISTRY]["inputProperties"]
    assert set(inputs) == set(RegistrySettings.fields())
    assert all(about["description"] for about in inputs.values())
    assert {name: about["default"] for name, about in inputs.items() if "default" in about} == {
        "host": "unix:///var/run/docker.sock",
        "address": "0.0.0.0",
        "port": 5000,
        "mirrorPort": 5001,
        "upstream": "https://registry-1.docker.io",
        "size": "20GB",
        "age": "30d",
        "certificates": 1,
        "image": "registry:3.1.1",
    }


def test_a_setting_with_few_values_is_an_enum_of_them(schema: Any) -> None:
    fields = {**Settings.model_fields, "role": AuthorizedKey.model_fields["role"]}
    listed = {
        name: set(get_args(field.annotation))
        for name, field in fields.items()
        if get_origin(field.annotation) is Literal
    }
    assert set(listed) == {
        "transport",
        "isolation",
        "private_networks",
        "image_store",
        "role",
    }
    enums = {name: about for name, about in schema["types"].items() if "enum" in about}
    assert {frozenset(member["value"] for member in about["enum"]) for about in enums.values()} == {
        frozenset(values) for values in listed.values()
    }
    members = [member for about in enums.values() for member in about["enum"]]
    assert all(member["description"] for member in members)
    assert all(member["name"] == member["value"].title() for member in members)


def test_the_version_is_that_of_pyproject(schema: Any) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert schema["version"] == project["version"]
    assert schema["name"] == project["name"]


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        (
            BUILDER,
            {"host", "hostKey", "sshHost", "keys", "identities", "revoked", "registryClient"},
        ),
        (FLEET, {"hosts", "keys", "identities", "revoked", "registryClient"}),
        (REGISTRY, {"host", "hostKey", "name", "user", "token", "mirrors"}),
        ("docker-build-machine:index:RegistryMirror", {"user", "token"}),
        ("docker-build-machine:index:Key", {"publicKey"}),
        ("docker-build-machine:index:Host", {"host", "hostKey", "sshHost"}),
    ],
)
def test_values_of_a_machine_of_the_same_program_can_be_outputs(
    schema: Any, token: str, expected: set[str]
) -> None:
    resource, type_ = schema["resources"].get(token), schema["types"].get(token)
    properties = resource["inputProperties"] if resource else type_["properties"]
    assert {name for name, about in properties.items() if not about.get("plain")} == expected


@pytest.mark.parametrize(
    ("name", "model", "required", "defaults"),
    [
        ("Key", AuthorizedKey, ["name", "publicKey"], {"role": "admin"}),
        ("RevokedKey", Revocation, None, {}),
        ("Identity", Identity, ["audience", "claims", "issuer", "name"], {"role": "build"}),
        ("Host", FleetHost, ["host", "name"], {"weight": 1}),
        ("RegistryMirror", Mirror, ["port", "registry"], {}),
    ],
)
def test_entries_of_lists_have_the_fields_of_the_settings(
    schema: Any, name: str, model: type[Model], required: Any, defaults: dict[str, Any]
) -> None:
    about = schema["types"][f"docker-build-machine:index:{name}"]
    assert set(about["properties"]) == set(model.fields())
    assert all(field["description"] for field in about["properties"].values())
    assert about.get("required") == required
    found = {n: f["default"] for n, f in about["properties"].items() if "default" in f}
    assert found == defaults


def test_tokens_are_secrets_in_every_language(schema: Any) -> None:
    mirror = schema["types"]["docker-build-machine:index:RegistryMirror"]["properties"]
    for properties in (schema["resources"][REGISTRY]["inputProperties"], mirror):
        assert [name for name, about in properties.items() if about.get("secret")] == ["token"]


def test_the_arguments_are_the_fields_of_the_settings() -> None:
    arguments = set(BuilderArgs.__annotations__) - {"registry_client"}
    assert arguments == set(Settings.model_fields)
    assert set(RegistryArgs.__annotations__) == set(RegistrySettings.model_fields)
    of_stack = set(FleetArgs.__annotations__) - {"registry_client"}
    assert of_stack < set(StackSettings.model_fields)


def test_the_outputs_are_those_that_the_stack_exports(schema: Any) -> None:
    of_one = {"sshDestination", "dockerHost", "sshAlias", "sshConfig", "knownHosts"}
    of_registry = {"store", "mirror", "mirrored", "ca", "certificate", "key"}
    for token, outputs in (
        (BUILDER, of_one),
        (FLEET, {*of_one, "builders", "buildxCreate"}),
        (REGISTRY, of_registry),
    ):
        properties = schema["resources"][token]["properties"]
        assert set(properties) == outputs
        assert all(about["description"] for about in properties.values())
    # What a registry tells is what a builder takes.
    client = schema["types"]["docker-build-machine:index:RegistryClient"]
    assert set(client["properties"]) == of_registry
    # Clients of registries of earlier releases stay valid.
    assert set(client["required"]) == of_registry - {"mirrored"}


def test_the_entries_of_a_fleet_are_typed_as_they_are(
    schema: Any, run_program: Callable[..., Run]
) -> None:
    entries = run_program(host=None, hosts=HOSTS).exports["builders"]
    about = schema["types"]["docker-build-machine:index:FleetBuilder"]
    kinds = {str: "string", int: "integer", list: "array", dict: "object"}
    for entry in entries:
        assert {name: kinds[type(value)] for name, value in entry.items()} == {
            name: field["type"] for name, field in about["properties"].items()
        }
