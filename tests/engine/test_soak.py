"""Builds of many projects at once, beside a local daemon, and many builds in a row."""

from __future__ import annotations

import contextlib
import secrets
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.client import LABEL, Client, forget
from tests.engine.conftest import (
    AS_ROOT,
    BASE_IMAGE,
    Builder,
    NewBuilder,
    memory,
    passed,
    run,
    until,
)
from tests.engine.figures import LONG, record

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(not LONG, reason="a lane of make trials: it takes half an hour"),
]

AT_ONCE = (1, 8, 32)
# The three numbers on two daemons take ten minutes together.
SECONDS = 100
BUILDS, AT_A_TIME = 1000, 4
# By then the cache has reached its limit of 1 GB, and the janitor has removed the first images.
FULL = 400
LAYER_MIB = 4
ROLES = ("daemon", "gateway", "guard", "janitor")


@dataclass(frozen=True)
class Project:
    """A project of its own: no other one has its layers."""

    client: Client
    folder: Path

    @classmethod
    def create(cls, client: Client, folder: Path, last_step: str) -> Project:
        folder.mkdir(parents=True)
        (folder / "Dockerfile").write_text(
            f"FROM {BASE_IMAGE}\nRUN echo {secrets.token_hex(4)} >/dependencies\n"
            f"COPY source /source\nRUN {last_step}\n"
        )
        return cls(client, folder)

    def build(self) -> tuple[float, str]:
        """Change the source and build; returns the seconds, and the errors if it failed."""
        (self.folder / "source").write_text(secrets.token_hex(8))
        start = time.monotonic()
        build = self.client.start(
            "build", "--quiet", "--tag", self.folder.name, *LABEL, str(self.folder)
        )
        errors = build.communicate(timeout=300)[1]
        return time.monotonic() - start, errors if build.returncode else ""


@dataclass(frozen=True)
class Load:
    """What builds at once have taken."""

    seconds: list[float]
    failed: list[str]
    a_minute: float

    @property
    def slowest_tenth(self) -> float:
        """The seconds that nine of ten builds take at most."""
        return statistics.quantiles(self.seconds, n=10, method="inclusive")[-1]


@contextlib.contextmanager
def sessions(builder: Builder, number: int, folder: Path) -> Iterator[list[Client]]:
    """So many clients of role build, each with a connection of its own."""
    folder.mkdir()
    sockets = [folder / f"{n}.sock" for n in range(number)]
    # Once, because it writes the file that every ssh reads.
    ssh = builder.ssh_command("ci")
    with contextlib.ExitStack() as stack:
        for path in sockets:
            forwarding = ("-N", f"-L{path}:/run/builder/guard.sock", builder.alias)
            connection = subprocess.Popen([*ssh, *forwarding], stdin=subprocess.DEVNULL)
            stack.callback(connection.wait)
            stack.callback(connection.terminate)
        assert until(lambda: all(path.exists() for path in sockets), 120)
        yield [Client.create(path.stem, f"unix://{path}", folder / path.stem) for path in sockets]


def at_once(projects: list[Project]) -> Load:
    """Each project builds again and again, for SECONDS."""
    start = time.monotonic()

    def again(project: Project) -> list[tuple[float, str]]:
        builds = [project.build()]
        while time.monotonic() < start + SECONDS:
            builds.append(project.build())
        return builds

    with ThreadPoolExecutor(len(projects)) as pool:
        builds = [build for of_one in pool.map(again, projects) for build in of_one]
    minutes = (time.monotonic() - start) / 60
    errors = [error for _, error in builds if error]
    return Load([seconds for seconds, _ in builds], errors, len(builds) / minutes)


@contextlib.contextmanager
def most_memory(builder: Builder, *roles: str) -> Iterator[Callable[[str], float]]:
    """The most MiB that a container of these roles has used in the block so far."""
    most = dict.fromkeys(roles, 0.0)
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            for role, mib in memory(builder, *roles).items():
                most[role] = max(most[role], mib)

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        try:
            yield most.__getitem__
        finally:
            ended.set()
        watching.result()


@pytest.fixture(scope="module")
def builder(new_builder: NewBuilder) -> Builder:
    """With a key of role build; it forgets builds, images and cache as soon as settings allow."""
    ready = new_builder(
        leftoverAge="10s",
        imageAge="30s",
        keepImages=[BASE_IMAGE],
        cacheSize="1GB",
        historyAge="30s",
        historyBuilds=50,
    )
    ready.add_key("ci", role="build")
    ready.up()
    ready.load_base()
    ready.ssh_end()
    return ready


