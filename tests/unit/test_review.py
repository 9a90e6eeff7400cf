"""The page that shows a preview to reviewers, and the stacks that a change affects."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.ssh_key import PublicKey
from policy.rules import BUILDER, CONTAINER, IMAGE, REGISTRY, VOLUME
from review import preview
from review.effects import effects_of
from review.markdown import page
from review.plan import UNKNOWN, Plan
from review.without_state import _steps
from tests.unit.conftest import KEY, OTHER_KEY

STACK_URN = "urn:pulumi:dev::docker-build-machine::pulumi:pulumi:Stack::docker-build-machine-dev"
BUILDER_URN = f"urn:pulumi:dev::docker-build-machine::{BUILDER}::builder"
ADA = {"name": "ada", "publicKey": KEY, "from": [], "principals": []}
BOB = {"name": "bob", "publicKey": OTHER_KEY, "from": ["10.0.0.0/8"], "principals": []}
FINGERPRINT, OTHER_FINGERPRINT = (PublicKey.parse(key).fingerprint for key in (KEY, OTHER_KEY))


def step(
    op: str,
    type_: str,
    role: str,
    old: dict[str, Any] | None,
    new: dict[str, Any] | None,
    **state: Any,
) -> dict[str, Any]:
    """One step as Pulumi prints it; `old` and `new` are inputs, `state` is stored next to them."""
    urn = f"{BUILDER_URN.rsplit('::', 2)[0]}::{BUILDER}${type_}::builder-{role}"
    about = {"urn": urn, "type": type_, "parent": BUILDER_URN, **state}
    return {
        "op": op,
        "urn": urn,
        "oldState": None if old is None else {**about, "inputs": old},
        "newState": None if new is None else {**about, "inputs": new},
    }


def plan(old: dict[str, Any] | None, new: dict[str, Any], *steps: dict[str, Any]) -> Plan:
    """A plan that changes the builder's settings from `old` to `new`."""
    about = {"urn": BUILDER_URN, "type": BUILDER, "parent": STACK_URN}
    component = {
        "op": "update",
        "urn": BUILDER_URN,
        "oldState": {**about, **({} if old is None else {"inputs": old})},
        "newState": {**about, "inputs": new},
    }
    return Plan.of({"steps": [component, *steps], "changeSummary": {"update": 1, "same": 3}})


def test_keys_are_shown_by_name_and_fingerprint() -> None:
    shown = page("dev", plan({"keys": [ADA]}, {"keys": [BOB]}))
    assert f"| key **removed** | `ada` `{FINGERPRINT}` |" in shown
    assert f"| key **added** | `bob` `{OTHER_FINGERPRINT}` from `10.0.0.0/8` |" in shown
    assert KEY not in shown


def test_a_key_whose_conditions_change_is_shown_before_and_after() -> None:
    shown = page("dev", plan({"keys": [ADA]}, {"keys": [{**ADA, "until": "2030-01-01"}]}))
    assert f"| `ada` `{FINGERPRINT}` → `ada` `{FINGERPRINT}` until `2030-01-01` |" in shown


def test_an_identity_is_shown_with_all_its_conditions() -> None:
    main = {
        "name": "main",
        "issuer": "https://gitlab.com",
        "audience": "builder.example.com",
        "claims": {"ref_protected": "true", "project_path": "acme/*"},
        "role": "build",
        "issuerCa": "",
    }
    shown = page("dev", plan({"keys": [ADA], "identities": [main]}, {"keys": [ADA]}))
    rule = (
        "`main` issuer `https://gitlab.com` audience `builder.example.com` "
        "project_path `acme/*` ref_protected `true` role `build`"
    )
    assert f"| identity **removed** | {rule} |" in shown
    assert "open connections of a removed key are closed within seconds" in shown
    wider = {**main, "role": "admin"}
    before, after = ({"keys": [ADA], "identities": [one]} for one in (main, wider))
    shown = page("dev", plan(before, after))
    assert f"| identity **changed** | {rule} → {rule.replace('`build`', '`admin`')} |" in shown
    assert shown.count("identities") == 0


def test_settings_and_images_are_shown_from_and_to() -> None:
    images = step("replace", IMAGE, "daemon-image", {"name": "d:1"}, {"name": "d:2"})
    old = {"keys": [ADA], "cpus": "", "daemonImage": "d:1", "drainTime": "10m"}
    shown = page("dev", plan(old, {**old, "cpus": "1.5", "daemonImage": "d:2"}, images))
    assert "| daemon image | `d:1` → `d:2` |" in shown
    assert '| `cpus` | `""` → `1.5` |' in shown
    assert "drainTime" not in shown
    assert shown.count("d:2") == 1


