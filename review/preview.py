"""Ask Pulumi for plans: which stacks a change affects, and what each would do."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from review.plan import Plan

ROOT = Path(__file__).parents[1]
# The stack of `make up`; its state is on one machine alone.
_OF_ONE_MACHINE = "dev"
# A change to one of these is a change to every stack.
_PROGRAM = ("__main__.py", "Pulumi.yaml", "requirements.txt", "components")


def all_stacks() -> list[str]:
    """The stacks with a file of settings beside Pulumi.yaml, without that of `make up`."""
    stacks = {
        path.name.removeprefix("Pulumi.").removesuffix(".yaml")
        for path in ROOT.glob("Pulumi.*.yaml")
    }
    return sorted(stacks - {_OF_ONE_MACHINE})


def affected_stacks(base: str) -> list[str]:
    """Those of `all_stacks` that differ from what the commit `base` makes of them.

    Raises subprocess.CalledProcessError when git does not know the commit.
    """
    said = subprocess.run(
        ["git", "diff", "--name-only", "--merge-base", base, "--"],
        cwd=ROOT,
        check=True,
        text=True,
        stdout=subprocess.PIPE,
    ).stdout
    changed = said.split()
    stacks = all_stacks()
    if any(path.split("/")[0] in _PROGRAM for path in changed):
        return stacks
    return [stack for stack in stacks if f"Pulumi.{stack}.yaml" in changed]


def plan_of(stack: str, *options: str, destroy: bool = False) -> Plan:
    """The plan of `pulumi up`, or of `pulumi destroy`; nothing is touched."""
    command = ["destroy", "--preview-only"] if destroy else ["preview", "--show-sames"]
    said = subprocess.run(
        ["pulumi", "--non-interactive", *command, "--json", "--stack", stack, *options],
        cwd=ROOT,
        check=False,
        text=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
    )
    try:
        plan = Plan.of(json.loads(said.stdout))
    except json.JSONDecodeError:
        plan = Plan.of({})
    if said.returncode and not plan.errors:
        plan.errors.append(said.stderr.strip() or f"pulumi ended with {said.returncode}")
    return plan
