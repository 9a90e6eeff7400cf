"""The errors of docker on a builder's host that has no docker or does not answer."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from components.docker_host import DockerHost, HostDocker, HostError
from review.host import HostReader
from tests.unit.conftest import KEY


def test_a_machine_without_docker_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "env").symlink_to(shutil.which("env") or "")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match=r"there is no docker on unix:///x.sock .* next: install"):
        HostReader(DockerHost("unix:///x.sock")).inspect("container", "any")


def test_a_host_that_ssh_cannot_reach_is_reported_with_sshs_message(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    docker = HostDocker(DockerHost("ssh://ops@127.0.0.1:1", KEY))
    with pytest.raises(HostError) as report:
        docker.run("version")
    assert "Connection refused" in str(report.value)
    assert "host = ssh://ops@127.0.0.1:1 cannot be reached over SSH" in str(report.value)
    with pytest.raises(HostError):
        HostReader(docker.host).file("any", "/etc/passwd")