def test_a_state_without_settings_is_named_as_such() -> None:
    shown = page("dev", plan(None, {"keys": [ADA], "cpus": "2"}))
    assert "| settings | the state was written by a version that did not record them |" in shown


def test_no_value_breaks_out_of_the_table_the_code_or_the_block() -> None:
    value = "a|b`c\n| **it means** | nothing |"
    shown = page("dev", plan({"keys": [], "x": ""}, {"keys": [], "x": value}))
    assert r"`a\|b'c \| **it means** \| nothing \|`" in shown
    failed = Plan.of({"diagnostics": [{"severity": "error", "message": "error: no\n```\n# yes"}]})
    assert page("dev", failed).count("```") == 2


def test_inputs_of_containers_are_not_on_the_page() -> None:
    """The page never shows inputs of containers, whether Pulumi masks them or not."""
    secret = {"uploads": [{"file": "/k", "content": "hunter2"}], "envs": ["PASSWORD=hunter2"]}
    gateway = step("replace", CONTAINER, "gateway", {**secret, "envs": []}, secret)
    shown = page("dev", plan({"keys": [ADA]}, {"keys": [ADA]}, gateway))
    assert "restarts the gateway" in shown
    assert "hunter2" not in shown


def test_a_failed_plan_is_reported_with_its_reason() -> None:
    output = [
        {"severity": "error", "message": "error: cpus = 'x' must be a number"},
        {"severity": "error", "message": "error: preview failed"},
        {"severity": "warning", "message": "warning: using a plugin from $PATH"},
    ]
    shown = page("dev", Plan.of({"diagnostics": output}))
    assert "**There is no plan:**" in shown
    assert "cpus = 'x' must be a number" in shown
    assert "preview failed" not in shown
    assert "plugin" not in shown


def test_a_rule_of_the_policy_pack_that_is_broken_is_shown() -> None:
    gateway = step("create", CONTAINER, "gateway", None, {"networkMode": "host"})
    shown = page("dev", plan({"keys": [ADA]}, {"keys": [ADA]}, gateway))
    assert "**refused** (no-namespace-of-the-host): `builder-gateway` networkMode is" in shown


@pytest.mark.parametrize(
    ("state", "deletes", "output"),
    [
        ({}, True, "DELETES the cache"),
        ({"retainOnDelete": True}, False, "the cache leaves the stack, and its volume stays"),
        ({"protect": True}, False, "is refused: the cache would go, and it is protected"),
    ],
)
def test_a_cache_that_the_update_deletes(state: dict[str, Any], deletes: bool, output: str) -> None:
    volume = step("replace", VOLUME, "cache", {"name": "c"}, {"name": "d"}, **state)
    effects = effects_of(plan({"keys": [ADA]}, {"keys": [ADA]}, volume).builders[0])
    assert effects.deletes_cache == deletes
    assert effects.sentences[0].startswith(output)


def test_a_daemon_that_is_removed_without_drain_cuts_its_builds() -> None:
    daemon = step("replace", CONTAINER, "daemon", {"cpus": "1.0"}, {"cpus": "2.0"})
    drain = step("replace", "command:local:Command", "drain", {}, {})
    settings = {"keys": [ADA], "drainTime": "5m"}
    cut = effects_of(plan(settings, settings, daemon).builders[0])
    drained = effects_of(plan(settings, settings, daemon, drain).builders[0])
    assert "builds in flight fail at once" in cut.sentences[0]
    assert "builds in flight get 5m to end" in drained.sentences[0]
    assert (cut.drains, drained.drains) == (False, True)


@pytest.mark.parametrize(
    ("variables", "setting", "told"),
    [
        (["A=b", "BUILDER_IMAGE_STORE=containerd"], "overlay2", "from containerd to overlay2"),
        # The daemon of an earlier release.
        (["A=b"], "containerd", "from overlay2 to containerd"),
        (["BUILDER_IMAGE_STORE=containerd"], "containerd", ""),
        (["BUILDER_IMAGE_STORE=containerd"], "keep", ""),
        (["A=b"], "keep", ""),
    ],
)
def test_a_change_of_the_image_store_is_shown(
    variables: list[str], setting: str, told: str
) -> None:
    daemon = step("replace", CONTAINER, "daemon", {"envs": variables}, {"envs": []})
    settings = {"keys": [ADA], "drainTime": "5m"}
    changed = plan(settings, {**settings, "imageStore": setting}, daemon)
    found = [text for text in effects_of(changed.builders[0]).sentences if "image store" in text]
    assert len(found) == bool(told)
    assert all(f"changes the image store {told}: the cache is COLD" in text for text in found)


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@t.example", *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
    )


