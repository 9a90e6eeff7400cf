"""Print on which builder of a fleet a project builds: always the same, so that its cache is warm.

Rendezvous hashing (Thaler and Ravishankar, 1998): every builder draws a number for the project, and
the highest number wins. Nothing is stored. When a builder leaves, only its own projects move; when
one joins, only the projects that it wins move. A builder of weight w draws w times.

The number of the n-th draw is the SHA-256 of "PROJECT NAME n" in hexadecimal digits. assign.sh does
the same for CI jobs without Python.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from client.stack import Stack, StackError


def draw(project: str, name: str, weight: int = 1) -> str:
    """The builder's highest number for the project: 64 hexadecimal digits."""
    return max(
        hashlib.sha256(f"{project} {name} {number}".encode()).hexdigest()
        for number in range(1, weight + 1)
    )


def assign(
    project: str,
    builders: Iterable[Mapping[str, Any]],
    *,
    platform: str = "",
    labels: Mapping[str, str] | None = None,
) -> Mapping[str, Any]:
    """The project's builder, out of those with the platform and all the labels.

    `builders` is the stack's export of that name. Raises LookupError if no builder fits.
    """
    builders = list(builders)
    wanted = dict(labels or {}).items()
    fitting = [
        entry
        for entry in builders
        if (not platform or platform in entry["platforms"]) and wanted <= entry["labels"].items()
    ]
    if not fitting:
        conditions = [f"platform {platform}"] if platform else []
        conditions += [f"label {name}={value}" for name, value in wanted]
        names = ", ".join(entry["name"] for entry in builders)
        raise LookupError(f"no builder has {' and '.join(conditions)}; there are: {names}")
    return max(fitting, key=lambda entry: draw(project, entry["name"], entry["weight"]))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m client assign`."""
    parser.add_argument("project", help="the project's name, always spelled the same: acme/web")
    parser.add_argument("--platform", default="", help="only builders with it: linux/arm64")
    parser.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="only builders with this label; can be repeated",
    )
    parser.add_argument(
        "--alias", action="store_true", help="print ssh://ALIAS, for a client that has sshConfig"
    )


def run(stack: Stack, options: argparse.Namespace) -> int:
    """Print the DOCKER_HOST of the project's builder."""
    labels = dict(text.partition("=")[::2] for text in options.label)
    try:
        entry = assign(
            options.project, stack.outputs["builders"], platform=options.platform, labels=labels
        )
    except LookupError as error:
        raise StackError(str(error)) from None
    print(f"ssh://{entry['sshAlias']}" if options.alias else entry["dockerHost"])
    return 0
