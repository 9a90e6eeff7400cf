"""One stack with many builders: the cost of Pulumi's runs, and the load on the host's sshd."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.engine.conftest import Builder, Result, free_port, passed
from tests.engine.figures import LONG, record
from tests.engine.hosts import Host, Hosts, hosts_in

pytestmark = pytest.mark.alone

# sshd's default: while 10 connections have not logged in yet, it refuses some new ones.
MAX_STARTUPS = 10
# Docker's default address pools have some thirty networks, and a builder uses two.
MOST_ON_A_HOST = 10
# The first and the last command load the host the most.
RUNS = [
    ("first up", "up"),
    ("second up", "up", "--expect-no-changes"),
    ("refresh --run-program", "refresh", "--expect-no-changes", "--run-program"),
    ("destroy", "destroy"),
][:: 1 if LONG else 3]


@dataclass
class Cost:
    """The cost of one run of Pulumi."""

    seconds: float
    mib: float
    """Most memory of all its processes together (resident, shared pages counted for each)."""
    connections: int
    """Number of TCP connections to the host's sshd."""
    logging_in: int
    """Most of them at once that had not logged in yet."""
    refused: int
    """Lines of sshd's log about connections that it dropped, or began to drop."""

    def record(self, what: str) -> None:
        """Write it to docs/scale.md."""
        record(
            what,
            1,
            document="scale",
            seconds=self.seconds,
            MiB=self.mib,
            connections=self.connections,
            logging_in_at_once=self.logging_in,
            refused=self.refused,
        )


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with hosts_in(tmp_path_factory.mktemp("hosts")) as hosts:
        yield hosts


def resident_mib(root: int) -> float:
    """Memory of the process and all its descendants now."""
    parents: dict[int, int] = {}
    pages: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(folder.name)] = int(fields[1])
        pages[int(folder.name)] = int(fields[21])
    total = 0
    for process in parents:
        above = process
        while above not in (root, 0, 1):
            above = parents.get(above, 0)
        total += pages[process] if above == root else 0
    return total * os.sysconf("SC_PAGE_SIZE") / 2**20


def logging_in(log: str) -> int:
    """Most connections at once that sshd had neither accepted nor closed."""
    waiting = most = 0
    for line in log.splitlines():
        if line.startswith("Connection from "):
            waiting += 1
            most = max(most, waiting)
        elif re.match(r"Accepted |(Connection (closed|reset)|Disconnected) .*\[preauth\]", line):
            waiting -= 1
    return most


def measured(builder: Builder, hosts: list[Host], command: str, *options: str) -> Cost:
    """Run Pulumi on the stack, without shared connections from earlier runs.

    With several hosts, the result has the numbers of the host with the most.
    """
    before = {}
    for host in hosts:
        host.shell("pkill -f 'sshd.*root@notty'")
        before[host] = host.log()
    most = 0.0
    results: list[Result] = []
    worker = threading.Thread(target=lambda: results.append(builder.pulumi(command, *options)))
    start = time.monotonic()
    worker.start()
    while worker.is_alive():
        most = max(most, resident_mib(os.getpid()))
        worker.join(0.2)
    seconds = time.monotonic() - start
    passed(results[0])
    logs = [host.log()[len(before[host]) :] for host in hosts]
    return Cost(
        seconds,
        most - resident_mib(os.getpid()),
        max(len(re.findall(r"^Connection from ", log, re.MULTILINE)) for log in logs),
        max(map(logging_in, logs)),
        max(len(re.findall(r"drop connection|MaxStartups", log)) for log in logs),
    )


def fleet_of(number: int, on: list[Host], hosts: Hosts, folder: Path) -> Builder:
    """So many builders, evenly on these hosts."""
    ports: set[int] = set()
    while len(ports) < number:
        ports.add(free_port())
    entries = [
        {"name": f"n{n}", "sshPort": port, **on[n % len(on)].settings}
        for n, port in enumerate(ports)
    ]
    builder = Builder.create(folder / f"of{number}", hosts=entries, keepCache=False)
    builder.env["SSH_AUTH_SOCK"] = hosts.agent
    return builder


def grows_linearly(costs: dict[int, Cost]) -> None:
    """At most linear from the second largest to the largest, with a quarter for noise."""
    few, many = list(costs)[-2:]
    assert costs[many].seconds < 1.25 * costs[few].seconds * (many / few)
    assert costs[many].mib < costs[few].mib * (many / few)


def test_a_preview_grows_linearly_with_few_logins(hosts: Hosts, tmp_path: Path) -> None:
    costs = {}
    for number in (1, 10, 100) if LONG else (1, 3):
        on = [hosts.new("--device", "/dev/net/tun") for _ in range(0, number, MOST_ON_A_HOST)]
        cost = measured(fleet_of(number, on, hosts, tmp_path), on, "preview")
        cost.record(f"preview of {number} builders, {len(on)} hosts")
        assert cost.refused == 0
        assert cost.connections <= MAX_STARTUPS
        costs[number] = cost
    grows_linearly(costs)


@pytest.mark.parametrize(
    ("parallel", "numbers"), [("64", (1, 10)), ("128", (3,))] if LONG else [("64", (2,))]
)
def test_every_run_grows_linearly_and_is_never_refused(
    hosts: Hosts, tmp_path: Path, parallel: str, numbers: tuple[int, ...]
) -> None:
    costs: dict[str, dict[int, Cost]] = {}
    for number in numbers:
        on = [hosts.new("--device", "/dev/net/tun")]
        builder = fleet_of(number, on, hosts, tmp_path)
        builder.env["PULUMI_PARALLEL"] = parallel
        try:
            for what, command, *options in RUNS:
                cost = measured(builder, on, command, *options)
                cost.record(f"{what} of {number} builders, 1 host, --parallel {parallel}")
                assert cost.refused == 0, what
                assert cost.logging_in <= MAX_STARTUPS, what
                costs.setdefault(what, {})[number] = cost
        finally:
            builder.clear_away()
    for of_run in costs.values():
        if len(of_run) > 1:
            grows_linearly(of_run)
