"""Several hosts in one stack fail alone; one multi-platform builder spans them."""

from __future__ import annotations

import json
import re
import socket
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from client import assign
from tests.engine.conftest import (
    BASE_IMAGE,
    BUILDKIT_IMAGE,
    PING,
    REGISTRY_IMAGE,
    Builder,
    Result,
    bridge_address,
    docker_config,
    free_port,
    logs,
    passed,
    run,
    until,
)
from tests.engine.hosts import Host, Hosts, hosts_in

PLATFORMS = {"one": ["linux/amd64"], "two": ["linux/386"]}


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with hosts_in(tmp_path_factory.mktemp("hosts")) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def pair(hosts: Hosts) -> dict[str, Host]:
    """Two hosts that are up."""
    return {name: hosts.new("--device", "/dev/net/tun") for name in PLATFORMS}


def entry(name: str, host: dict[str, str]) -> dict[str, Any]:
    return {"name": name, "sshPort": free_port(), "platforms": PLATFORMS[name], **host}


class Fleet(Builder):
    """A stack of several builders, and a client of all of them."""

    def update(self) -> Result:
        """`pulumi up`, going on with other hosts where one fails."""
        result = self.pulumi("up", "--continue-on-error")
        self.write_ssh_config()
        return result

    def exports(self) -> dict[str, Any]:
        return dict(
            json.loads(passed(self._pulumi("stack", "output", "--json", "--stack", self.stack)))
        )

    def alias_on(self, name: str) -> str:
        return f"{self.stack}-builder-{name}"

    def reaches(self, name: str, key: str = "ada") -> bool:
        """Whether a client with this key gets to the builder on this host."""
        return "200 OK" in self.ssh(self.alias_on(name), key=key, input=PING).stdout


NewFleet = Callable[..., Fleet]


@pytest.fixture(scope="module")
def new_fleet(hosts: Hosts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewFleet]:
    """Makes fleets of these entries; they are removed after the module's tests."""
    made: list[Fleet] = []

    def new(*entries: dict[str, Any]) -> Fleet:
        made.append(Fleet.create(tmp_path_factory.mktemp("fleet") / "s", hosts=list(entries)))
        made[-1].env["SSH_AUTH_SOCK"] = hosts.agent
        return made[-1]

    yield new
    for fleet in made:
        fleet.clear_away()


@pytest.fixture(scope="module")
def fleet(new_fleet: NewFleet, pair: dict[str, Host]) -> Fleet:
    """A fleet of two; the second host is down at the first deployment."""
    down = {"host": f"ssh://root@127.0.0.1:{free_port()}", "hostKey": pair["two"].host_key}
    return new_fleet(entry("one", pair["one"].settings), entry("two", down))


def test_a_host_that_is_down_does_not_stop_the_others(fleet: Fleet, pair: dict[str, Host]) -> None:
    url = fleet.settings["hosts"][1]["host"]
    shown = passed(fleet.pulumi("preview"))
    assert f"host = {url} cannot be reached over SSH" in shown
    assert "builder-one-daemon" in shown
    assert "builder-two-daemon" in shown

    update = fleet.update()
    assert update.returncode != 0
    assert f"host = {url} cannot be reached over SSH" in update.stdout
    assert fleet.reaches("one")
    assert not fleet.reaches("two")
    names = [entry["name"] for entry in fleet.exports()["builders"]]
    assert names == ["one", "two"]

    # The host comes up: the same command completes the fleet and does not touch the other builder.
    before = fleet.container_id("one-daemon")
    fleet.settings["hosts"][1] |= pair["two"].settings
    passed(fleet.update())
    assert fleet.reaches("two")
    assert before == fleet.container_id("one-daemon")
    assert "unchanged" in passed(fleet.pulumi("up", "--expect-no-changes"))
    for name in PLATFORMS:
        env = {**fleet.docker_env(), "DOCKER_HOST": f"ssh://{fleet.alias_on(name)}"}
        step = "FROM scratch\nWORKDIR /made\n"
        passed(run("docker", "build", "-", env=env, input=step))
        [_, *builds] = passed(fleet.client("builds", "--host", name)).splitlines()
        assert ["  ok  " in build for build in builds] == [True], "this build and no other"
    shown = json.loads(passed(fleet.client("status", "--json")))
    assert [status["builder"] for status in shown] == [fleet.alias_on(name) for name in PLATFORMS]
    assert all(status["host_keys"][0]["presented"] for status in shown)


