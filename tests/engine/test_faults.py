"""Faults during a build; after each fault the builder recovers by itself.

Each fault happens to a builder with a warm cache. Afterwards the next build must take every step
from the cache, and earlier images must still be complete.
"""

from __future__ import annotations

import os
import random
import secrets
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.engine.conftest import (
    AS_ROOT,
    BASE_IMAGE,
    DAEMON_IMAGE,
    GATEWAY_IMAGE,
    ROOT,
    Builder,
    Disk,
    NewBuilder,
    NewDisk,
    passed,
    run,
    until,
)
from tests.engine.figures import LONG, record

SMALL = {"cacheSize": "40%", "minFreeSpace": "100MB"}
TRIALS = 5 if LONG else 1
DATA = "/home/rootless/.local/share/docker"


@pytest.fixture(scope="module")
def disk(new_disk: NewDisk) -> Disk:
    return new_disk(1000)


@pytest.fixture(scope="module")
def warm(new_builder: NewBuilder, disk: Disk) -> Builder:
    """A builder with a warm cache on a disk of its own."""
    builder = new_builder(**SMALL, keepImages=["*"])
    builder.put_cache_on(disk)
    builder.up()
    builder.load_base()
    builder.build()
    return builder


def kill(*pids: int) -> None:
    for pid in pids:
        killed = run(*AS_ROOT, "kill", "-KILL", str(pid))
        assert killed.returncode == 0 or "No such process" in killed.stderr


def processes(builder: Builder, role: str, name: str) -> list[int]:
    """Process ids, on this machine, of the programs with that name in a container."""
    listed = passed(run("docker", "top", builder.container(role), "-eo", "pid,comm"))
    return [int(pid) for pid, comm in map(str.split, listed.splitlines()[1:]) if comm == name]


def first_process(builder: Builder, role: str) -> int:
    state = ("docker", "inspect", "--format", "{{.State.Pid}}", builder.container(role))
    return int(passed(run(*state)))


def seconds_to_first_build(builder: Builder) -> float:
    """Seconds until a build works; it takes every step from the cache, which must be complete."""
    start = time.monotonic()
    # A gateway that is down refuses clients; a daemon that is down lets them wait.
    assert until(lambda: "200 OK" in builder.ping().stdout, 60)
    output = builder.build()
    took = time.monotonic() - start
    assert output.count("CACHED") == 3, output
    assert passed(builder.docker("run", "--rm", "built", "cat", "/built")) == "hello\n"
    dockerfile = (
        f"FROM {BASE_IMAGE}\nRUN --mount=type=cache,target=/kept grep visit /kept/visits && "
        f"echo {secrets.token_hex(4)}\n"
    )
    passed(builder.docker("build", "-", input=dockerfile))
    return took


def try_fault(builder: Builder, what: str, strike: Callable[[], None]) -> None:
    times = []
    for _ in range(TRIALS):
        builder.ssh_end()
        with builder.build_in_flight(5):
            strike()
            builder.ssh_end()
            times.append(seconds_to_first_build(builder))
    record(what, TRIALS, recovered=len(times), seconds_to_first_build_at_most=max(times))


def test_the_daemon_is_killed(warm: Builder) -> None:
    try_fault(warm, "kill -9 of dockerd", lambda: kill(*processes(warm, "daemon", "dockerd")))


def test_everything_in_the_daemons_container_is_killed(warm: Builder) -> None:
    def strike() -> None:
        kill(first_process(warm, "daemon"))

    try_fault(warm, "kill -9 of the daemon's container", strike)


def test_the_gateway_is_killed(warm: Builder) -> None:
    def strike() -> None:
        kill(first_process(warm, "gateway"))

    try_fault(warm, "kill -9 of the gateway's container", strike)


def test_both_are_killed(warm: Builder) -> None:
    def strike() -> None:
        kill(first_process(warm, "daemon"), first_process(warm, "gateway"))

    try_fault(warm, "kill -9 of both containers", strike)


def test_stale_pid_and_socket_files_are_left(warm: Builder) -> None:
    """Stale files as after a crash, and in the places that other releases use."""

    def strike() -> None:
        script = (
            "for folder in /run/user /run/xdg /run/xdg/docker /var/run; do "
            "  for name in docker.pid docker.sock.away containerd/containerd.pid; do"
            "    mkdir -p $folder/containerd 2>/dev/null; echo 1 2>/dev/null >$folder/$name || :; "
            "  done; "
            "done; ls -A /run/user"
        )
        assert "docker.pid" in passed(warm.in_daemon("sh", "-c", script))
        kill(*processes(warm, "daemon", "dockerd"))

    try_fault(warm, "stale pid and socket files after kill -9", strike)


