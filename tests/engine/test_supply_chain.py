"""Images by digest, against a real registry on this machine."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.conftest import BASE_IMAGE, ROOT, Result, free_port, passed, run, until

STACK = """\
config:
  docker-build-machine:sshPort: 2222
  docker-build-machine:daemonImage: {daemon}
  docker-build-machine:gatewayImage: {gateway}
"""


@pytest.fixture(scope="module")
def registry() -> Iterator[str]:
    """A registry of Docker's on this machine; what was pushed there is gone from here too."""
    local = run("docker", "image", "inspect", "localhost/registry:2.8.3").returncode == 0
    image = "localhost/registry:2.8.3" if local else "registry:2.8.3"
    name, port = f"pins-{secrets.token_hex(3)}", free_port()
    passed(run("docker", "run", "--detach", "--name", name, "--publish", f"127.0.0.1:{port}:5000",
               image))  # fmt: skip
    address = f"127.0.0.1:{port}"
    try:
        assert until(lambda: run("curl", "-sf", f"http://{address}/v2/").returncode == 0)
        yield address
    finally:
        run("docker", "rm", "--force", "--volumes", name)
        made = run("docker", "images", "--quiet", "--filter", f"reference={address}/*").stdout
        run("docker", "rmi", "--force", *set(made.split()))


def publish(reference: str, folder: Path, version: str) -> str:
    """Push an image with one Debian package of this version; its digest in the registry."""
    status = f"Package: libc6\nStatus: install ok installed\nVersion: {version}\n"
    (folder / "status").write_text(status)
    (folder / "Dockerfile").write_text(
        f"FROM {BASE_IMAGE}\nCOPY status /var/lib/dpkg/status\nLABEL release={version}\n"
    )
    passed(run("docker", "build", "--quiet", "--tag", reference, str(folder)))
    said = passed(run("docker", "push", reference))
    passed(run("docker", "rmi", reference))
    return said.split("digest: ")[1].split()[0]


def pin(folder: Path) -> Result:
    return run(sys.executable, "-m", "machine.image_pins", str(folder), cwd=ROOT)


def test_images_are_pinned_and_what_changed_behind_a_tag_is_shown(
    registry: str, tmp_path: Path
) -> None:
    settings = tmp_path / "Pulumi.team.yaml"
    daemon, gateway = f"{registry}/dind:29.7", f"{registry}/sshd:1"
    build = tmp_path / "build"
    build.mkdir()
    first, other = publish(daemon, build, "2.41"), publish(gateway, build, "1.0")
    settings.write_text(STACK.format(daemon=daemon, gateway=gateway))

    said = passed(pin(tmp_path))
    pinned = STACK.format(daemon=f"{daemon}@{first}", gateway=f"{gateway}@{other}")
    assert settings.read_text() == pinned
    assert f"daemonImage: {daemon} (no digest) -> {first}" in said

    assert f"daemonImage: {daemon} still is {first}" in passed(pin(tmp_path))
    assert settings.read_text() == pinned

    second = publish(daemon, build, "2.42")
    said = passed(pin(tmp_path))
    assert settings.read_text() == pinned.replace(first, second)
    assert f"daemonImage: {daemon} {first} -> {second}" in said
    assert "    package libc6 2.41 -> 2.42\n" in said
    assert "    label release 2.41 -> 2.42\n" in said
    assert f"gatewayImage: {gateway} still is {other}" in said


def test_an_image_that_cannot_be_had_keeps_its_reference(registry: str, tmp_path: Path) -> None:
    settings = tmp_path / "Pulumi.team.yaml"
    text = STACK.format(
        daemon=f"{registry}/nothing:1", gateway=f"{registry}/sshd@sha256:{'0' * 64}"
    )
    settings.write_text(text)
    refused = pin(tmp_path)
    assert refused.returncode == 1
    assert f"daemonImage: {registry}/nothing:1 cannot be had, it stays as it is" in refused.stdout
    assert "gatewayImage" in refused.stdout
    assert "no tag to follow" in refused.stdout
    assert settings.read_text() == text
