"""Replacing the daemon: between two real releases, with running builds, and refused updates."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.engine.conftest import (
    BASE_IMAGE,
    DAEMON_IMAGE,
    OLDER_DAEMON_IMAGE,
    PING,
    Builder,
    NewBuilder,
    passed,
    run,
    until,
)
from tests.engine.figures import record


@pytest.fixture(scope="module")
def builder(new_builder: NewBuilder) -> Builder:
    """A builder with the older daemon and a warm cache."""
    older = new_builder(daemonImage=OLDER_DAEMON_IMAGE, drainTime="2m")
    older.up()
    older.load_base()
    older.build()
    return older


@contextmanager
def waiting_client(builder: Builder) -> Iterator[subprocess.Popen[str]]:
    """A client that sends a ping over its own connection."""
    with builder.connection(
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as client:
        assert client.stdin
        client.stdin.write(PING)
        client.stdin.close()
        yield client


def daemon_version(builder: Builder) -> str:
    return passed(builder.docker("version", "--format", "{{.Server.Version}}")).strip()


def test_an_upgrade_waits_for_builds_and_keeps_the_cache(builder: Builder) -> None:
    before = daemon_version(builder)
    builder.settings["daemonImage"] = DAEMON_IMAGE
    upgrade = threading.Thread(target=builder.up)
    away = ("ls", "/run/user/docker.sock.away")
    with builder.build_in_flight(20) as in_flight:
        upgrade.start()
        assert until(lambda: builder.inside("daemon", *away).returncode == 0, 30)
        with waiting_client(builder) as client:
            upgrade.join()
            assert client.stdout
            assert client.stderr
            assert "200 OK" in client.stdout.read()
            assert "waiting until it is back" in client.stderr.read()
    passed(in_flight[0])
    assert daemon_version(builder) != before
    images = passed(builder.docker("image", "ls", "--format", "{{.Repository}}"))
    assert {"built", "slow"} <= set(images.split())
    kept = f"FROM {BASE_IMAGE}\nRUN --mount=type=cache,target=/kept grep -c visit /kept/visits\n"
    passed(builder.docker("build", "-", input=kept))
    # BuildKit decides which steps run again: some releases compute another cache key for a step.
    steps = builder.build().count("CACHED")
    record(f"upgrade from {before} to {daemon_version(builder)}", 1, steps_cached_of_3=steps)
    assert builder.build().count("CACHED") == 3


def test_a_downgrade_is_refused_before_anything_is_touched(builder: Builder) -> None:
    daemon = builder.container_id("daemon")
    builder.settings["daemonImage"] = OLDER_DAEMON_IMAGE
    result = builder.pulumi("up")
    builder.settings["daemonImage"] = DAEMON_IMAGE
    assert result.returncode != 0
    assert f"daemonImage = {OLDER_DAEMON_IMAGE}: it is Docker " in result.stdout
    assert "nothing was changed" in result.stdout
    assert builder.container_id("daemon") == daemon
    assert "200 OK" in builder.ping().stdout
    builder.up()
    assert builder.container_id("daemon") == daemon


def test_another_storage_driver_is_refused(builder: Builder) -> None:
    """The note is changed to what a daemon with another driver would have left."""
    note = "/home/rootless/.local/share/docker/docker-build-machine.note"
    kept = passed(builder.in_daemon("cat", note))
    assert kept.split()[1] == "overlay2"
    passed(builder.in_daemon("sh", "-c", f"echo 20.10 vfs >{note}"))
    # The same image with another name.
    other = f"localhost/{builder.stack}:daemon"
    passed(run("docker", "tag", DAEMON_IMAGE, other))
    builder.settings["daemonImage"] = other
    result = builder.pulumi("up")
    builder.settings["daemonImage"] = DAEMON_IMAGE
    passed(run("docker", "image", "rm", other))
    passed(builder.in_daemon("sh", "-c", f"echo {kept} >{note}"))
    assert result.returncode != 0
    assert "the cache was written with the storage driver vfs, which neither " in result.stdout
    assert "200 OK" in builder.ping().stdout


def test_builds_that_take_longer_than_the_drain_are_cut_with_a_message(builder: Builder) -> None:
    builder.settings |= {"cpus": "2", "drainTime": "3s"}
    # Much longer than an `up` takes on a busy machine; it is cut.
    with builder.build_in_flight(90) as in_flight:
        output = builder.up()
    assert in_flight[0].returncode != 0
    assert "connections are still open after 3 s (drainTime); they are cut" in output
    assert builder.build().count("CACHED") == 3


def test_a_drain_does_not_wait_for_ended_clients(builder: Builder) -> None:
    """The engine keeps connections open whose clients have ended or were killed."""
    builder.settings |= {"cpus": "1.5", "drainTime": "1h"}
    passed(builder.docker("run", "--rm", BASE_IMAGE, "true"))
    passed(builder.docker("run", "--rm", "--interactive", BASE_IMAGE, "true"))
    socket = builder.folder / "forwarded.sock"
    with builder.connection("-L", f"{socket}:/run/builder/docker.sock"):
        assert until(socket.exists)
        passed(run("docker", "--host", f"unix://{socket}", "run", "--rm", BASE_IMAGE, "true"))
        with builder.docker_process("run", "--rm", "--name", "left", BASE_IMAGE, "sleep", "99"):
            assert until(lambda: "left" in builder.docker("ps").stdout)
        output = builder.up()
    assert "open connections" not in output


def test_the_time_to_drain_changes_without_draining(builder: Builder) -> None:
    daemon = builder.container_id("daemon")
    builder.settings["drainTime"] = "1h"
    start = time.monotonic()
    builder.up()
    assert time.monotonic() - start < 60
    assert builder.container_id("daemon") == daemon
    assert "200 OK" in builder.ping().stdout
