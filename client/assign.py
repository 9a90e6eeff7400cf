"""Which builder of a fleet a project lives on, so that its cache is warm there.

Rendezvous hashing (Thaler and Ravishankar, 1998): every builder draws a number for the project, and
the highest wins. No state is kept; when a builder leaves, only its own projects move, and when one
comes, only those move that it wins. A builder of weight w draws w times.

The number of the n-th draw is SHA-256 of "PROJECT NAME n", read as hexadecimal text; assign.sh is
the same for a CI job without Python.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from client.stack import Stack, StackError


def draw(project: str, name: str, weight: int = 1) -> str:
    """The builder's highest draw for the project: 64 hexadecimal digits."""
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
    """The builder that the project lives on, of those with the platform and all the labels.

    `builders` is the export of that name. Raises LookupError when none fits.
    """
    builders = list(builders)
    wanted = dict(labels or {}).items()
    fitting = [
        entry
        for entry in builders
        if (not platform or platform in entry["platforms"]) and wanted <= entry["labels"].items()
    ]
    if not fitting:
        asked = [f"platform {platform}"] if platform else []
        asked += [f"label {name}={value}" for name, value in wanted]
        names = ", ".join(entry["name"] for entry in builders)
        raise LookupError(f"no builder has {' and '.join(asked) or 'a name'}; there are: {names}")
    return max(fitting, key=lambda entry: draw(project, entry["name"], entry["weight"]))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m client assign`."""
    parser.add_argument("project", help="the project's name, always written the same: acme/web")
    parser.add_argument("--platform", default="", help="only builders with it, as linux/arm64")
    parser.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="only builders with this label; may be given again",
    )
    parser.add_argument(
        "--alias", action="store_true", help="as ssh://<alias>, for a client that has sshConfig"
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
