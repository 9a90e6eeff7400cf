"""A step that uses as much as it can harms neither the builder nor other builds."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from tests.engine.conftest import BASE_IMAGE, Builder, NewBuilder, Result, passed, run, until

pytestmark = pytest.mark.alone

CALM_SECONDS = 12
# Limited here, in case nothing else limits it.
FORKS = 5000
# The limit of a container on a systemd host with 1 GB of memory (DefaultTasksMax).
HOST_PROCESSES = 1200
FORK = f"i=0; while [ $i -lt {FORKS} ]; do sleep 5 & i=$((i+1)); done; wait"


@pytest.fixture(scope="module")
def builder(new_builder: NewBuilder) -> Builder:
    limited = new_builder(memory="1GB", cpus="1.5", processes=1000)
    limited.up()
    limited.load_base()
    return limited


def run_step(builder: Builder, step: str) -> Result:
    return builder.docker(
        "build", "--no-cache", "--progress=plain", "-", input=f"FROM {BASE_IMAGE}\nRUN {step}\n"
    )


@contextmanager
def calm_build(builder: Builder) -> Iterator[None]:
    """A build that runs during the block and must succeed on the same daemon."""
    started = state(builder)
    with builder.build_in_flight(CALM_SECONDS) as in_flight:
        yield
    passed(in_flight[0])
    assert state(builder) == started


def state(builder: Builder) -> str:
    """The start time of the daemon's container, and the process id of dockerd in it."""
    daemon = builder.container("daemon")
    started = passed(run("docker", "inspect", "--format", "{{.State.StartedAt}}", daemon))
    return started + passed(builder.inside("daemon", "pidof", "dockerd"))


def test_a_step_that_uses_all_memory_only_ends_itself(builder: Builder) -> None:
    with calm_build(builder):
        hog = run_step(builder, "tail /dev/zero")
    assert hog.returncode != 0
    assert "exit code: 137" in hog.stderr


def test_a_fork_bomb_in_a_step_only_ends_itself(builder: Builder) -> None:
    with calm_build(builder):
        bomb = run_step(builder, FORK)
    assert "can't fork" in bomb.stderr
    passed(run_step(builder, "true"))


def test_a_fork_bomb_in_a_container_only_ends_itself(builder: Builder) -> None:
    with calm_build(builder):
        bomb = builder.docker("run", "--rm", BASE_IMAGE, "sh", "-c", FORK)
    assert "can't fork" in bomb.stderr
    passed(builder.docker("run", "--rm", BASE_IMAGE, "true"))


def test_a_second_update_changes_no_limits(builder: Builder) -> None:
    assert "unchanged" in builder.up("--expect-no-changes")
    assert " 1000\n" in run_step(builder, "ulimit -u").stderr


@pytest.fixture(scope="module")
def narrow(new_builder: NewBuilder) -> Builder:
    """The default settings on a host that gives its container fewer processes."""
    builder = new_builder()
    builder.up()
    daemon = builder.container("daemon")
    passed(run("docker", "update", "--pids-limit", str(HOST_PROCESSES), daemon))
    passed(run("docker", "restart", daemon))
    builder.load_base()
    return builder


@pytest.mark.parametrize("as_user", ["0", "1000"])
def test_builds_leave_the_daemon_processes_where_the_host_allows_few(
    narrow: Builder, as_user: str
) -> None:
    started = state(narrow)
    # Its processes remain when their shell could not start another one.
    bomb = passed(
        narrow.docker(
            "run",
            "--detach",
            "--user",
            as_user,
            BASE_IMAGE,
            "sh",
            "-c",
            f"({FORK.replace('sleep 5', 'sleep 60')}); exec sleep 60",
        )
    ).strip()
    assert until(lambda: "can't fork" in narrow.docker("logs", bomb).stderr, 60)
    # Each needs a thread of dockerd.
    with ThreadPoolExecutor(20) as pool:
        save = ("save", BASE_IMAGE, "--output")
        for saved in pool.map(
            lambda n: narrow.docker(*save, str(narrow.folder / f"{n}.tar")), range(20)
        ):
            passed(saved)
    passed(narrow.docker("rm", "--force", bomb))
    passed(run_step(narrow, "true"))
    assert state(narrow) == started
    output = run("docker", "logs", narrow.container("daemon")).stderr
    assert f"the setting is 16384, builds have {HOST_PROCESSES - 512}" in output