@pytest.mark.parametrize(
    ("changed", "affected"),
    [
        ("README.md", []),
        ("Pulumi.team-a.yaml", ["team-a"]),
        ("components/builder.py", ["team-a", "team-b"]),
        ("requirements.txt", ["team-a", "team-b"]),
    ],
)
def test_a_change_affects_the_stacks_that_it_reaches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str, affected: list[str]
) -> None:
    (tmp_path / "components").mkdir()
    for name in ("Pulumi.team-a.yaml", "Pulumi.team-b.yaml", "Pulumi.yaml", changed):
        (tmp_path / name).write_text("before\n")
    git(tmp_path, "init", "--initial-branch", "main")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "before")
    git(tmp_path, "switch", "-c", "change")
    (tmp_path / changed).write_text("after\n")
    git(tmp_path, "commit", "-am", "after")
    monkeypatch.setattr(preview, "ROOT", tmp_path)
    assert preview.all_stacks() == ["team-a", "team-b"]
    assert preview.affected_stacks("main") == affected


def test_a_registry_has_a_section_of_its_own() -> None:
    urn = f"{BUILDER_URN.rsplit('::', 2)[0]}::{REGISTRY}::registry"
    about = {"urn": urn, "type": REGISTRY, "parent": STACK_URN}
    component = {
        "op": "update",
        "urn": urn,
        "oldState": {**about, "inputs": {"size": "20GB"}},
        "newState": {**about, "inputs": {"size": "30GB"}},
    }
    store = {"type": CONTAINER, "urn": f"{urn}-store", "parent": urn}
    replaced = {"op": "replace", "urn": f"{urn}-store", "oldState": store, "newState": store}
    shown = page("dev", Plan.of({"steps": [component, replaced], "changeSummary": {}}))
    assert "restarts the store: pushes in flight get 10 s to end" in shown
    assert "| `size` | `20GB` → `30GB` |" in shown


def declared(
    urn: str, sources: dict[str, list[str]] | None = None, **inputs: Any
) -> dict[str, Any]:
    state = {"type": CONTAINER, "inputs": inputs, "propertyDependencies": sources or {}}
    return {"urn": urn, "newState": state}


def test_two_commits_are_compared_by_values_and_by_the_sources_of_hidden_values() -> None:
    key, other = ({"uploads": [name]} for name in ("key-1", "key-2"))
    hidden = {"uploads": "[secret]"}
    old = [
        declared("image", name="d:1"),
        declared("daemon", {"image": ["image"]}, image=UNKNOWN, cpus="1.0"),
        declared("gateway", key, **hidden),
        declared("same", key, **hidden),
        declared("gone"),
    ]
    new = [
        declared("key-2"),
        declared("image", name="d:2"),
        declared("daemon", {"image": ["image"]}, image=UNKNOWN, memory=5),
        declared("gateway", other, **hidden),
        declared("same", key, **hidden),
    ]
    steps = _steps(old, new)
    assert [(step["urn"], step["op"], step.get("diffReasons")) for step in steps] == [
        ("key-2", "create", []),
        ("image", "update", ["name"]),
        ("daemon", "update", ["cpus", "image", "memory"]),
        ("gateway", "update", ["uploads"]),
        ("same", "same", []),
        ("gone", "delete", None),
    ]


def test_a_comparison_of_commits_claims_nothing_about_restarts() -> None:
    daemon = {**step("update", CONTAINER, "daemon", {"cpus": "1"}, {"cpus": "2"})}
    janitor = step("create", CONTAINER, "janitor", None, {})
    compared = plan({"keys": [ADA]}, {"keys": [ADA]}, {**daemon, "diffReasons": ["cpus"]}, janitor)
    shown = page("dev", replace(compared, has_state=False))
    assert "| **it changes** | `daemon` (cpus), adds `janitor` |" in shown
    assert "it means" not in shown
    assert "restart" not in shown