def test_the_disk_is_full(warm: Builder) -> None:
    filler = f"{DATA}/filler"
    times = []
    for _ in range(TRIALS):
        with warm.build_in_flight(5):
            warm.in_daemon("sh", "-c", f"dd if=/dev/zero of={filler} bs=1M; sync")
            dockerfile = f"FROM {BASE_IMAGE}\nRUN dd if=/dev/zero of=/x bs=1M count=9 && sync /x\n"
            refused = warm.docker("build", "--no-cache", "-", input=dockerfile)
            assert "No space left" in refused.stderr or "no space left" in refused.stderr
        passed(warm.in_daemon("sh", "-c", f"rm {filler}"))
        times.append(seconds_to_first_build(warm))
    record(
        "full disk, until space is made",
        TRIALS,
        recovered=len(times),
        seconds_to_first_build_at_most=max(times),
    )


def test_a_power_cut_leaves_only_the_disk(
    warm: Builder, disk: Disk, new_builder: NewBuilder, new_disk: NewDisk, tmp_path: Path
) -> None:
    """The disk is copied at one moment of a build; a new host starts with the copy."""
    mounted = warm.mountpoint("cache")
    times = []
    for n in range(1 if not LONG else 3):
        copy = tmp_path / f"{n}.ext4"
        with warm.build_in_flight(5):
            time.sleep(random.uniform(0, 4))
            passed(run(*AS_ROOT, "fsfreeze", "--freeze", mounted))
            try:
                shutil.copy(disk.image, copy)
            finally:
                passed(run(*AS_ROOT, "fsfreeze", "--unfreeze", mounted))
        after = new_builder(**SMALL)
        after.put_cache_on(new_disk(copy))
        after.up()
        times.append(seconds_to_first_build(after))
    record(
        "disk copied in the middle of a build, taken up by a new builder",
        len(times),
        recovered=len(times),
        seconds_to_first_build_at_most=max(times),
    )


def mend(builder: Builder) -> None:
    """What `make up` does before each update."""
    script = (
        "ROOT=$PWD STATE=$1 STACK=$2; . scripts/terminal.sh; . scripts/stack.sh; "
        "stack_config=$1/config.yaml; . scripts/interruption.sh; repair_interruption"
    )
    words = ("bash", "-euc", script, "mend", str(builder.folder), builder.stack)
    passed(run(*words, env=builder.env, cwd=ROOT))


