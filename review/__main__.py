"""`python -m review VERB`: what a change does, as Markdown on standard output."""

from __future__ import annotations

import argparse
import subprocess
import sys

from policy.rules import violations
from review.page import page
from review.preview import affected_stacks, all_stacks, plan_of


def main() -> int:
    """Run one verb; 1 when a plan cannot be made, or a mandatory rule refuses it."""
    parser = argparse.ArgumentParser(prog="python -m review", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    stacks = argparse.ArgumentParser(add_help=False)
    stacks.add_argument("--stack", action="append", help="a stack (repeatable); all if left out")
    stacks.add_argument("--base", help="only stacks that differ from this commit")
    preview = verbs.add_parser("preview", parents=[stacks], help="what pulumi up would do")
    preview.add_argument("--destroy", action="store_true", help="what pulumi destroy would do")
    verbs.add_parser("stacks", parents=[stacks], help="the stacks, one a line")
    # What the program does not know is an option of pulumi: --config-file, --policy-pack.
    options, for_pulumi = parser.parse_known_args()

    try:
        chosen = affected_stacks(options.base) if options.base else all_stacks()
    except subprocess.CalledProcessError:
        print(f"git does not know {options.base}; next: git fetch it", file=sys.stderr)
        return 2
    if options.stack:
        chosen = [s for s in options.stack if not options.base or s in chosen]
    if options.verb == "stacks":
        print("\n".join(chosen))
        return 0
    if not chosen:
        print("No stack is affected.")
    failed = False
    for stack in chosen:
        plan = plan_of(stack, *for_pulumi, destroy=options.destroy)
        refused = any(broken.mandatory for broken in violations(plan.resources))
        failed = failed or refused or bool(plan.errors)
        print(page(stack, plan), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
