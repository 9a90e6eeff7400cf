"""`python -m review VERB`: what a change does, and what on the host differs from the stack."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

from components.docker_host import HostDocker, HostError
from policy.rules import violations
from review.drift import Drift, drift_of, repairs
from review.markdown import code, page
from review.plan import Plan
from review.preview import affected_stacks, all_stacks, plan_of
from review.state import builders_of
from review.without_state import plan_without_state
from stacks.commands import ROOT, StackError, run

_FAILED = 2


def main() -> int:
    """Run one verb.

    Returns 0 when all is well; 1 when there is no plan, a mandatory rule refuses it, or something
    has drifted; 2 when that cannot be found out.
    """
    parser = argparse.ArgumentParser(prog="python -m review", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    stacks = argparse.ArgumentParser(add_help=False)
    stacks.add_argument("--stack", action="append", help="a stack (repeatable); all if left out")
    stacks.add_argument("--base", help="only stacks that differ from this commit")
    stacks.add_argument(
        "--cwd",
        type=lambda text: Path(text).resolve(),
        help="folder of another program that declares builders",
    )
    preview = verbs.add_parser("preview", parents=[stacks], help="what pulumi up would do")
    preview.add_argument("--destroy", action="store_true", help="what pulumi destroy would do")
    preview.add_argument(
        "--without-state",
        action="store_true",
        help="compare with what the commit of --base declares: without secrets, state and host",
    )
    drift = verbs.add_parser("drift", parents=[stacks], help="what on the host differs")
    drift.add_argument("--fix", action="store_true", help="repair it")
    verbs.add_parser("stacks", parents=[stacks], help="the stacks, one a line")
    # Options that are not known here are for pulumi, such as --config-file.
    options, for_pulumi = parser.parse_known_args()
    try:
        return _run(parser, options, for_pulumi)
    except StackError as error:
        print(f"error: {error}", file=sys.stderr)
        return _FAILED


def _run(
    parser: argparse.ArgumentParser, options: argparse.Namespace, for_pulumi: list[str]
) -> int:
    folder = options.cwd or ROOT
    if options.base and options.cwd:
        parser.error("--base is for the stacks of this repository; leave it out with --cwd")
    try:
        chosen = affected_stacks(options.base) if options.base else all_stacks(options.cwd)
    except subprocess.CalledProcessError:
        print(f"git does not know {options.base}; next: git fetch it", file=sys.stderr)
        return _FAILED
    if options.stack:
        chosen = [s for s in options.stack if not options.base or s in chosen]
    if options.verb == "stacks":
        print("\n".join(chosen))
        return 0
    if not chosen:
        print("No stack is affected.")
        return 0
    if options.verb == "drift":
        return max(_drift(stack, folder, for_pulumi, fix=options.fix) for stack in chosen)
    if options.without_state:
        if not options.base:
            parser.error("--without-state needs --base")
        print(
            f"Compared with what {options.base} declares, without the state and the host. "
            "A preview with the state shows what restarts.\n"
        )
        return max(_show(stack, plan_without_state(stack, options.base)) for stack in chosen)
    return max(
        _show(stack, plan_of(stack, *for_pulumi, destroy=options.destroy, folder=folder))
        for stack in chosen
    )


def _show(stack: str, plan: Plan) -> int:
    print(page(stack, plan), flush=True)
    return int(bool(plan.errors) or any(broken.mandatory for broken in violations(plan.resources)))


def _drift(stack: str, folder: Path, for_pulumi: list[str], *, fix: bool) -> int:
    print(f"### Stack {code(stack)}\n")
    try:
        by_host = [(HostDocker(b.host), drift_of(b)) for b in builders_of(stack, folder)]
    except (StackError, HostError) as error:
        print(f"Drift cannot be checked: {error}", flush=True)
        return _FAILED
    found = [drift for _, of_host in by_host for drift in of_host]
    if not found:
        print("The host is as the stack says.\n", flush=True)
        return 0
    for drift in found:
        print(f"- {code(drift.name)} {drift.what}")
    if fix:
        return _repair(stack, folder, by_host, for_pulumi)
    commands = repairs(stack, found, for_pulumi)
    if commands:
        print("\nNext, `docker` on the host:\n\n```")
        print("\n".join(shlex.join(command) for command in commands))
        print("```\n", flush=True)
    return 1


def _repair(
    stack: str,
    folder: Path,
    by_host: list[tuple[HostDocker, list[Drift]]],
    for_pulumi: list[str],
) -> int:
    for host, of_host in by_host:
        for command in repairs(stack, of_host, []):
            if command[0] == "docker":
                host.output(*command[1:])
    found = [drift for _, of_host in by_host for drift in of_host]
    for command in repairs(stack, found, for_pulumi):
        if command[0] == "pulumi" and run(command[1:], folder, show=True).failure:
            return _FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
