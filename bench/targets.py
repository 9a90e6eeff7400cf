"""The targets, each a ratio of two medians of one run."""

from __future__ import annotations

from bench import distance
from bench.builder import FORWARDED, KIT, OWN, PLAIN, SHARED
from bench.builds import FRESH, FRESH_CACHED, WARM, group_of
from bench.crowd import AT_ONCE
from bench.figures import Target
from bench.peers import ORIGINAL
from bench.steps import DOWNLOAD, UPLOAD, WRITE
from bench.transfers import CONTEXT, LOAD, RAW, SAVE, away
from bench.workloads import NAMES

LOCAL = "local socket"
PROGRAM, FORMER = "this program", "the original design"
DEPLOYED, UNCHANGED = "First pulumi up, images on the host", "pulumi up, nothing to do"
ANSWERED = "First pulumi up, until docker version answers over plain ssh"


def targets() -> list[Target]:
    def warm(what: str, path: str, bound: float) -> Target:
        return Target(what, (WARM, path), (WARM, LOCAL), "≤", bound)

    found = [
        warm("Warm build with the kit, relative to the local socket", KIT, 1.10),
        warm(
            "Warm build over plain ssh, nothing configured, relative to the local socket", PLAIN, 5
        ),
        warm(
            "Warm build over plain ssh, shared connection, relative to the local socket",
            SHARED,
            1.6,
        ),
        Target(
            "The original design over plain ssh, relative to the builder over plain ssh",
            (WARM, ORIGINAL),
            (WARM, PLAIN),
            "≥",
            3,
        ),
        Target(
            "The original design over plain ssh, relative to the builder with its kit",
            (WARM, ORIGINAL),
            (WARM, KIT),
            "≥",
            3,
        ),
    ]
    for name in NAMES:
        for state in ("source", "dependency"):
            group = group_of(name, state)
            found += [
                Target(
                    f"{group}: the kit relative to the local socket",
                    (group, KIT),
                    (group, LOCAL),
                    "≤",
                    1.25,
                ),
                Target(
                    f"{group}: {FRESH} relative to the kit", (group, FRESH), (group, KIT), "≥", 10
                ),
                Target(
                    f"{group}: {FRESH_CACHED} relative to the kit",
                    (group, FRESH_CACHED),
                    (group, KIT),
                    "≥",
                    3,
                ),
            ]
    found.append(
        Target(
            f"{AT_ONCE}: the kit relative to the local socket",
            (AT_ONCE, KIT),
            (AT_ONCE, LOCAL),
            "≤",
            1.3,
        )
    )
    found += [
        Target(
            f"{group}: the kit's share of what ssh itself carries",
            (group, KIT),
            (group, RAW),
            "≥",
            0.9,
        )
        for group in (CONTEXT, SAVE, LOAD)
    ]
    found += [
        Target(
            f"{over}: the kit's share of what the builder's own socket carries",
            (over, KIT),
            (group, OWN),
            "≥",
            0.9,
        )
        for group in (CONTEXT, SAVE, LOAD)
        for over in (group, away(group))
    ]
    found += [
        Target(f"{group}: share of the rootful bridge", (group, KIT), (group, LOCAL), "≥", 0.6)
        for group in (DOWNLOAD, UPLOAD)
    ]
    found.append(
        Target(f"{WRITE}: share of the rootful overlay", (WRITE, KIT), (WRITE, LOCAL), "≥", 0.9)
    )
    found += [
        Target(f"{what}: {PROGRAM} relative to {FORMER}", (group, PROGRAM), (other, FORMER), "≤", n)
        for what, group, other, n in (
            (DEPLOYED, DEPLOYED, DEPLOYED, 1),
            (f"{DEPLOYED}, until a build works", DEPLOYED, ANSWERED, 1),
            (UNCHANGED, UNCHANGED, UNCHANGED, 1.1),
        )
    ]
    build = "Round trips of a warm build"
    found += [
        Target(what, (distance.TRIPS, path), None, "≤", bound)
        for what, path, bound in (
            (f"{build} with the kit", KIT, 25),
            (f"{build}: {FORWARDED}", FORWARDED, 25),
            (f"{build} over plain ssh, shared connection", SHARED, 60),
            (f"{build} over plain ssh, nothing configured", PLAIN, 60),
            (f"Round trips of the {distance.SETUP}", distance.SETUP, 8),
        )
    ]
    seconds = f"Warm build with the kit at {distance.FAR} ms, in seconds"
    found.append(Target(seconds, (distance.at(distance.FAR), KIT), None, "≤", 1.6))
    return found
