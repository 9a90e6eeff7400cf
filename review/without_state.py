"""A plan for those who may not read the state: what a commit would make, against what another does.

Both are previewed from nothing, with a throw-away backend, without secrets and without the host;
what the provider would replace is then told by its rules, as it cannot be asked.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from policy.rules import CONTAINER
from review.plan import NETWORK, UNKNOWN, Plan, Step
from stacks.commands import PROJECT, ROOT, StackCommands

# Of a container, what the provider changes in place (pulumi-docker 5.2); all else replaces it.
_IN_PLACE = frozenset(
    {
        "attach",
        "cpuSet",
        "cpuShares",
        "destroyGraceSeconds",
        "logs",
        "memory",
        "memorySwap",
        "mustRun",
        "removeVolumes",
        "restart",
        "rm",
        "start",
        "wait",
        "waitTimeout",
    }
)
_NOT_SHOWN = "not shown here"

Json = dict[str, Any]


def plan_without_state(stack: str, base: str) -> Plan:
    """What the working copy does to the stack that the commit `base` makes."""
    with tempfile.TemporaryDirectory() as folder, _checked_out(base, Path(folder)) as before:
        old = _from_nothing(stack, before, Path(folder, "old"))
        new = _from_nothing(stack, ROOT, Path(folder, "new"))
    if "steps" not in old or "steps" not in new:
        return Plan.of(new if "steps" not in new else old)
    steps = _steps(old["steps"], new["steps"])
    counts: dict[str, int] = {}
    for step in steps:
        counts[step["op"]] = counts.get(step["op"], 0) + 1
    plan = Plan.of({**new, "steps": steps, "changeSummary": counts})
    if any(_changes_more_than_access(builder.component) for builder in plan.builders):
        plan.uncertain.extend(
            step["urn"].rsplit("::", 1)[-1] for step in steps if _depends_on_the_host(step)
        )
    return plan


def _changes_more_than_access(component: Step) -> bool:
    before, after = component.before, component.after
    changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    return component.op == "update" and bool(changed - {"keys", "revoked"})


def _depends_on_the_host(step: Json) -> bool:
    """Whether a container that seems to stay has an input that only a command on the host tells."""
    state = step["newState"]
    if step["op"] != "same" or state["type"] != CONTAINER:
        return False
    return any(
        UNKNOWN in json.dumps(value)
        and any(":Command::" in urn for urn in _dependencies(state, name))
        for name, value in (state.get("inputs") or {}).items()
    )


@contextmanager
def _checked_out(commit: str, folder: Path) -> Iterator[Path]:
    tree = folder / "base"
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", tree, commit], check=True)
    try:
        yield tree
    finally:
        subprocess.run([*git, "remove", "--force", tree], check=True)


def _from_nothing(stack: str, program: Path, folder: Path) -> Json:
    settings = program / f"Pulumi.{stack}.yaml"
    if not settings.exists():
        return {"steps": []}
    for part in (folder / "backend", folder / "project"):
        part.mkdir(parents=True)
    places: dict[str, str] = {}
    config = yaml.safe_load(settings.read_text()) or {}
    (folder / "config.yaml").write_text(
        yaml.safe_dump({"config": _public(config.get("config") or {}, places)})
    )
    (folder / "project" / "Pulumi.yaml").write_text(f"name: {PROJECT}\nruntime: python\n")
    commands = StackCommands(
        stack,
        str(folder / "config.yaml"),
        program,
        {
            "PULUMI_BACKEND_URL": f"file://{folder}/backend",
            "PULUMI_CONFIG_PASSPHRASE": "nothing is kept",
            "PULUMI_CONFIG_PASSPHRASE_FILE": "",
            "PULUMI_ACCESS_TOKEN": "",
        },
    )
    # The new stack's own file of settings is written beside Pulumi.yaml: not into the program.
    replace(commands, folder=folder / "project").create()
    preview, failure = commands.preview()
    said = json.dumps(preview)
    for place, url in places.items():
        said = said.replace(place, url)
    shown: Json = json.loads(said)
    if failure and not preview:
        shown["diagnostics"] = [{"severity": "error", "message": failure}]
    return shown


def _public(value: Any, places: dict[str, str]) -> Any:
    """Settings without what is encrypted, and without a host that could be spoken to."""
    if isinstance(value, dict):
        if set(value) == {"secure"}:
            return _NOT_SHOWN
        return {name: _public(item, places) for name, item in value.items()}
    if isinstance(value, list):
        return [_public(item, places) for item in value]
    if isinstance(value, str) and value.startswith(("ssh://", "unix://")):
        place = f"unix:///nowhere/{len(places)}.sock"
        places[place] = value
        return place
    return value


def _steps(old: list[Json], new: list[Json]) -> list[Json]:
    """Steps as of a preview of the one upon the other; `new` is in the order of dependence."""
    before = {step["urn"]: step["newState"] for step in old}
    steps: list[Json] = []
    ops: dict[str, str] = {}
    for step in new:
        urn, state = step["urn"], step["newState"]
        ops[urn] = op = _op(before[urn], state, ops) if urn in before else "create"
        steps.append({"op": op, "urn": urn, "oldState": before.get(urn), "newState": state})
    gone = set(before) - set(ops)
    return [
        *steps,
        *({"op": "delete", "urn": urn, "oldState": before[urn], "newState": None} for urn in gone),
    ]


def _op(before: Json, after: Json, ops: Mapping[str, str]) -> str:
    old, new = before.get("inputs") or {}, after.get("inputs") or {}
    made_anew = {urn for urn, op in ops.items() if op in ("create", "replace")}
    changed = {
        name
        for name in {*old, *new}
        if old.get(name) != new.get(name)
        or (UNKNOWN in json.dumps(new.get(name)) and made_anew & _dependencies(after, name))
    }
    if not changed:
        return "same"
    if not after.get("custom") or "providers" in after["type"]:
        return "update"
    if after["type"] == CONTAINER:
        return "update" if changed <= _IN_PLACE else "replace"
    if after["type"].startswith("command:"):
        return "replace" if "triggers" in changed else "update"
    return "replace" if after["type"] == NETWORK or "name" in changed else "update"


def _dependencies(state: Json, name: str) -> set[str]:
    return set((state.get("propertyDependencies") or {}).get(name) or [])
