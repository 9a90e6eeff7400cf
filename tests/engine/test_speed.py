"""Guards against a loss of speed: ratios with room for noise; `make bench` measures exactly."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.builds import interleaved
from bench.client import Client
from bench.figures import Figure
from bench.peers import network
from bench.steps import DOWNLOAD, UPLOAD, WRITE, inside_a_step
from bench.workloads import Workload
from tests.engine.conftest import BASE_IMAGE, GUARD_IMAGE, Builder, passed, run, until

pytestmark = pytest.mark.alone

ROUNDS = 7
MEGABYTES = 300
SOCKET = "/run/builder/docker.sock"


@pytest.fixture(scope="module")
def clients(builder: Builder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Client]]:
    """This machine's own daemon, the builder's forwarded socket, and two over plain ssh."""
    folder = tmp_path_factory.mktemp("c")
    alias = f"ssh://{builder.output('sshAlias')}"
    shared = (builder.folder / "ssh_config").read_text()
    # ssh uses an existing connection by its ControlPath even with ControlMaster no.
    plain = re.sub(r"ControlPath .*", "ControlPath none", shared)
    with builder.connection("-N", "-L", f"{folder}/socket:{SOCKET}", stdin=None):
        assert until((folder / "socket").exists)
        yield [
            Client.create("local", "unix:///var/run/docker.sock", folder / "local"),
            Client.create("forwarded", f"unix://{folder}/socket", folder / "forwarded"),
            Client.create("shared", alias, folder / "shared", shared),
            Client.create("plain", alias, folder / "plain", plain),
        ]


def ratios(figures: list[Figure], group: str) -> dict[str, float]:
    """Each path's median divided by that of the local daemon."""
    medians = {figure.path: figure.median for figure in figures if figure.group == group}
    return {path: median / medians["local"] for path, median in medians.items()}


def test_a_warm_build_stays_near_the_local_socket(clients: list[Client], tmp_path: Path) -> None:
    service = Workload("service", BASE_IMAGE, tmp_path / "service")
    interleaved(service, clients, "cold", 1, "cold")
    found = ratios(interleaved(service, clients, "warm", ROUNDS, "warm"), "warm")
    assert found["forwarded"] < found["shared"] < found["plain"], found
    assert found["forwarded"] < 1.8, found
    assert found["shared"] < 4, found
    assert found["plain"] < 9, found


def test_network_and_disk_are_fast_in_a_build_step(builder: Builder, clients: list[Client]) -> None:
    if GUARD_IMAGE.startswith("localhost/"):
        builder.load(GUARD_IMAGE)
    local, forwarded, *_ = clients
    with network() as address:
        figures = inside_a_step(GUARD_IMAGE, [local, forwarded], address, MEGABYTES, 3)
    found = {group: ratios(figures, group)["forwarded"] for group in (DOWNLOAD, UPLOAD, WRITE)}
    # Without the uplink it is 0.2 and 0.1.
    assert found[DOWNLOAD] > 0.4, found
    assert found[UPLOAD] > 0.4, found
    assert found[WRITE] > 0.4, found


def test_the_gateway_stops_at_once(builder: Builder) -> None:
    gateway = builder.container("gateway")
    builder.ssh_end()
    start = time.monotonic()
    passed(run("docker", "stop", gateway))
    took = time.monotonic() - start
    passed(run("docker", "start", gateway))
    assert until(lambda: builder.ping().returncode == 0, 30)
    # s6-overlay's default alone is 3 seconds.
    assert took < 2
