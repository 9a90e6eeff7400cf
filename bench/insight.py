"""python -m bench.insight [--short]: what metrics, traces and the status page cost a builder.

Prints a table for docs/running.md. A machine is not as fast in one minute as in the next, so builds
with and without alternate in short blocks. A block's builds follow each other without a pause:
what the metrics do after a build is part of the next one's time. They are scraped in each block,
more often than by an operator. Traces go to a collector that throws them away.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import docker
import yaml

from bench.builder import ROOT, Builder
from bench.builds import interleaved
from bench.images import Images, prepared
from bench.keys import free_port
from bench.peers import load, network
from bench.stack import NAME
from bench.workloads import Workload

EVERY = 15
METRICS = (f"{NAME}-builder-metrics", f"{NAME}-builder-metrics-page")


@dataclass(frozen=True)
class Length:
    """How much is measured."""

    rest: float
    """Seconds at rest."""
    blocks: int
    """Pairs of blocks with and without metrics."""
    builds: int
    """Builds of each of these blocks."""
    deployments: int
    """Pairs of deployments with and without traces; their blocks are four times as long."""


LONG, SHORT = Length(60, 16, 20, 3), Length(20, 2, 4, 1)


@dataclass(frozen=True)
class Rest:
    """The builder's containers while nobody builds."""

    cpu: float
    """Percent of one core."""
    memory: float
    """MB, without what the kernel caches of files."""

    @classmethod
    def measured(cls, seconds: float) -> Rest:
        """Measure for so many seconds."""
        before, start = usage()[0], time.monotonic()
        time.sleep(seconds)
        cpu, memory = usage()
        return cls(100 * (cpu - before) / (time.monotonic() - start), memory)

    def __str__(self) -> str:
        return f"{self.cpu:.1f} % of a core | {self.memory:.0f} MB"


