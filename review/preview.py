"""Which stacks a change affects, and the plan of each."""

from __future__ import annotations

import subprocess
from pathlib import Path

from review.plan import Plan
from stacks.commands import ROOT, StackCommands

# The stack of `make up`, whose state is on one machine only.
_OF_ONE_MACHINE = "dev"
# A change to one of these is a change to every stack.
_PROGRAM = ("__main__.py", "Pulumi.yaml", "requirements.txt", "components")


def all_stacks(folder: Path | None = None) -> list[str]:
    """The stacks with settings beside the Pulumi.yaml of a folder.

    Without a folder they are those of this repository, without the stack of `make up`.
    """
    stacks = {
        path.name.removeprefix("Pulumi.").removesuffix(".yaml")
        for path in (folder or ROOT).glob("Pulumi.*.yaml")
    }
    return sorted(stacks if folder else stacks - {_OF_ONE_MACHINE})


def affected_stacks(base: str) -> list[str]:
    """The stacks of `all_stacks` that a change since the commit `base` affects.

    Raises subprocess.CalledProcessError when git does not know the commit.
    """
    changed = subprocess.run(
        ["git", "diff", "--name-only", "--merge-base", base, "--"],
        cwd=ROOT,
        check=True,
        text=True,
        stdout=subprocess.PIPE,
    ).stdout.split()
    stacks = all_stacks()
    if any(path.split("/")[0] in _PROGRAM for path in changed):
        return stacks
    return [stack for stack in stacks if f"Pulumi.{stack}.yaml" in changed]


def plan_of(stack: str, *options: str, destroy: bool = False, folder: Path = ROOT) -> Plan:
    """The plan of `pulumi up`, or of `pulumi destroy`; nothing is touched."""
    commands = StackCommands(stack, folder=folder)
    preview, failure = commands.preview(*options, destroy=destroy)
    plan = Plan.of(preview)
    if failure and not plan.errors:
        plan.errors.append(failure)
    return plan
