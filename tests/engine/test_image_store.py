"""The setting `imageStore`: both stores build, and a builder changes between them and back."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.engine.conftest import (
    BASE_IMAGE,
    OLDER_DAEMON_IMAGE,
    ROOT,
    Builder,
    NewBuilder,
    Result,
    passed,
    run,
    run_in_image,
    until,
)

NOTE = "/home/rootless/.local/share/docker/docker-build-machine.note"


@pytest.fixture(scope="module")
def builder(new_builder: NewBuilder) -> Builder:
    """A new builder with containerd's store and a warm cache."""
    new = new_builder(cacheSize="1GB", imageStore="containerd")
    new.up()
    new.load_base()
    assert new.build().count("CACHED") == 0
    return new


def driver(builder: Builder) -> str:
    return passed(builder.docker("info", "--format", "{{.Driver}}")).strip()


def images(builder: Builder) -> set[str]:
    return set(passed(builder.docker("image", "ls", "--format", "{{.Repository}}")).split())


def free(builder: Builder) -> Result:
    return run(str(ROOT / "scripts" / "cache"), "free", builder.alias)


def test_a_builder_uses_containerds_store(builder: Builder) -> None:
    assert driver(builder) == "overlayfs"
    assert passed(builder.in_daemon("cat", NOTE)).split()[1] == "overlayfs"
    assert builder.build().count("CACHED") == 3
    assert "unchanged" in builder.up("--expect-no-changes")


def test_the_cache_is_warm_after_a_restart(builder: Builder) -> None:
    passed(run("docker", "restart", builder.container("daemon")))
    assert until(lambda: builder.docker("version").returncode == 0, 60)
    assert builder.build().count("CACHED") == 3


def test_the_cache_stays_below_its_limit(builder: Builder) -> None:
    def status() -> dict[str, Any]:
        return dict(json.loads(builder.client("status", "--json").stdout))

    for number in range(6):
        step = f"RUN echo {number} >/number && dd if=/dev/zero of=/large bs=1M count=300"
        passed(builder.docker("build", "--tag", "large", "-", input=f"FROM {BASE_IMAGE}\n{step}\n"))
    assert status()["cache_cap"] == 10**9
    # BuildKit leaves out what an image shares, here 315 MB, and looks at most once a minute.
    assert until(lambda: status()["cache"] <= 1.32 * 10**9, 200), status()["cache"]


def test_a_change_is_announced_and_the_cache_is_warm_after_a_change_back(
    builder: Builder,
) -> None:
    builder.settings["imageStore"] = "overlay2"
    told = passed(builder.pulumi("preview"))
    assert "imageStore changes from containerd to overlay2: builds begin with a cold" in told
    shown = passed(builder.review("preview"))
    assert "changes the image store from containerd to overlay2: the cache is COLD" in shown
    builder.up()
    assert driver(builder) == "overlay2"
    assert images(builder) == set()
    builder.load_base()
    assert builder.build("other").count("CACHED") == 0
    builder.settings["imageStore"] = "keep"
    builder.up()
    assert driver(builder) == "overlay2"
    assert builder.build("other").count("CACHED") == 3
    builder.settings["imageStore"] = "containerd"
    builder.up()
    assert "built" in images(builder)
    assert "other" not in images(builder)
    assert builder.build().count("CACHED") == 3
    kept = f"FROM {BASE_IMAGE}\nRUN --mount=type=cache,target=/kept grep visit /kept/visits\n"
    passed(builder.docker("build", "-", input=kept))


def test_free_removes_the_data_of_the_other_store(builder: Builder) -> None:
    assert "store     containerd; overlay2 is on the disk too" in builder.client("status").stdout
    daemon = builder.container_id("daemon")
    assert "of the image store overlay2" in passed(free(builder))
    assert "Nothing to free" in passed(free(builder))
    assert builder.build().count("CACHED") == 3
    assert "store     containerd\n" in builder.client("status").stdout
    builder.settings["imageStore"] = "overlay2"
    builder.up()
    assert images(builder) == set()
    assert "of the image store containerd" in passed(free(builder))
    assert "Nothing to free" in passed(free(builder))
    assert builder.container_id("daemon") != daemon
    builder.load_base()
    assert builder.build().count("CACHED") == 0
    assert "The host is as the stack says." in passed(builder.review("drift"))


def test_an_older_daemon_uses_containerds_store_or_is_refused(new_builder: NewBuilder) -> None:
    older = new_builder(daemonImage=OLDER_DAEMON_IMAGE, imageStore="containerd")
    options = ("--entrypoint", "dockerd")
    version = passed(run_in_image(OLDER_DAEMON_IMAGE, "--version", options=options))
    release = re.search(r"version (\d+)\.\d+", version)
    assert release
    if int(release[1]) >= 25:
        older.up()
        assert driver(older) == "overlayfs"
        return
    refused = older.pulumi("up")
    assert refused.returncode
    assert f"is Docker {release[0].split()[1]}, which lacks it; nothing was" in refused.stdout
    assert "set daemonImage to Docker 25.0 or newer, or imageStore to overlay2" in refused.stdout
    assert run("docker", "inspect", older.container("daemon")).returncode
