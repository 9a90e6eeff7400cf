"""The decisions of cache/check.sh, on a `docker` that prints what its container would print."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from components.cache import CHECK
from tests.unit.conftest import DISK

IMAGE = "docker:29.9.3-dind-rootless"


def check(tmp_path: Path, store: str, release: str, note: str) -> subprocess.CompletedProcess[str]:
    """Run check.sh for a daemon of this release and a cache with this note."""
    printed = f"{DISK}\nDocker version {release}.2, build 1234567\n{note}"
    (tmp_path / "printed").write_text(printed)
    docker = tmp_path / "docker"
    docker.write_text(f"#!/bin/sh\ncat {tmp_path}/printed\n")
    docker.chmod(0o755)
    return subprocess.run(
        ["sh", "-s", "--", "cache", "/data", "sha256:1", IMAGE, store],
        input=CHECK,
        text=True,
        capture_output=True,
        check=False,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
    )


@pytest.mark.parametrize(
    ("store", "release", "note", "used"),
    [
        ("keep", "29.7", "", "overlay2"),
        ("keep", "28.5", "", "overlay2"),
        ("keep", "20.10", "", "overlay2"),
        ("keep", "29.7", "29.7 overlay2\n", "overlay2"),
        ("keep", "29.7", "20.10 overlay2\n", "overlay2"),
        ("keep", "29.7", "29.7 overlayfs\n", "containerd"),
        ("keep", "28.5", "28.5 overlayfs\n", "containerd"),
        # Of a daemon that never built.
        ("keep", "29.7", "0.0 overlay2\n", "overlay2"),
        ("overlay2", "29.7", "", "overlay2"),
        ("overlay2", "29.7", "29.7 overlayfs\n", "overlay2"),
        ("containerd", "25.0", "", "containerd"),
        ("containerd", "29.7", "29.7 overlay2\n", "containerd"),
    ],
)
def test_the_image_store_comes_from_the_setting_or_the_cache(
    tmp_path: Path, store: str, release: str, note: str, used: str
) -> None:
    result = check(tmp_path, store, release, note)
    assert (result.returncode, result.stdout) == (0, f"{DISK}\n{used}\n"), result.stderr


@pytest.mark.parametrize(
    ("store", "release", "note", "why"),
    [
        ("containerd", "24.0", "", "imageStore = containerd: daemonImage = docker:29.9.3"),
        ("containerd", "20.10", "20.10 overlay2\n", "is Docker 20.10, which lacks it"),
        ("keep", "29.7", "29.7 vfs\n", "the cache was written with the storage driver vfs"),
        ("overlay2", "29.7", "29.7 fuse-overlayfs\n", "imageStore = overlay2: the cache was"),
        ("keep", "28.5", "29.7 overlayfs\n", "it is Docker 28.5, and Docker 29.7 last used"),
    ],
)
def test_a_cache_that_the_daemon_cannot_read_is_refused(
    tmp_path: Path, store: str, release: str, note: str, why: str
) -> None:
    result = check(tmp_path, store, release, note)
    assert (result.returncode, result.stdout) == (1, "")
    assert why in result.stderr
    assert "nothing was changed.\nNext: " in result.stderr