def test_pulumi_up_is_killed_and_run_again(new_builder: NewBuilder) -> None:
    """scripts/interruption.sh repairs this; `make up` runs it before each update."""
    builder = new_builder()
    builder.pulumi("preview")
    for trial in range(2 * TRIALS):
        if trial:
            # The first one interrupts a first deployment, all others replace two containers.
            for role in ("gateway", "daemon"):
                run("docker", "rm", "--force", "--volumes", builder.container(role))
            passed(builder.pulumi("refresh"))
        up = subprocess.Popen(
            [
                "pulumi",
                "--non-interactive",
                "up",
                "--stack",
                builder.stack,
                "--yes",
                "--skip-preview",
                "--config-file",
                str(builder.folder / "config.yaml"),
            ],
            env={**os.environ, **builder.env},
            cwd=ROOT,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(random.uniform(1, 8))
        os.killpg(up.pid, signal.SIGKILL)
        up.wait()
        try:
            mend(builder)
            builder.up()
        finally:
            # Plugins have process groups of their own, and end some time after their engine.
            run("pkill", "-KILL", "--session", str(up.pid))
        assert "200 OK" in builder.ping().stdout
    record("pulumi up killed at a random moment", 2 * TRIALS, recovered=2 * TRIALS)


@dataclass
class Host:
    """A Docker engine in its own network namespace: a host that can be rebooted."""

    folder: Path
    """Files that a reboot removes."""
    data: Path
    namespace: str
    engine: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.folder}/docker.sock"

    def inside(self, *command: str) -> tuple[str, ...]:
        return (*AS_ROOT, "nsenter", f"--net=/run/netns/{self.namespace}", *command)

    def docker(self, *arguments: str) -> str:
        return passed(run("docker", "--host", self.url, *arguments))

    def start(self) -> None:
        log = (self.data.parent / "log").open("a")
        self.engine = subprocess.Popen(
            self.inside(
                "dockerd",
                "--host",
                self.url,
                "--data-root",
                str(self.data),
                "--exec-root",
                f"{self.folder}/exec",
                "--pidfile",
                f"{self.folder}/pid",
            ),
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert until(lambda: run("docker", "--host", self.url, "info").returncode == 0, 60)

    def crash(self) -> None:
        """Kill everything at once, as a reset does, and remove what a reset removes."""
        ids = self.docker("ps", "--quiet").split()
        inits = self.docker("inspect", "--format", "{{.State.Pid}}", *ids).split() if ids else []
        engine = run("pgrep", "-f", str(self.folder)).stdout.split()
        kill(*[int(pid) for pid in [*engine, *inits]])
        self.gone()

    def stop(self) -> None:
        if self.engine and self.engine.poll() is None:
            self.engine.terminate()
            self.engine.wait(60)
        self.gone()

    def gone(self) -> None:
        if self.engine:
            self.engine.wait()
        assert until(lambda: not run("pgrep", "-f", str(self.folder)).stdout)
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in reversed(mounts):
            if mount == str(self.data) or mount.startswith((f"{self.folder}/", f"{self.data}/")):
                passed(run(*AS_ROOT, "umount", mount))
        passed(run(*AS_ROOT, "find", str(self.folder), "-mindepth", "1", "-delete"))


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    # The paths of dockerd's own sockets must be shorter than 108 characters.
    folder = Path("/run") / f"test-host-{secrets.token_hex(3)}"
    passed(run(*AS_ROOT, "mkdir", str(folder)))
    data = tmp_path / "data"
    data.mkdir()
    host = Host(folder, data, folder.name)
    passed(run(*AS_ROOT, "ip", "netns", "add", host.namespace))
    try:
        passed(run(*host.inside("ip", "link", "set", "lo", "up")))
        host.start()
        for image in (DAEMON_IMAGE, GATEWAY_IMAGE):
            archive = tmp_path / "image.tar"
            passed(run("docker", "save", "--output", str(archive), image))
            host.docker("load", "--input", str(archive))
            archive.unlink()
        yield host
    finally:
        host.stop()
        run(*AS_ROOT, "ip", "netns", "delete", host.namespace)
        run(*AS_ROOT, "rm", "-r", "--one-file-system", str(folder), str(data))


def test_the_host_reboots_and_its_network_loses_packets(
    new_builder: NewBuilder, host: Host
) -> None:
    builder = new_builder(host=host.url)
    builder.through = host.inside()
    builder.up()
    builder.load_base()
    builder.build()
    times = []
    for _ in range(TRIALS):
        slow = threading.Thread(
            target=lambda: builder.docker(
                "build", "--no-cache", "-", input=f"FROM {BASE_IMAGE}\nRUN sleep 5\n"
            )
        )
        slow.start()
        time.sleep(3)
        host.crash()
        slow.join()
        builder.ssh_end()
        start = time.monotonic()
        host.start()
        assert until(lambda: "200 OK" in builder.ping().stdout, 90)
        seconds_to_first_build(builder)
        times.append(time.monotonic() - start)
    record(
        "host reset and started again",
        TRIALS,
        recovered=len(times),
        seconds_to_first_build_at_most=max(times),
    )

    loss = ("INPUT", "-p", "tcp", "--match", "statistic", "--mode", "random", "--probability")
    for percent in (2, 10):
        rule = (*loss, str(percent / 100), "--jump", "DROP")
        passed(run(*host.inside("iptables", "--insert", *rule)))
        took = seconds_to_first_build(builder)
        passed(run(*host.inside("iptables", "--delete", *rule)))
        record(
            f"{percent} % of the packets lost", 1, recovered=1, seconds_to_first_build_at_most=took
        )

    cut = ("INPUT", "-p", "tcp", "--jump", "DROP")
    build = threading.Thread(target=builder.build)
    build.start()
    passed(run(*host.inside("iptables", "--insert", *cut)))
    time.sleep(8)
    passed(run(*host.inside("iptables", "--delete", *cut)))
    build.join(60)
    assert not build.is_alive()
    record("network gone for 8 s in the middle", 1, recovered=1)
