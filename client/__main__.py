"""python -m client VERB: one module of this package for each verb."""

from __future__ import annotations

import argparse
import sys

from client import assign, builds, ci, fleet, glance, kit, metrics
from client.stack import Stack, StackError
from components.docker_host import HostError

VERBS = {
    "kit": kit,
    "ci": ci,
    "status": glance,
    "builds": builds,
    "metrics": metrics,
    "fleet": fleet,
    "assign": assign,
}


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; returns the exit code. An error is one line with the next step."""
    parser = argparse.ArgumentParser(prog="python -m client", description=__doc__)
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for name, module in VERBS.items():
        summary = (module.__doc__ or "").splitlines()[0]
        verb = verbs.add_parser(name, help=summary, description=summary)
        verb.add_argument("--stack", help="the stack; without it, the one that is selected")
        verb.add_argument(
            "--config-file", help="its configuration; without it, Pulumi.STACK.yaml of this folder"
        )
        module.add_arguments(verb)
        verb.set_defaults(run=module.run)
    options = parser.parse_args(arguments)
    try:
        return int(options.run(Stack.read(options.stack, options.config_file), options))
    except (StackError, HostError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
