"""python -m bench.stores [--short]: compare the two image stores (imageStore), for docs/cache.md.

Two rootless daemons of the same image, one for each store, work in turns. The table has medians and
the ratio of containerd's store to overlay2: above 1 it is slower, or larger.
"""

from __future__ import annotations

import argparse
import contextlib
import secrets
from collections.abc import Callable
from pathlib import Path

from bench import crowd
from bench.builds import group_of, interleaved
from bench.client import Client, in_turns, run, timed
from bench.figures import Figure
from bench.images import Images, prepared
from bench.peers import PREFIX, insecure, load, network, registry, rootless
from bench.workloads import Workload
from components.layout import DATA_DIRECTORY

CONTAINERD, OVERLAY2 = "containerd", "overlay2"
DRIVERS = {
    CONTAINERD: ("--feature=containerd-snapshotter", "--storage-driver=overlayfs"),
    OVERLAY2: ("--storage-driver=overlay2",),
}
MANY_LAYERS = 30


def in_rounds(
    group: str, clients: list[Client], rounds: int, action: Callable[[Client], float]
) -> list[Figure]:
    """How many seconds the action takes; each round starts with another client."""
    samples: dict[str, list[float]] = {client.path: [] for client in clients}
    for number in range(rounds):
        for client in in_turns(clients, number):
            samples[client.path].append(action(client))
    return [Figure(group, path, "s", tuple(times)) for path, times in samples.items()]


def measured(images: Images, folder: Path, *, short: bool) -> list[Figure]:
    """Measure both stores; a short run takes fewer rounds and less data."""
    rounds, megabytes = (1, 50) if short else (3, 200)
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(network())
        bases = stack.enter_context(registry(images, address))
        clients = []
        for store, options in DRIVERS.items():
            daemon = rootless(images, folder / store, insecure(bases), *options, name=store)
            client = stack.enter_context(daemon)
            clients.append(Client(store, client.host, client.folder))
            load(client, images.base)

        def built(client: Client, text: str) -> float:
            context = folder / "context"
            context.mkdir(exist_ok=True)
            (context / "Dockerfile").write_text(f"FROM {images.base}\n{text}")
            return client.build(context, "--tag", f"{bases}bench")

        def many(client: Client) -> float:
            steps = (f"RUN echo {secrets.token_hex(4)} >/{n}\n" for n in range(MANY_LAYERS))
            return built(client, "".join(steps))

        def large(client: Client) -> float:
            step = f"RUN echo {secrets.token_hex(4)}; head -c {megabytes}000000 /dev/urandom >/data"
            return built(client, f"{step}\n")

        def pushed(client: Client) -> float:
            large(client)
            return timed(client.docker, "push", "--quiet", f"{bases}bench")

        def pulled(client: Client) -> float:
            client.docker("image", "rm", "--force", f"{bases}bench", "bench")
            client.docker("builder", "prune", "--all", "--force")
            return timed(client.docker, "pull", "--quiet", f"{bases}bench")

        archive = str(folder / "archive.tar")
        service = Workload("service", images.base, folder / "service")
        figures = []
        for state, times in (("cold", 1), ("warm", 2 * rounds), ("source", rounds)):
            figures += interleaved(service, clients, state, times, group_of("service", state))
        figures += in_rounds(f"{MANY_LAYERS} small layers", clients, rounds, many)
        figures += in_rounds(f"One layer of {megabytes} MB", clients, rounds, large)
        figures += crowd.builds(service, clients, 1 if short else 3)
        for client in clients:
            place = f"{PREFIX}{client.path}"
            sizes = run("docker", "exec", "--user", "0", place, "du", "-sm", DATA_DIRECTORY)
            used = float(sizes.stdout.split()[0])
            figures.append(Figure("Disk used after these builds", client.path, "MB", (used,)))
        push = f"Push of a layer of {megabytes} MB"
        figures += in_rounds(push, clients, rounds, pushed)
        figures += in_rounds("Pull of it", clients, rounds, pulled)
        figures += in_rounds(
            "docker save of it",
            clients,
            rounds,
            lambda client: timed(client.docker, "save", "--output", archive, f"{bases}bench"),
        )

        def loaded(client: Client) -> float:
            client.docker("image", "rm", "--force", f"{bases}bench")
            return timed(client.docker, "load", "--quiet", "--input", archive)

        figures += in_rounds("docker load of it", clients, rounds, loaded)
    return figures


def table(figures: list[Figure]) -> str:
    """The medians of both stores, and their ratio."""
    groups: dict[str, dict[str, Figure]] = {}
    for figure in figures:
        groups.setdefault(figure.group, {})[figure.path] = figure
    lines = ["| | containerd | overlay2 | ratio |", "| --- | --- | --- | --- |"]
    for group, of in groups.items():
        ours, theirs = of[CONTAINERD], of[OVERLAY2]
        ratio = f"{ours.median / theirs.median:.2f}" if theirs.median else ""
        unit = ours.unit
        lines.append(
            f"| {group} | {ours.median:.3g} {unit} | {theirs.median:.3g} {unit} | {ratio} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.stores", description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer rounds, less data")
    options = parser.parse_args()
    with prepared() as (images, folder):
        print(table(measured(images, folder, short=options.short)))


if __name__ == "__main__":
    main()
