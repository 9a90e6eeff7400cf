"""The cache's limits and the janitor, on daemons whose disk is a small file system of their own."""

from __future__ import annotations

import re
import secrets
import subprocess
import time

import pytest

from tests.engine.conftest import (
    BASE_IMAGE,
    Builder,
    NewBuilder,
    NewDisk,
    passed,
    run,
    until,
)
from tests.engine.figures import LONG, record

# As setup-buildx-action names what a killed job leaves running.
LOST_BUILDER = "buildx_buildkit_builder-0f2f6a8e-9d2c-4b1e-8a57-3c4d5e6f7a8b0"
DISK_MIB = 1600
LAYER_MIB = 40
# Ten times the disk in the long version, one and a half in the short one.
BUILDS = (10 if LONG else 1.5) * DISK_MIB // LAYER_MIB


def janitor_log(builder: Builder) -> str:
    return passed(run("docker", "logs", builder.container("janitor")))


def names(builder: Builder, kind: str, *options: str, shown: str = "{{.Name}}") -> set[str]:
    listed = passed(builder.docker(kind, "ls", "--format", shown, *options))
    return set(listed.split())


def build_random(builder: Builder, tag: str, mib: int) -> subprocess.CompletedProcess[str]:
    """Build an image with a layer of so many MiB that no other build has."""
    dockerfile = (
        f"FROM {BASE_IMAGE}\n"
        f"RUN echo {secrets.token_hex(8)} && dd if=/dev/urandom of=/layer bs=1M count={mib}\n"
    )
    return builder.docker("build", "--quiet", "--tag", tag, "-", input=dockerfile)


@pytest.fixture(scope="module")
def tidied(new_builder: NewBuilder) -> Builder:
    """A builder whose janitor finds things old after seconds."""
    builder = new_builder(leftoverAge="15s", imageAge="30s", keepImages=["kept/*:v?", BASE_IMAGE])
    builder.up()
    builder.load_base()
    return builder


def test_a_loaded_image_counts_from_when_it_came(tidied: Builder) -> None:
    """`docker load` keeps the day on which an image was made, and notes none of its own."""
    passed(run("docker", "tag", BASE_IMAGE, "loaded:1"))
    tidied.load("loaded:1")
    passed(run("docker", "image", "rm", "loaded:1"))
    time.sleep(12)
    assert "loaded" in names(tidied, "image", shown="{{.Repository}}")
    assert until(lambda: "loaded" not in names(tidied, "image", shown="{{.Repository}}"), 60)


def test_what_jobs_leave_goes_by_age_and_what_is_used_stays(tidied: Builder) -> None:
    keep = ("--label", "docker-build-machine.keep=yes")

    def make(*arguments: str) -> None:
        passed(tidied.docker(*arguments))

    build = passed(build_random(tidied, "moved", 1))
    untagged = build.strip()
    passed(build_random(tidied, "moved", 1))
    for tag in ("old:1", "kept/it:v1", "kept/it:other", "used:1"):
        passed(build_random(tidied, tag, 1))
    make("run", "--detach", "--name", "running", "used:1", "sleep", "600")
    make("run", "--name", "stopped", "--volume", "/with-it", BASE_IMAGE, "true")
    make("create", "--name", "never-started", BASE_IMAGE, "true")
    make("run", "--name", "labelled", *keep, BASE_IMAGE, "true")
    for name in (LOST_BUILDER, "buildx_buildkit_mine0"):
        make("run", "--detach", "--name", name, "--volume", f"{name}_state:/var/lib/buildkit",
             BASE_IMAGE, "sleep", "600")  # fmt: skip
    make("volume", "create", "named")
    make("network", "create", "unused")
    make("network", "create", *keep, "unused-labelled")
    make("volume", "create")

    def cleared() -> bool:
        return "old:1" not in names(tidied, "image", shown="{{.Repository}}:{{.Tag}}")

    assert until(cleared, 90), janitor_log(tidied)
    time.sleep(10)
    assert names(tidied, "container", "--all", shown="{{.Names}}") == {
        "running", "labelled", "buildx_buildkit_mine0",
    }  # fmt: skip
    assert names(tidied, "volume") == {"named", "buildx_buildkit_mine0_state"}
    networks = names(tidied, "network")
    assert "unused-labelled" in networks
    assert "unused" not in networks
    images = names(tidied, "image", shown="{{.Repository}}:{{.Tag}}")
    assert images == {"kept/it:v1", "used:1", BASE_IMAGE}
    assert tidied.docker("image", "inspect", untagged).returncode
    said = janitor_log(tidied)
    for kind in ("container", "network", "untagged image", "anonymous volume", "image"):
        assert f"{kind} " in said
    assert re.search(r" and [1-9] more", said)


def test_the_cache_outlives_the_images(tidied: Builder) -> None:
    tidied.build("again")
    gone = until(lambda: "again" not in names(tidied, "image", shown="{{.Repository}}"), 90)
    assert gone, janitor_log(tidied)
    assert tidied.build("again").count("CACHED") == 3


def test_builds_of_many_times_the_disk_never_fail_for_space(
    new_builder: NewBuilder, new_disk: NewDisk
) -> None:
    builder = new_builder(cacheSize="40%", minFreeSpace="30%", keepImages=[BASE_IMAGE])
    builder.put_cache_on(new_disk(DISK_MIB))
    builder.up()
    builder.load_base()
    failed = []
    least = DISK_MIB
    for n in range(int(BUILDS)):
        result = build_random(builder, f"job:{n}", LAYER_MIB)
        if result.returncode:
            failed.append(result.stderr)
        least = min(least, free_mib(builder))
    record(
        f"builds of {LAYER_MIB} MiB each on a disk of {DISK_MIB} MiB",
        int(BUILDS),
        failed=len(failed),
        least_MiB_free=least,
    )
    assert not failed, janitor_log(builder)
    assert least > 0
    assert "the disk is nearly full: removed" in janitor_log(builder)


def test_a_cache_larger_than_its_disk_is_told_before_the_daemon_starts(
    new_builder: NewBuilder, new_disk: NewDisk
) -> None:
    builder = new_builder(cacheSize="50GB", minFreeSpace="100MB")
    builder.put_cache_on(new_disk(300))
    said = builder.pulumi("up")
    assert said.returncode != 0
    assert "cacheSize = '50GB' and minFreeSpace = '100MB' are 50.1 GB together" in said.stdout
    assert "Traceback" not in said.stdout
    assert run("docker", "inspect", builder.container("daemon")).returncode != 0


def free_mib(builder: Builder) -> int:
    shown = passed(run("docker", "exec", builder.container("janitor"), "df", "-Pm", "/data"))
    return int(shown.splitlines()[1].split()[3])