def usage() -> tuple[float, float]:
    """CPU seconds and MB of the builder's containers together."""
    cpu = memory = 0.0
    for container in docker.from_env().containers.list(filters={"name": f"^{NAME}-builder-"}):
        now = container.stats(stream=False, one_shot=True)
        cpu += now["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9
        details = now["memory_stats"]["stats"]
        cached = details.get("inactive_file", details.get("total_inactive_file", 0))
        memory += (now["memory_stats"]["usage"] - cached) / 1e6
    return cpu, memory


def scrape(metrics: str) -> None:
    with urllib.request.urlopen(f"http://{metrics}/metrics") as answer:
        answer.read()


@contextmanager
def scraped(metrics: str) -> Iterator[None]:
    """Metrics at this address are scraped as by Prometheus within the block."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(EVERY):
            scrape(metrics)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@dataclass(frozen=True)
class Builds:
    """Seconds of warm builds with something and without it."""

    on: list[float]
    off: list[float]

    @classmethod
    def alternating(
        cls, build: Callable[[], float], switch: Callable[[bool], None], blocks: int, builds: int
    ) -> Builds:
        """So many pairs of blocks of so many builds."""
        found: dict[bool, list[float]] = {True: [], False: []}
        for block in range(blocks):
            # Neither is always the first.
            for is_on in (True, False) if block % 2 else (False, True):
                switch(is_on)
                build()
                found[is_on] += [build() for _ in range(builds)]
        return cls(found[True], found[False])

    def __str__(self) -> str:
        """The ratios of medians and means, and how far that of means may be off by chance."""
        mean_on, mean_off = statistics.mean(self.on), statistics.mean(self.off)
        error = sum(
            (statistics.stdev(times) / statistics.mean(times)) ** 2 / len(times)
            for times in (self.on, self.off)
        )
        return (
            f"{statistics.median(self.on) / statistics.median(self.off):.3f} | "
            f"{mean_on / mean_off:.3f} ± {2 * error**0.5:.3f}"
        )


def switch_metrics(metrics: str, is_on: bool) -> None:
    """Let the containers of the metrics run, or stop their processes where they are."""
    for name in METRICS:
        container = docker.from_env().containers.get(name)
        if is_on == (container.status == "paused"):
            (container.unpause if is_on else container.pause)()
    if is_on:
        scrape(metrics)


def page_cost(builder: Builder, folder: Path) -> tuple[float, float]:
    """CPU seconds of writing the status page: where it is written, and of the builder."""
    page = folder / "status.html"
    stack = ("--stack", NAME, "--config-file", str(builder.stack.config))
    command = (sys.executable, "-m", "client", "status", *stack, "--html", str(page))
    environment = {**os.environ, **builder.stack.environment}
    before, start = usage()[0], resource.getrusage(resource.RUSAGE_CHILDREN)
    written = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    # It returns 1 for a builder with problems too.
    if not page.exists():
        raise RuntimeError(f"the page was not written: {written.stderr}")
    end = resource.getrusage(resource.RUSAGE_CHILDREN)
    own = end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime
    return own, usage()[0] - before


@contextmanager
def collector(address: str) -> Iterator[str]:
    """The URL of a collector that throws all traces away."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.end_headers()

        def log_message(self, format: str, *words: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer((address, 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{address}:{server.server_address[1]}"
        server.shutdown()


def deploy(builder: Builder, **changes: str) -> None:
    """Deploy the builder with these of its settings changed."""
    settings = yaml.safe_load(builder.stack.config.read_text())
    settings["config"] |= {f"docker-build-machine:{name}": text for name, text in changes.items()}
    builder.stack.config.write_text(yaml.safe_dump(settings))
    builder.stack.up()


def measured(images: Images, folder: Path, length: Length) -> str:
    """The table."""
    rests: dict[str, Rest] = {}
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(network())
        builder = Builder.create(images, folder / "stack", address)
        stack.callback(builder.stack.destroy)
        service = Workload("service", images.base, folder / "service")
        metrics, traces = f"127.0.0.1:{free_port()}", stack.enter_context(collector(address))
        builder.stack.up()

        @contextmanager
        def building(name: str) -> Iterator[Callable[[], float]]:
            """A function that makes a warm build and returns its seconds, for a new client."""
            with builder.clients(folder / name) as [kit, *_]:
                load(kit, images.base)
                interleaved(service, [kit], "cold", 1, "")

                def build() -> float:
                    return interleaved(service, [kit], "warm", 1, "")[0].samples[0]

                for _ in range(3):
                    build()
                yield build

        with building("nothing"):
            rests["nothing"] = Rest.measured(length.rest)
        deploy(builder, guardImage=images.python, metrics=metrics)
        with building("metrics"), scraped(metrics):
            rests["metrics"] = Rest.measured(length.rest)
            page = page_cost(builder, folder)
        with building("blocks") as build:
            with_metrics = Builds.alternating(
                build, lambda on: switch_metrics(metrics, on), length.blocks, length.builds
            )
            switch_metrics(metrics, is_on=True)
        deploy(builder, traces=traces)
        with building("both"), scraped(metrics):
            rests["metrics and traces"] = Rest.measured(length.rest)
        deploy(builder, metrics="")
        with building("deployments") as build:
            with_traces = Builds.alternating(
                build,
                lambda on: deploy(builder, traces=traces if on else ""),
                length.deployments,
                4 * length.builds,
            )
    return "\n".join(
        [
            "| | CPU of the builder's containers at rest | their memory |",
            "| --- | --- | --- |",
            *(f"| {name} | {rest} |" for name, rest in rests.items()),
            "",
            "| a warm build, relative to one without | median | mean |",
            "| --- | --- | --- |",
            f"| metrics | {with_metrics} |",
            f"| traces | {with_traces} |",
            "",
            f"The page: {page[0]:.1f} s of CPU where it is written, {page[1]:.2f} s in the builder",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.insight", description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer builds")
    options = parser.parse_args()
    with prepared() as (images, folder):
        print(measured(images, folder, SHORT if options.short else LONG))


if __name__ == "__main__":
    main()
