"""How long `docker build` takes, depending on what has changed and where it runs."""

from __future__ import annotations

import time
from pathlib import Path

from bench.client import Client, in_turns
from bench.figures import Figure
from bench.images import Images
from bench.peers import insecure, rootless
from bench.workloads import Workload

FRESH, FRESH_CACHED = "dind in the job", "dind in the job, registry cache"
WARM = "Warm build of a small service"

Samples = dict[str, list[float]]


def _figures(group: str, samples: Samples) -> list[Figure]:
    return [Figure(group, path, "s", tuple(times)) for path, times in samples.items()]


def group_of(name: str, state: str) -> str:
    """The heading under which a workload in this state is reported."""
    words = {
        "cold": "empty cache",
        "warm": "nothing changed",
        "source": "one line of the source changed",
        "dependency": "the dependencies changed",
    }
    kinds = {"service": "Small service", "packages": "Python packages", "compiled": "Go program"}
    return f"{kinds[name]}: {words[state]}"


def interleaved(
    workload: Workload,
    clients: list[Client],
    state: str,
    rounds: int,
    group: str,
) -> list[Figure]:
    """Each client builds once per round; each round starts with another client."""
    samples: Samples = {client.path: [] for client in clients}
    for number in range(rounds):
        workload.change(state)
        for client in in_turns(clients, number):
            options = workload.options(client.bases)
            samples[client.path].append(client.build(workload.folder, *options))
    return _figures(group, samples)


def of_job(
    workload: Workload,
    images: Images,
    registry: str,
    folder: Path,
    states: tuple[str, ...],
    rounds: int,
) -> list[Figure]:
    """A daemon that is started for the job and pulls its base image: with an empty cache, and with
    the previous job's cache in a registry. The time includes its start, not pushing the cache."""
    cache = f"{registry}cache-{workload.name}"
    inline = ["--build-arg", "BUILDKIT_INLINE_CACHE=1", "--tag", cache]
    ways = {FRESH: [], FRESH_CACHED: ["--cache-from", f"type=registry,ref={cache}", *inline]}
    figures = []

    def build(place: str, options: list[str], *, push: bool = False) -> float:
        start = time.monotonic()
        with rootless(images, folder / place, insecure(registry), name="job") as client:
            client.build(workload.folder, *workload.options(registry), *options)
            seconds = time.monotonic() - start
            if push:
                client.docker("push", "--quiet", cache)
        return seconds

    build(f"{workload.name}-seed", inline, push=True)
    for state in states:
        samples: Samples = {way: [] for way in ways}
        for number in range(rounds):
            workload.change(state)
            for way, options in ways.items():
                place = f"{workload.name}-{state}-{number}-{len(options)}"
                samples[way].append(build(place, options))
        figures += _figures(group_of(workload.name, state), samples)
    return figures