def test_a_host_that_goes_down_later_does_not_stop_updates_of_the_others(
    fleet: Fleet, pair: dict[str, Host]
) -> None:
    fleet.add_key("ci")
    passed(run("docker", "stop", "--time", "1", pair["two"].container))
    run("ssh", "-O", "exit", pair["two"].url)
    try:
        shown = passed(fleet.pulumi("preview", "--diff"))
        assert f"host = {pair['two'].url} cannot be reached over SSH" in shown
        # What cannot be seen there is not taken for changed.
        assert not re.search(r"[~-] HOST_[A-Z]+ +: ", shown)
        update = fleet.update()
        assert update.returncode != 0
        assert f"host = {pair['two'].url} cannot be reached over SSH" in update.stdout
        assert fleet.reaches("one", "ci")
        # What runs on the host runs on, with the keys that it had.
        assert fleet.reaches("two")
        assert not fleet.reaches("two", "ci")
        status = fleet.client("status", "--quiet")
        assert status.returncode == 1
        [problem] = status.stdout.splitlines()
        assert problem.startswith(f"{fleet.alias_on('two')}: ")
        assert f"host = {pair['two'].url} cannot be reached over SSH" in problem
        assert f"{fleet.alias_on('one')}: Docker " in fleet.client("status").stdout
    finally:
        passed(run("docker", "start", pair["two"].container))
    passed(fleet.update())
    assert fleet.reaches("two", "ci")


def test_a_builder_that_fails_only_delays_the_next_ones_on_its_host(
    pair: dict[str, Host], new_fleet: NewFleet
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        first, second = (entry(name, pair["one"].settings) for name in PLATFORMS)
        first["sshPort"] = taken.getsockname()[1]
        fleet = new_fleet(first, second)
        update = fleet.update()
    assert update.returncode != 0
    assert f"sshPort = {first['sshPort']} " in update.stdout
    assert not fleet.reaches("two")
    assert [entry["name"] for entry in fleet.exports()["builders"]] == ["one", "two"]


def test_every_project_gets_a_builder_that_it_reaches(fleet: Fleet) -> None:
    entries = fleet.exports()["builders"]
    lives = {project: assign.assign(project, entries)["name"] for project in "abcdefgh"}
    assert set(lives.values()) == {"one", "two"}
    assert all(fleet.reaches(name) for name in set(lives.values()))


@pytest.fixture
def registry(fleet: Fleet) -> Iterator[str]:
    """A registry at an address of this machine that builders see, too."""
    address = bridge_address(f"{fleet.alias_on('one')}-network")
    port = free_port()
    container = passed(
        run("docker", "run", "--detach", "--publish", f"{port}:5000", REGISTRY_IMAGE)
    ).strip()
    assert until(lambda: "listening on" in logs(container))
    # Docker accepts plain HTTP from 127.0.0.1 by default.
    base = f"127.0.0.1:{port}/base:1"
    passed(run("docker", "tag", BASE_IMAGE, base))
    passed(run("docker", "push", base))
    passed(run("docker", "rmi", base))
    yield f"{address}:{port}"
    run("docker", "rm", "--force", "--volumes", container)


def test_a_build_for_two_platforms_runs_on_two_hosts_and_gives_one_manifest(
    fleet: Fleet, registry: str, tmp_path: Path
) -> None:
    fleet.settings["buildkitImage"] = BUILDKIT_IMAGE
    passed(fleet.update())
    client = {"PATH": fleet.path, "DOCKER_CONFIG": str(docker_config(tmp_path / "docker"))}
    if run("docker", "image", "inspect", BUILDKIT_IMAGE).returncode:
        passed(run("docker", "pull", BUILDKIT_IMAGE))
    archive = tmp_path / "buildkit.tar"
    passed(run("docker", "save", "--output", str(archive), BUILDKIT_IMAGE))
    for name in PLATFORMS:
        passed(
            run(
                "docker",
                "load",
                "--input",
                str(archive),
                env={**client, "DOCKER_HOST": f"ssh://{fleet.alias_on(name)}"},
            )
        )
    config = tmp_path / "buildkitd.toml"
    config.write_text(f'[registry."{registry}"]\nhttp = true\n')
    passed(fleet.client("fleet", "--create", "--config", str(config), env=client))

    (tmp_path / "Dockerfile").write_text(
        f"FROM --platform=linux/amd64 {registry}/base:1\nARG TARGETPLATFORM\n"
        "RUN echo built for $TARGETPLATFORM >/built\n"
    )
    passed(
        run(
            "docker",
            "buildx",
            "build",
            "--builder",
            fleet.stack,
            "--push",
            "--tag",
            f"{registry}/app:1",
            "--platform",
            "linux/amd64,linux/386",
            str(tmp_path),
            env=client,
        )
    )
    for name in PLATFORMS:
        ran = passed(
            run(
                "docker",
                "exec",
                f"buildx_buildkit_{fleet.stack}-{name}",
                "buildctl",
                "du",
                "--verbose",
                env={**client, "DOCKER_HOST": f"ssh://{fleet.alias_on(name)}"},
            )
        )
        assert "echo built for" in ran
    request = urllib.request.Request(
        f"http://{registry}/v2/app/manifests/1",
        headers={"Accept": "application/vnd.oci.image.index.v1+json"},
    )
    with urllib.request.urlopen(request) as answer:
        manifest = json.load(answer)
    built = {
        f"{m['platform']['os']}/{m['platform']['architecture']}" for m in manifest["manifests"]
    }
    assert {"linux/amd64", "linux/386"} <= built
