"""python -m bench [--short] --out FOLDER: measure everything, write FOLDER/speed.md and plots."""

from __future__ import annotations

import argparse
import contextlib
import time
from pathlib import Path

from bench import crowd, distance, handshake, large, steps, transfers
from bench.builder import FORWARDED, Builder
from bench.builds import WARM, group_of, interleaved, of_job
from bench.client import Client, forget, timed
from bench.figures import Figure
from bench.images import Images, prepared
from bench.link import Link, serve
from bench.peers import (
    buildx,
    close,
    fill,
    give_cli,
    insecure,
    load,
    network,
    original,
    registry,
    rootless,
    ssh_host,
    wait_for,
)
from bench.report import write
from bench.targets import ANSWERED, DEPLOYED, FORMER, LOCAL, PROGRAM, UNCHANGED
from bench.workloads import NAMES, Workload


def measured(images: Images, folder: Path, *, short: bool) -> list[Figure]:
    """Measure everything; a short run takes fewer rounds, less data and one workload."""
    figures: list[Figure] = []

    def found(more: list[Figure]) -> None:
        for figure in more:
            print(
                f"    {figure.group} | {figure.path}: {figure.median:.2f} {figure.unit}", flush=True
            )
        figures.extend(more)

    with contextlib.ExitStack() as stack:
        address = stack.enter_context(network())
        builder = Builder.create(images, folder / "stack", address)
        stack.callback(builder.stack.destroy)
        former, originals = stack.enter_context(original(images, folder / "original", address))
        deployed = builder.stack.up(), former.up()
        answered = timed(give_cli, "bench-original-ssh") + timed(wait_for, originals[0])
        for path, seconds in zip((PROGRAM, FORMER), deployed, strict=True):
            found([Figure(DEPLOYED, path, "s", (seconds,))])
        found([Figure(ANSWERED, FORMER, "s", (deployed[1] + answered,))])
        unchanged = [(builder.stack.up(), former.up()) for _ in range(1 if short else 10)]
        for path, times in zip((PROGRAM, FORMER), zip(*unchanged, strict=True), strict=True):
            found([Figure(UNCHANGED, path, "s", times)])

        local = Client.create(LOCAL, "unix:///var/run/docker.sock", folder / "local")
        stack.callback(forget, local)
        kit, shared, plain = ours = stack.enter_context(builder.clients(folder / "near"))
        answered = timed(plain.docker, "version")
        found([Figure(ANSWERED, PROGRAM, "s", (deployed[0] + answered,))])
        bases = stack.enter_context(registry(images, address))
        unforwarded = stack.enter_context(rootless(images, folder / "rootless", insecure(bases)))
        wait_for(originals[1])
        load(originals[1], images.base)
        for client in (kit, unforwarded):
            load(client, images.base, images.python, images.go)
        stack.callback(close, originals[1], "original")
        fill(bases, unforwarded, images.base, images.python, images.go)
        foreign = stack.enter_context(buildx(images, shared, bases))
        host = stack.enter_context(ssh_host(images, folder / "host", address))

        service = Workload("service", images.base, folder / "service")
        everybody = [local, unforwarded, *ours, *originals, foreign]
        interleaved(service, everybody, "cold", 1, WARM)
        found(interleaved(service, everybody, "warm", 5 if short else 15, WARM))
        found(handshake.connections(builder, plain, service, 3))
        found(handshake.parts(plain, 5 if short else 30))

        bases_of = {"service": images.base, "packages": images.python, "compiled": images.go}
        for name in NAMES[:1] if short else NAMES:
            workload = Workload(name, bases_of[name], folder / f"of-{name}")
            # Every further path takes minutes for each workload; one shows how they compare.
            daemons = [local, unforwarded, kit, foreign] if name == "service" else [local, kit]
            for state, rounds in (("cold", 1), ("warm", 5), ("source", 5), ("dependency", 3)):
                rounds = 1 if short else rounds
                found(interleaved(workload, daemons, state, rounds, group_of(name, state)))
            rounds = 3 if name == "service" and not short else 1
            # Without cache mounts a compiler does the same work for either change.
            states = ("source",) if name == "compiled" else ("source", "dependency")
            found(of_job(workload, images, bases, folder, states, rounds))

        found(crowd.versions([local, kit, plain, originals[0]]))
        found(crowd.builds(service, [local, kit, plain], 1 if short else 3))
        size, rounds = (100, 1) if short else (500, 5)
        here = [local, builder.own_socket(folder / "own"), kit, plain]
        found(transfers.context(images, here, host, folder / "context", size, rounds))
        size, rounds = (100, 1) if short else (1000, 5)
        found(transfers.images_of(here, host, folder / "images", size, rounds))
        size, rounds = (200, 1) if short else (1000, 5)
        daemons = [local, unforwarded, kit]
        found(steps.inside_a_step(images.python, daemons, address, size, rounds))

        far = Link(address, builder.port, rate=distance.RATE)
        port = stack.enter_context(serve(far, address))
        clients = stack.enter_context(builder.clients(folder / "far", port))
        clients.insert(1, without_python(clients[0]))
        rounds = 1 if short else 3
        found(distance.builds(far, service, clients, rounds))
        size = 50 if short else 500
        found(transfers.at_a_distance(far, images, clients[0], folder / "far-data", size, 1))
        numbers = large.FILES_SHORT if short else large.FILES
        projects = folder / "projects"
        with large.away(far, clients[0]) as distant:
            found(list(large.files(images.base, local, [kit, distant], projects, numbers)))
        found(distance.set_up(far, builder, folder / "job", port, rounds))
        registry_port = int(bases.rstrip("/").rpartition(":")[2])
        far_bases = Link(address, registry_port, rate=distance.RATE)
        prefix = f"{address}:{stack.enter_context(serve(far_bases, address))}/"
        for name in ("service",) if short else ("service", "packages"):
            rounds = 3 if name == "service" and not short else 1
            found(
                distance.against_dind(
                    far, far_bases, prefix, images, folder, clients[0], name, rounds
                )
            )
    return figures


def without_python(kit: Client) -> Client:
    """The kit's client with the socket that ssh forwards, behind the connections open ahead."""
    behind = Client(FORWARDED, kit.host.replace("docker.sock", "ssh.sock"), kit.folder)
    wait_for(behind)
    return behind


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument(
        "--short", action="store_true", help="a few minutes: fewer rounds, less data"
    )
    parser.add_argument("--out", type=Path, required=True, help="the folder of the report")
    options = parser.parse_args()
    start = time.monotonic()
    with prepared() as (images, folder):
        figures = measured(images, folder, short=options.short)
        minutes = (time.monotonic() - start) / 60
        write(options.out, figures, short=options.short, minutes=minutes)


if __name__ == "__main__":
    main()