@pytest.mark.parametrize("number", AT_ONCE)
def test_builds_of_different_projects_at_once(
    builder: Builder, tmp_path: Path, number: int
) -> None:
    step = "cat /source >/built"
    before = memory(builder, "gateway", "guard")
    with (
        sessions(builder, number, tmp_path / "clients") as clients,
        most_memory(builder, "gateway", "guard") as most,
    ):
        projects = [
            Project.create(client, tmp_path / f"project-{n}", step)
            for n, client in enumerate(clients)
        ]
        here = at_once(projects)
        a_session = {role: (most(role) - before[role]) / number for role in before}
    local = Client.create("local", "unix:///var/run/docker.sock", tmp_path / "local")
    try:
        there = at_once(
            [Project.create(local, tmp_path / f"local-{n}", step) for n in range(number)]
        )
    finally:
        forget(local)
    record(
        f"builds of {number} projects at once, {SECONDS} s each",
        len(here.seconds),
        document="scale",
        failed=len(here.failed),
        a_minute=here.a_minute,
        seconds_of_the_slowest_tenth=here.slowest_tenth,
        a_minute_on_a_local_daemon=there.a_minute,
        seconds_of_the_slowest_tenth_there=there.slowest_tenth,
        MiB_of_the_gateway_for_a_session=a_session["gateway"],
        MiB_of_the_guard_for_a_session=a_session["guard"],
    )
    assert not here.failed, here.failed[0]
    assert not there.failed, there.failed[0]
    # So there is room for 128 sessions in the gateway's 2 GiB, and for 64 in the guard's half GiB.
    assert a_session["gateway"] < 16, a_session
    assert a_session["guard"] < 8, a_session


def test_many_builds_in_a_row_leave_nothing(builder: Builder, tmp_path: Path) -> None:
    step = f"dd if=/dev/urandom of=/layer bs=1M count={LAYER_MIB}"
    failed: list[str] = []
    sizes: dict[int, dict[str, float]] = {}
    with sessions(builder, AT_A_TIME, tmp_path / "clients") as clients:
        projects = [
            Project.create(client, tmp_path / f"project-{n}", step)
            for n, client in enumerate(clients)
        ]
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            for done in range(AT_A_TIME, BUILDS + 1, AT_A_TIME):
                failed += [error for _, error in pool.map(Project.build, projects) if error]
                if done in (FULL, BUILDS):
                    sizes[done] = size(builder)
    before, after = sizes[FULL], sizes[BUILDS]
    for what in before:
        record(
            f"builds in a row with the janitor at work: {what} after {FULL} and after {BUILDS}",
            BUILDS,
            document="scale",
            failed=len(failed),
            before=before[what],
            after=after[what],
        )
    assert not failed, failed[0]
    for what, most in {
        **{f"MiB of the {role}": 128 if role == "daemon" else 24 for role in ROLES},
        "MiB of the data on disk": 500,
        "open files of dockerd": 16,
        "processes of the daemon's container": 16,
    }.items():
        assert after[what] < before[what] + most, (what, before, after)
    notes = ("janitor", "find", "/run/janitor/seen")
    # Of the base image, and of what the last sweeps saw.
    assert until(lambda: len(passed(builder.inside(*notes)).splitlines()) < 20, 600)


def size(builder: Builder) -> dict[str, float]:
    """What would grow if something were left behind."""
    used = memory(builder, *ROLES)
    # Files may go away while it looks.
    data = run(*AS_ROOT, "du", "-sm", builder.mountpoint("cache")).stdout
    pid = passed(builder.inside("daemon", "pidof", "dockerd")).split()[0]
    files = passed(builder.inside("daemon", "ls", f"/proc/{pid}/fd", user="1000"))
    processes = passed(run("docker", "top", builder.container("daemon"), "-eo", "pid"))
    return {
        **{f"MiB of the {role}": mib for role, mib in used.items()},
        "MiB of the data on disk": float(data.split()[0]),
        "open files of dockerd": len(files.split()),
        "processes of the daemon's container": len(processes.splitlines()) - 1,
    }
