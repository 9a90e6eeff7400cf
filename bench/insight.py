"""python -m bench.insight [--short]: what metrics, the status page and traces cost a builder.

Prints a table for docs/running.md. The builder is watched as an operator would: metrics every 15
seconds, the page of the status every minute, traces to a collector that throws them away. Each warm
build has one through the local socket beside it, which shows what the machine did meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import docker
import yaml

from bench.builder import ROOT, Builder
from bench.builds import interleaved
from bench.client import Client, forget
from bench.images import Images, prepared
from bench.keys import free_port
from bench.peers import load, network
from bench.stack import NAME
from bench.targets import LOCAL
from bench.workloads import Workload

OFF, WATCHED, TRACED = "nothing", "metrics and page", "metrics, page and traces"
EVERY = 15
PAGE_EVERY = 60
PAUSE = 3


@dataclass
class Seen:
    """What was measured in one state of the builder."""

    builds: list[float] = field(default_factory=list)
    """Seconds of warm builds with the kit."""
    control: list[float] = field(default_factory=list)
    """Seconds of the same through the local socket."""
    cpu: list[float] = field(default_factory=list)
    """Percent of one core that the builder's containers take while nobody builds."""
    memory: list[float] = field(default_factory=list)
    """MB of the builder's containers, without what the kernel caches of files."""

    def ratio(self, average: Callable[[list[float]], float]) -> float:
        """The warm build against that through the local socket."""
        return average(self.builds) / average(self.control)


def usage() -> tuple[float, float]:
    """CPU seconds and MB of the builder's containers together."""
    engine = docker.from_env()
    cpu = memory = 0.0
    for container in engine.containers.list(filters={"name": f"^{NAME}-builder-"}):
        now = container.stats(stream=False, one_shot=True)
        cpu += now["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9
        details = now["memory_stats"]["stats"]
        cached = details.get("inactive_file", details.get("total_inactive_file", 0))
        memory += (now["memory_stats"]["usage"] - cached) / 1e6
    return cpu, memory


def look(seen: Seen, workload: Workload, clients: list[Client], rounds: int, idle: float) -> None:
    """Measure warm builds, then the builder at rest for so many seconds."""
    for _ in range(rounds):
        local, kit = interleaved(workload, clients, "warm", 1, "")
        seen.control += local.samples
        seen.builds += kit.samples
        # Spreads the builds over more than a minute, in which the page is written once.
        time.sleep(PAUSE)
    before, start = usage()[0], time.monotonic()
    time.sleep(idle)
    cpu, memory = usage()
    seen.cpu.append(100 * (cpu - before) / (time.monotonic() - start))
    seen.memory.append(memory)


@contextmanager
def watching(builder: Builder, folder: Path, metrics: str) -> Iterator[None]:
    """Metrics that are scraped from this address, and the page of the status, within the block."""
    stack = ("--stack", NAME, "--config-file", str(builder.stack.config))
    page = (sys.executable, "-m", "client", "status", *stack, "--html", str(folder / "status.html"))
    environment = {**os.environ, **builder.stack.environment}
    ended = threading.Event()

    def watch() -> None:
        due = 0.0
        while not ended.is_set():
            with urllib.request.urlopen(f"http://{metrics}/metrics") as answer:
                answer.read()
            if time.monotonic() >= due:
                due = time.monotonic() + PAGE_EVERY
                subprocess.run(page, env=environment, cwd=ROOT, check=False, capture_output=True)
            ended.wait(EVERY)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


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


def deploy(builder: Builder, changes: dict[str, str]) -> None:
    """Deploy the builder with these of its settings changed."""
    settings = yaml.safe_load(builder.stack.config.read_text())
    settings["config"] |= {f"docker-build-machine:{name}": text for name, text in changes.items()}
    builder.stack.config.write_text(yaml.safe_dump(settings))
    builder.stack.up()


def measured(images: Images, folder: Path, *, short: bool) -> dict[str, Seen]:
    """Measure each state; a short run takes fewer builds and rests less."""
    turns, rounds, idle = (1, 4, 20.0) if short else (2, 25, 60.0)
    found = {state: Seen() for state in (OFF, WATCHED, TRACED)}
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(network())
        builder = Builder.create(images, folder / "stack", address)
        stack.callback(builder.stack.destroy)
        local = Client.create(LOCAL, "unix:///var/run/docker.sock", folder / "local")
        stack.callback(forget, local)
        service = Workload("service", images.base, folder / "service")
        metrics, traces = f"127.0.0.1:{free_port()}", stack.enter_context(collector(address))
        settings = {
            OFF: {"guardImage": images.python, "metrics": "", "traces": ""},
            WATCHED: {"metrics": metrics, "traces": ""},
            TRACED: {"metrics": metrics, "traces": traces},
        }
        for turn in range(turns):
            for state, seen in found.items():
                deploy(builder, settings[state])
                with contextlib.ExitStack() as within:
                    place = folder / f"{state} {turn}".replace(" ", "-").replace(",", "")
                    [kit, *_] = within.enter_context(builder.clients(place))
                    clients = [local, kit]
                    load(kit, images.base)
                    # They fill the caches.
                    interleaved(service, clients, "cold", 1, "")
                    interleaved(service, clients, "warm", 3, "")
                    if state != OFF:
                        within.enter_context(watching(builder, folder, metrics))
                    look(seen, service, clients, rounds, idle)
    return found


def table(found: dict[str, Seen]) -> str:
    """Medians of each state, and the warm build against that of a builder that nobody watches.

    The mean contains the builds during which metrics or the page were read; the median may not.
    """
    off = found[OFF]
    heads = ("", "CPU at rest", "memory", "warm build", "median of it", "mean of it")
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for state, seen in found.items():
        cells = (
            state,
            f"{statistics.median(seen.cpu):.1f} % of a core",
            f"{statistics.median(seen.memory):.0f} MB",
            f"{statistics.median(seen.builds):.3f} s",
            f"{seen.ratio(statistics.median) / off.ratio(statistics.median):.2f}",
            f"{seen.ratio(statistics.mean) / off.ratio(statistics.mean):.2f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.insight", description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer builds")
    options = parser.parse_args()
    with prepared() as (images, folder):
        print(table(measured(images, folder, short=options.short)))


if __name__ == "__main__":
    main()
