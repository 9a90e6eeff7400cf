"""What a change declares, for those who may not read the state: one commit against another.

Pulumi previews both from nothing, with a backend that is thrown away, without secrets and without
the host. Only the providers know what an update replaces, and they need the state for it.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from policy.rules import CONTAINER
from review.plan import UNKNOWN, Plan, Step
from stacks.commands import PROJECT, ROOT, StackCommands

_NOT_SHOWN = "not shown here"
_SECRET = "[secret]"

Json = dict[str, Any]


def plan_without_state(stack: str, base: str) -> Plan:
    """What the working copy declares otherwise than the commit `base`."""
    with tempfile.TemporaryDirectory() as folder, _checked_out(base, Path(folder)) as before:
        old = _from_nothing(stack, before, Path(folder, "old"))
        new = _from_nothing(stack, ROOT, Path(folder, "new"))
    if "steps" not in old or "steps" not in new:
        return Plan.of(new if "steps" not in new else old)
    steps = _steps(old["steps"], new["steps"])
    counts = Counter(step["op"] for step in steps)
    plan = replace(Plan.of({**new, "steps": steps, "changeSummary": counts}), has_state=False)
    if any(_changes_more_than_access(builder.component) for builder in plan.builders):
        plan.uncertain.extend(
            step["urn"].rsplit("::", 1)[-1] for step in steps if _depends_on_the_host(step)
        )
    return plan


def _changes_more_than_access(component: Step) -> bool:
    before, after = component.before, component.after
    changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    return component.op == "update" and bool(changed - {"keys", "revoked", "identities"})


def _depends_on_the_host(step: Json) -> bool:
    """Whether a container seems to stay, but has an input that comes from a command on the host."""
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
    hosts: dict[str, str] = {}
    config = yaml.safe_load(settings.read_text()) or {}
    (folder / "config.yaml").write_text(
        yaml.safe_dump({"config": _public(config.get("config") or {}, hosts)})
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
    # Pulumi writes the new stack's file beside Pulumi.yaml, which must not be the program's.
    replace(commands, folder=folder / "project").create()
    preview, failure = commands.preview()
    text = json.dumps(preview)
    for place, url in hosts.items():
        text = text.replace(place, url)
    shown: Json = json.loads(text)
    if failure and not preview:
        shown["diagnostics"] = [{"severity": "error", "message": failure}]
    return shown


def _public(value: Any, hosts: dict[str, str]) -> Any:
    """Settings without encrypted values, and with a socket that does not exist for each host."""
    if isinstance(value, dict):
        if set(value) == {"secure"}:
            return _NOT_SHOWN
        return {name: _public(item, hosts) for name, item in value.items()}
    if isinstance(value, list):
        return [_public(item, hosts) for item in value]
    if isinstance(value, str) and value.startswith(("ssh://", "unix://")):
        place = f"unix:///nowhere/{len(hosts)}.sock"
        hosts[place] = value
        return place
    return value


def _steps(old: list[Json], new: list[Json]) -> list[Json]:
    """The steps from one preview to the other, in the form of Pulumi's; an update is a difference.

    `new` has dependencies first.
    """
    before = {step["urn"]: step["newState"] for step in old}
    steps: list[Json] = []
    changed: set[str] = set()
    for urn, state in ((step["urn"], step["newState"]) for step in new):
        names = _differing(before[urn], state, changed) if urn in before else []
        op = "create" if urn not in before else "update" if names else "same"
        if op != "same":
            changed.add(urn)
        about = {"urn": urn, "oldState": before.pop(urn, None), "newState": state}
        steps.append({"op": op, "diffReasons": names, **about})
    gone = [
        {"op": "delete", "urn": urn, "oldState": state, "newState": None}
        for urn, state in before.items()
    ]
    return [*steps, *gone]


def _differing(before: Json, after: Json, changed: set[str]) -> list[str]:
    """Inputs with another value or source; where the value is hidden, with a changed source."""
    old, new = before.get("inputs") or {}, after.get("inputs") or {}
    return sorted(
        name
        for name in {*old, *new}
        if old.get(name) != new.get(name)
        or _dependencies(before, name) != _dependencies(after, name)
        or (_is_hidden(new.get(name)) and changed & _dependencies(after, name))
    )


def _is_hidden(value: Any) -> bool:
    text = json.dumps(value)
    return UNKNOWN in text or _SECRET in text


def _dependencies(state: Json, name: str) -> set[str]:
    return set((state.get("propertyDependencies") or {}).get(name) or [])
