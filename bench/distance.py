"""Builds over a distance: the same clients behind a link with a network's delay and rate."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from bench.builder import FORWARDED, KIT, PLAIN, SHARED, Builder
from bench.builds import group_of, interleaved, of_job
from bench.client import Client, run, timed
from bench.figures import Figure
from bench.images import Images
from bench.link import Link
from bench.workloads import Workload

MILLISECONDS = (0, 20, 50, 100)
RATE = 100e6
"""Bits per second of the link, in each direction."""
FAR = 50
"""The round trip, in milliseconds, of what is measured at one distance only."""
TITLE = "Warm build of a small service over a distance"
SETUP = "set-up of a CI job"
PATHS = (KIT, FORWARDED, SHARED, PLAIN, SETUP)
TRIPS = f"{TITLE}: round trips, by the slope of the seconds"
COUNTED = f"{TITLE}: round trips, counted by the link"
OPENED = f"{TITLE}: connections to the gateway"


def at(milliseconds: int) -> str:
    """The group of what was measured with this round trip."""
    return f"{TITLE}: {milliseconds} ms"


GROUPS = (*map(at, MILLISECONDS), TRIPS, COUNTED, OPENED)


def builds(link: Link, workload: Workload, clients: list[Client], rounds: int) -> list[Figure]:
    """Warm builds with each delay, in turns."""

    def building(client: Client) -> Callable[[], float]:
        return lambda: client.build(workload.folder, *workload.options())

    actions = {client.path: building(client) for client in clients}
    for action in actions.values():
        action()
    return _measured(link, actions, rounds)


def set_up(link: Link, builder: Builder, folder: Path, port: int, rounds: int) -> list[Figure]:
    """What a CI job waits for before its first build: `. ci/builder.sh`."""
    script = builder.job(folder, port)
    environment = {"BUILDER_KEY": str(builder.stack.folder / "key"), "HOME": str(folder)}

    def job() -> float:
        return timed(lambda: run("sh", "-euc", f". {script}", env=environment))

    return _measured(link, {SETUP: job}, rounds)


def _measured(link: Link, actions: dict[str, Callable[[], float]], rounds: int) -> list[Figure]:
    """Run each action with each delay, and find the round trips that it takes."""
    figures = []
    fastest: dict[str, list[float]] = {path: [] for path in actions}
    for milliseconds in MILLISECONDS:
        link.delay = milliseconds / 1000
        seconds: dict[str, list[float]] = {path: [] for path in actions}
        counted: dict[str, list[float]] = {path: [] for path in actions}
        opened: dict[str, list[float]] = {path: [] for path in actions}
        for _ in range(rounds):
            for path, action in actions.items():
                before = link.round_trips, link.connections
                seconds[path].append(action())
                counted[path].append(link.round_trips - before[0])
                opened[path].append(link.connections - before[1])
        for path, samples in seconds.items():
            figures.append(Figure(at(milliseconds), path, "s", tuple(samples)))
            fastest[path].append(min(samples))
    link.delay = 0
    for path in actions:
        line = statistics.linear_regression([ms / 1000 for ms in MILLISECONDS], fastest[path])
        # With the longest delay what a client computes is least likely to hide a round trip.
        figures += [
            Figure(TRIPS, path, "", (line.slope,)),
            Figure(COUNTED, path, "", tuple(counted[path])),
            Figure(OPENED, path, "", tuple(opened[path])),
        ]
    return figures


def against_dind(
    link: Link,
    bases: Link,
    registry: str,
    images: Images,
    folder: Path,
    kit: Client,
    name: str,
    rounds: int,
) -> list[Figure]:
    """One line of the source changed: the builder at a distance, and a daemon of the job's own
    whose base images and cache are as far away. `registry` is a prefix that leads over the link
    `bases`."""
    workload = Workload(
        name, {"service": images.base, "packages": images.python}[name], folder / f"far-{name}"
    )
    link.delay = bases.delay = FAR / 1000
    interleaved(workload, [kit], "cold", 1, "")
    figures = interleaved(workload, [kit], "source", rounds, group_of(name, "source"))
    figures += of_job(workload, images, registry, folder / "far", ("source",), rounds)
    link.delay = bases.delay = 0
    return [replace(figure, group=far(name)) for figure in figures]


def far(name: str) -> str:
    """The group of a workload whose builder or registry is at a distance."""
    return f"{group_of(name, 'source')}, {FAR} ms and {RATE / 1e6:.0f} Mbit/s away"


def section(figures: list[Figure]) -> list[str]:
    """The lines of the report about the builds and the set-up."""
    medians = {(figure.group, figure.path): figure.median for figure in figures}
    paths = [path for path in PATHS if (TRIPS, path) in medians]
    if not paths:
        return []
    header = [f"{milliseconds} ms" for milliseconds in MILLISECONDS]
    lines = [
        f"## {TITLE}",
        "",
        f"Medians in seconds, by the round trip; {RATE / 1e6:.0f} Mbit/s in each direction. Round "
        "trips are the seconds that one second of delay adds to the fastest sample. The link also "
        "counts how often the client sends something at least a round trip after the last count.",
        "",
        f"![{TITLE}](speed/distance.svg)",
        "",
        f"| | {' | '.join(header)} | round trips | counted | connections |",
        "|---" * (len(header) + 4) + "|",
    ]
    for path in paths:
        seconds = [f"{medians[at(milliseconds), path]:.2f}" for milliseconds in MILLISECONDS]
        trips = [f"{medians[group, path]:.0f}" for group in (TRIPS, COUNTED, OPENED)]
        lines.append(f"| {' | '.join([path, *seconds, *trips])} |")
    return [*lines, ""]
