"""Say what is known about the images in the settings.

Usage: image_audit.py [FOLDER]

Reads Pulumi.yaml, which has the defaults, and each Pulumi.STACK.yaml of the folder. The known holes
are those of components/advisories.py, a table that somebody has to keep. After 90 days without a
check of it, this prints a warning. With FRESH=yes in the environment it then fails: a job that runs
by the calendar may fail by it, and a checkout of an old release may not.

Exit code 1: an image has a known hole, or FRESH=yes and the table is old; else 0.
"""

from __future__ import annotations

import os
import sys
from datetime import UTC, date, datetime
from pathlib import Path

from components.advisories import CHECKED, COMPONENTS, MOST_AGE, holes, release_of
from scripts.image_pins import references


def report(setting: str, reference: str) -> tuple[bool, list[str]]:
    """Whether an image has known holes, and the lines about it."""
    component = COMPONENTS.get(setting)
    if component is None:
        return False, [f"{setting} = {reference}: the table has nothing about such images"]
    release = release_of(setting, reference)
    if release is None:
        return False, [
            f"{setting} = {reference}: unknown, because it names no release of {component.name}"
        ]
    found = holes(setting, reference)
    return bool(found), [
        f"{setting} = {reference}: {component.name} {release}, "
        + ("known holes:" if found else "nothing known"),
        *(f"    {hole.ids}, fixed in {' and '.join(hole.fixed)}: {hole.means}" for hole in found),
    ]


def staleness(today: date) -> str:
    """A warning if nobody has checked the table for too long; empty otherwise."""
    age = today - CHECKED
    if age <= MOST_AGE:
        return ""
    return (
        f"OLD TABLE: nobody has checked the known holes of images for {age.days} days, so newer "
        "ones are missing; next: use a newer release of this program, or bring "
        "components/advisories.py up to date"
    )


def main(folder: str = ".") -> int:
    """Print what is known of each image; returns the exit code."""
    code = 0
    for path in sorted(Path(folder).glob("Pulumi*.yaml")):
        for setting, reference in references(path.read_text()).items():
            has_holes, lines = report(setting, reference)
            print("\n".join(lines))
            if has_holes:
                code = 1
                print(f"    next: give {setting} a newer image in {path.name}")
    print(f"known holes as of {CHECKED}")
    if warning := staleness(datetime.now(UTC).date()):
        print(warning)
        if os.environ.get("FRESH") == "yes":
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
