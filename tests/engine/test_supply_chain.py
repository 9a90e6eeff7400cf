"""Images by digest, against a real registry on this machine."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.engine.conftest import (
    REGISTRY_IMAGE,
    ROOT,
    Builder,
    Result,
    free_port,
    passed,
    registry_in,
    run,
    until,
)

STACK = """\
config:
  docker-build-machine:sshPort: 2222
  docker-build-machine:daemonImage: {daemon}
  docker-build-machine:gatewayImage: {gateway}
"""


@dataclass(frozen=True)
class Engine:
    """A Docker engine, given by its clients' environment, with a registry next to it."""

    registry: str
    env: dict[str, str] = field(default_factory=dict)

    def docker(self, *arguments: str) -> Result:
        return run("docker", *arguments, env=self.env)

    def pin(self, folder: Path) -> Result:
        """Run `make images` for the settings in the folder."""
        return run(sys.executable, "-m", "scripts.image_pins", str(folder), cwd=ROOT, env=self.env)

    def publish(self, reference: str, folder: Path, version: str, **labels: str) -> str:
        """Push an image with this version of a Debian package; return its registry digest."""
        status = f"Package: libc6\nStatus: install ok installed\nVersion: {version}\n"
        (folder / "status").write_text(status)
        (folder / "Dockerfile").write_text(
            "FROM scratch\nCOPY status /var/lib/dpkg/status\n"
            + "".join(f"LABEL {name}={value}\n" for name, value in labels.items())
        )
        passed(self.docker("build", "--quiet", "--tag", reference, str(folder)))
        output = passed(self.docker("push", reference))
        passed(self.docker("rmi", reference))
        return output.split("digest: ")[1].split()[0]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """This machine's engine; images that were pushed to its registry are removed here too."""
    name, port = f"pins-{secrets.token_hex(3)}", free_port()
    passed(
        run(
            "docker",
            "run",
            "--detach",
            "--name",
            name,
            "--publish",
            f"127.0.0.1:{port}:5000",
            REGISTRY_IMAGE,
        )
    )
    address = f"127.0.0.1:{port}"
    try:
        assert until(lambda: run("curl", "-sf", f"http://{address}/v2/").returncode == 0)
        yield Engine(address)
    finally:
        run("docker", "rm", "--force", "--volumes", name)
        made = run("docker", "images", "--quiet", "--filter", f"reference={address}/*").stdout
        run("docker", "rmi", "--force", *set(made.split()))


@pytest.fixture(scope="module")
def builders_engine(builder: Builder) -> Iterator[Engine]:
    """The engine of the daemon's image, which is newer; its registry runs in it."""
    with registry_in(builder) as address:
        yield Engine(address, builder.docker_env())


@pytest.mark.parametrize("of", ["engine", "builders_engine"])
def test_images_are_pinned_and_changes_behind_a_tag_are_shown(
    of: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    engine: Engine = request.getfixturevalue(of)
    settings = tmp_path / "Pulumi.team.yaml"
    daemon, gateway = f"{engine.registry}/dind:29.7", f"{engine.registry}/sshd:1"
    build = tmp_path / "build"
    build.mkdir()
    # Docker's own images have no labels either.
    first, other = engine.publish(daemon, build, "2.41"), engine.publish(gateway, build, "1.0")
    settings.write_text(STACK.format(daemon=daemon, gateway=gateway))

    output = passed(engine.pin(tmp_path))
    pinned = STACK.format(daemon=f"{daemon}@{first}", gateway=f"{gateway}@{other}")
    assert settings.read_text() == pinned
    assert f"daemonImage: {daemon} (no digest) -> {first}" in output

    assert f"daemonImage: {daemon} is still {first}" in passed(engine.pin(tmp_path))
    assert settings.read_text() == pinned

    second = engine.publish(daemon, build, "2.42", release="2.42")
    output = passed(engine.pin(tmp_path))
    assert settings.read_text() == pinned.replace(first, second)
    assert f"daemonImage: {daemon} {first} -> {second}" in output
    assert "    package libc6 2.41 -> 2.42\n" in output
    assert "    label release - -> 2.42\n" in output
    assert f"gatewayImage: {gateway} is still {other}" in output


def test_an_unavailable_image_keeps_its_reference(engine: Engine, tmp_path: Path) -> None:
    settings = tmp_path / "Pulumi.team.yaml"
    text = STACK.format(
        daemon=f"{engine.registry}/nothing:1",
        gateway=f"{engine.registry}/sshd@sha256:{'0' * 64}",
    )
    settings.write_text(text)
    refused = engine.pin(tmp_path)
    assert refused.returncode == 1
    assert f"daemonImage: {engine.registry}/nothing:1 cannot be pulled, it stays" in refused.stdout
    assert "gatewayImage" in refused.stdout
    assert "no tag to follow" in refused.stdout
    assert settings.read_text() == text
