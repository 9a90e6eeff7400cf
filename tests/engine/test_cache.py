"""The cache's limits and the janitor, on daemons with a small file system of their own."""

from __future__ import annotations

import json
import re
import secrets
import time
from dataclasses import dataclass

import pytest

from client.buildkit import connected
from client.history import History, Record
from components.layout import DATA_DIRECTORY
from tests.engine.conftest import (
    AS_ROOT,
    BASE_IMAGE,
    OLDER_DAEMON_IMAGE,
    Builder,
    NewBuilder,
    NewDisk,
    Result,
    passed,
    run,
    until,
)
from tests.engine.figures import LONG, record

# The name that setup-buildx-action gives to what a killed job leaves running.
LOST_BUILDER = "buildx_buildkit_builder-0f2f6a8e-9d2c-4b1e-8a57-3c4d5e6f7a8b0"
DISK_MIB = 1600
LAYER_MIB = 40
# The long version builds layers of ten times the disk, the short one of one and a half times.
BUILDS = int((10 if LONG else 1.5) * DISK_MIB // LAYER_MIB)


# The base image without its labels, like most images.
PLAIN = "plain/base:1"


def janitor_log(builder: Builder) -> str:
    return passed(run("docker", "logs", builder.container("janitor")))


def load_plain(builder: Builder) -> None:
    archive = builder.folder / "plain.tar"
    container = passed(run("docker", "create", BASE_IMAGE)).strip()
    passed(run("docker", "export", "--output", str(archive), container))
    passed(run("docker", "rm", "--volumes", container))
    passed(builder.docker("import", "--change", 'CMD ["sh"]', str(archive), PLAIN))
    archive.unlink()
    inspected = json.loads(passed(builder.docker("image", "inspect", PLAIN)))[0]
    assert not inspected["Config"].get("Labels")


def names(builder: Builder, kind: str, *options: str, shown: str = "{{.Name}}") -> set[str]:
    listed = passed(builder.docker(kind, "ls", "--format", shown, *options))
    return set(listed.split())


def build_random(builder: Builder, tag: str, mib: int) -> Result:
    """Build an image with a new random layer of so many MiB; without a name for an empty tag."""
    dockerfile = (
        f"FROM {PLAIN}\n"
        f"RUN echo {secrets.token_hex(8)} && dd if=/dev/urandom of=/layer bs=1M count={mib}\n"
    )
    named = ("--tag", tag) if tag else ()
    return builder.docker("build", "--quiet", *named, "-", input=dockerfile)


@dataclass
class Tidied:
    """A builder whose janitor treats things as old after seconds, and what jobs left there."""

    builder: Builder
    untagged: str
    """Id of an image whose tag has moved to another one."""
    volume: str
    """Name of a volume without a name of its own."""

    @classmethod
    def of(cls, builder: Builder) -> Tidied:
        builder.up()
        load_plain(builder)
        passed(builder.docker("run", "--name", "stopped", "--volume", "/with-it", PLAIN, "true"))
        # containerd's store keeps no image that lost its last tag to another one.
        moved = passed(build_random(builder, "moved", 1)).strip()
        passed(build_random(builder, "moved", 1))
        return cls(builder, moved, passed(builder.docker("volume", "create")).strip())


@pytest.fixture(scope="module")
def older(new_builder: NewBuilder) -> Tidied:
    """Its things become old while the other tests run."""
    return Tidied.of(new_builder(daemonImage=OLDER_DAEMON_IMAGE, leftoverAge="15s", imageAge="30s"))


@pytest.fixture(scope="module")
def recent(new_builder: NewBuilder, older: Tidied) -> Tidied:
    return Tidied.of(
        new_builder(leftoverAge="15s", imageAge="30s", keepImages=["kept/*:v?", PLAIN, BASE_IMAGE])
    )


@pytest.fixture(scope="module")
def tidied(recent: Tidied) -> Builder:
    return recent.builder


def test_leftovers_of_jobs_are_removed_by_age_and_what_is_used_stays(recent: Tidied) -> None:
    tidied = recent.builder
    keep = ("--label", "docker-build-machine.keep=yes")

    def make(*arguments: str) -> None:
        passed(tidied.docker(*arguments))

    tidied.load_base()
    tidied.build("again")
    untagged = passed(build_random(tidied, "", 1)).strip()
    for tag in ("old:1", "kept/it:v1", "kept/it:other", "used:1"):
        passed(build_random(tidied, tag, 1))
    make("run", "--detach", "--name", "running", "used:1", "sleep", "600")
    make("create", "--name", "never-started", PLAIN, "true")
    make("run", "--name", "labelled", *keep, PLAIN, "true")
    for name in (LOST_BUILDER, "buildx_buildkit_mine0"):
        make(
            "run",
            "--detach",
            "--name",
            name,
            "--volume",
            f"{name}_state:/var/lib/buildkit",
            PLAIN,
            "sleep",
            "600",
        )
    make("volume", "create", "named")
    make("network", "create", "unused")
    make("network", "create", *keep, "unused-labelled")

    def tags() -> set[str]:
        return names(tidied, "image", shown="{{.Repository}}:{{.Tag}}")

    # `docker load` keeps the day on which an image was made, and records no other. A loaded image
    # counts from when it came.
    passed(run("docker", "tag", BASE_IMAGE, "loaded:1"))
    tidied.load("loaded:1")
    passed(run("docker", "image", "rm", "loaded:1"))
    time.sleep(12)
    assert "loaded:1" in tags()
    assert until(lambda: not {"old:1", "loaded:1"} & tags(), 90), janitor_log(tidied)
    time.sleep(10)
    assert names(tidied, "container", "--all", shown="{{.Names}}") == {
        "running",
        "labelled",
        "buildx_buildkit_mine0",
    }
    assert names(tidied, "volume") == {"named", "buildx_buildkit_mine0_state"}
    networks = names(tidied, "network")
    assert "unused-labelled" in networks
    assert "unused" not in networks
    assert tags() - {BASE_IMAGE} == {"kept/it:v1", "used:1", PLAIN}
    for gone in (recent.untagged, untagged):
        assert tidied.docker("image", "inspect", gone).returncode
    output = janitor_log(tidied)
    for kind in ("container", "network", "untagged image", "anonymous volume", "image"):
        assert f"{kind} " in output
    assert tidied.build("again").count("CACHED") == 3, "the cache outlives the images"
    # A janitor that removes something is healthy, so it must have nothing left to remove.
    passed(tidied.docker("image", "rm", "again"))


def test_an_older_daemon_is_tidied_too(older: Tidied) -> None:
    builder = older.builder
    assert until(lambda: not names(builder, "image", shown="{{.Repository}}"), 90)
    assert until(lambda: not names(builder, "container", "--all", shown="{{.Names}}"))
    assert older.volume not in names(builder, "volume")
    assert builder.docker("image", "inspect", older.untagged).returncode
    assert "commands that failed" not in janitor_log(builder)
    passed(builder.health("janitor"))


@dataclass
class Stuck:
    """A builder with an anonymous volume that its janitor cannot remove."""

    builder: Builder
    volume: str
    files: str
    """The path on this machine of what is in the way."""


@pytest.fixture(scope="module")
def stuck(tidied: Builder) -> Stuck:
    """A volume that the janitor cannot remove; it has been healthy until then."""
    passed(tidied.health("janitor"))
    volume = passed(tidied.docker("volume", "create")).strip()
    # The rootless daemon cannot remove files of the host's root.
    files = f"{tidied.mountpoint('cache')}/volumes/{volume}/_data/stuck"
    passed(run(*AS_ROOT, "install", "-d", "-m", "0700", f"{files}/of-root"))
    return Stuck(tidied, volume, files)


def test_a_builder_is_not_ready_when_its_janitor_cannot_remove(stuck: Stuck) -> None:
    """`pulumi up` fails with this step: see the test of a refused configuration of sshd."""
    tidied = stuck.builder
    assert until(lambda: tidied.health("janitor").returncode, 90)
    assert "docker volume rm: " in tidied.health("janitor").stdout
    refused = tidied.readiness(5)
    assert refused.returncode
    assert "builder-janitor does not pass its health check: docker volume rm: " in refused.stderr


# containerd's store writes three times as much; see "The image store" in docs/cache.md.
SHARES = {
    "overlay2": ({"cacheSize": "40%", "minFreeSpace": "30%"}, BUILDS),
    "containerd": ({"cacheSize": "30%", "minFreeSpace": "60%"}, BUILDS // 3),
}


@pytest.mark.parametrize("store", SHARES if LONG else ["overlay2"])
def test_builds_of_many_times_the_disk_never_fail_for_space(
    new_builder: NewBuilder, new_disk: NewDisk, store: str
) -> None:
    shares, builds = SHARES[store]
    builder = new_builder(imageStore=store, keepImages=[PLAIN], **shares)
    builder.put_cache_on(new_disk(DISK_MIB))
    builder.up()
    load_plain(builder)
    failed = []
    least = DISK_MIB
    for n in range(builds):
        result = build_random(builder, f"job:{n}", LAYER_MIB)
        if result.returncode:
            failed.append(result.stderr)
        least = min(least, free_mib(builder))
    record(
        f"builds of {LAYER_MIB} MiB each on a disk of {DISK_MIB} MiB, {store}",
        builds,
        failed=len(failed),
        least_MiB_free=least,
    )
    assert not failed, janitor_log(builder)
    assert least > 0
    report = r"the disk is nearly full: removed image job:\d+ and \d+ more"
    assert re.search(report, janitor_log(builder)), janitor_log(builder)

    def remembered() -> list[Record]:
        """What BuildKit remembers of builds, newest first; `docker buildx history ls` lists 50."""
        into = ("docker", "exec", "--interactive", "--user", "1000:1000")
        dial = [*into, builder.container("daemon"), "docker", "buildx", "dial-stdio"]
        with connected(dial) as buildkit:
            return sorted(History(buildkit).records(), key=lambda record: -record.started)

    def has_old(records: list[Record]) -> bool:
        """Whether a build ended in a second before the last 50 started: buildx compares seconds."""
        ends = [record.completed for record in records[50:]]
        return any(end is not None and int(end) < int(records[49].started) for end in ends)

    before = remembered()
    record_gone = r"build record \w+"
    assert has_old(before) or re.search(record_gone, janitor_log(builder))
    # What the janitor would remove before records.
    for kind in ("image", "builder"):
        passed(builder.docker(kind, "prune", "--all", "--force"))
    fill = ("dd", "if=/dev/zero", f"of={DATA_DIRECTORY}/fill", "bs=1M")
    passed(builder.in_daemon(*fill, f"count={max(free_mib(builder) - 200, 1)}"))
    assert until(lambda: not has_old(remembered()), 90), janitor_log(builder)
    assert until(lambda: re.search(record_gone, janitor_log(builder)), 60), janitor_log(builder)
    kept = {record.ref for record in remembered()}
    assert {record.ref for record in before[:50]} <= kept


def test_a_cache_larger_than_its_disk_is_refused_before_the_daemon_starts(
    new_builder: NewBuilder, new_disk: NewDisk
) -> None:
    builder = new_builder(cacheSize="50GB", minFreeSpace="100MB")
    builder.put_cache_on(new_disk(300))
    result = builder.pulumi("up")
    assert result.returncode != 0
    assert "cacheSize = '50GB' and minFreeSpace = '100MB' are 50.1 GB together" in result.stdout
    assert "Traceback" not in result.stdout
    assert run("docker", "inspect", builder.container("daemon")).returncode != 0


def test_the_status_shows_a_janitor_that_cannot_remove_until_it_can(stuck: Stuck) -> None:
    """Some tests later, because Docker needs three checks, 30 seconds apart, to report it."""
    tidied = stuck.builder
    status = ("docker", "inspect", "--format", "{{.State.Health.Status}}")
    janitor = tidied.container("janitor")
    assert until(lambda: run(*status, janitor).stdout.strip() == "unhealthy", 120)
    report = tidied.client("status")
    assert report.returncode == 1
    assert f"{janitor} is running (unhealthy)" in report.stdout
    assert re.search(r"free; no forecast yet: measured \d+ times within 0 hours", report.stdout)
    failed = r"commands that failed: \d+, the last: docker volume rm: "
    assert re.search(failed, janitor_log(tidied))
    passed(run(*AS_ROOT, "rm", "-r", stuck.files))
    assert until(lambda: not tidied.health("janitor").returncode, 90)
    assert passed(tidied.readiness(10)) == "ready\n"
    assert stuck.volume not in names(tidied, "volume")


def test_a_janitor_that_cannot_reach_the_daemon_is_unhealthy(tidied: Builder) -> None:
    passed(run("docker", "stop", tidied.container("daemon")))
    assert until(lambda: tidied.health("janitor").returncode, 90)
    assert "docker container ls: " in tidied.health("janitor").stdout
    report = r"commands that failed: \d+, the last: docker .* connect to the [Dd]ocker"
    assert until(lambda: re.search(report, janitor_log(tidied)), 90)
    passed(run("docker", "start", tidied.container("daemon")))
    assert until(lambda: not tidied.health("janitor").returncode, 60)
    reports = [line for line in janitor_log(tidied).splitlines() if not line.endswith(" GB free")]
    assert "works again" in reports[-1]


def free_mib(builder: Builder) -> int:
    shown = passed(builder.inside("janitor", "df", "-Pm", "/data"))
    return int(shown.splitlines()[1].split()[3])
