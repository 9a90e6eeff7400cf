"""Several hosts in one stack: each alone in its fate."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from client import assign
from tests.engine.conftest import (
    Builder,
    Result,
    free_port,
    passed,
    run,
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
        said = self.pulumi("up", "--continue-on-error")
        (self.folder / "ssh_config").write_text(
            f"IdentityFile {self.folder}/ada\nIdentitiesOnly yes\n"
            + self.output("sshConfig").replace("~/.ssh/%C", f"{self.folder}/%C")
        )
        return said

    def exports(self) -> dict[str, Any]:
        return dict(
            json.loads(passed(self._pulumi("stack", "output", "--json", "--stack", self.stack)))
        )

    def alias(self, name: str) -> str:
        return f"{self.stack}-builder-{name}"

    def reaches(self, name: str, key: str = "ada") -> bool:
        """Whether a client with this key gets to the builder on this host."""
        config = self.folder / f"config.{key}"
        text = (self.folder / "ssh_config").read_text()
        config.write_text(text.replace(f"{self.folder}/ada\n", f"{self.folder}/{key}\n"))
        ssh = ["ssh", "-F", str(config), "-S", "none", "-o", "BatchMode=yes", self.alias(name)]
        return "200 OK" in run(*ssh, input="GET /_ping HTTP/1.0\r\n\r\n").stdout

    def destroy(self) -> None:
        super().destroy()
        for name in PLATFORMS:
            label = (
                f"label=docker-build-machine.owner=docker-build-machine/{self.stack}/builder-{name}"
            )
            for kind, every in (("container", ("--all",)), ("volume", ()), ("network", ())):
                listed = run("docker", kind, "ls", "--quiet", *every, "--filter", label)
                force = () if kind == "network" else ("--force",)
                for found in listed.stdout.split():
                    run("docker", kind, "rm", *force, found)


@pytest.fixture(scope="module")
def fleet(
    hosts: Hosts, pair: dict[str, Host], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    """A fleet of two whose second host is down when it is deployed for the first time."""
    down = {"host": f"ssh://root@127.0.0.1:{free_port()}", "hostKey": pair["two"].host_key}
    folder = tmp_path_factory.mktemp("fleet") / "s"
    fleet = Fleet.create(folder, hosts=[entry("one", pair["one"].settings), entry("two", down)])
    fleet.env["SSH_AUTH_SOCK"] = hosts.agent
    yield fleet
    fleet.destroy()


def test_a_host_that_is_down_stops_no_other(fleet: Fleet, pair: dict[str, Host]) -> None:
    url = fleet.settings["hosts"][1]["host"]
    shown = passed(fleet.pulumi("preview"))
    assert f"host = {url} cannot be reached over SSH" in shown
    assert "builder-one-daemon" in shown
    assert "builder-two-daemon" in shown

    said = fleet.update()
    assert said.returncode != 0
    assert f"host = {url} cannot be reached over SSH" in said.stdout
    assert fleet.reaches("one")
    assert not fleet.reaches("two")
    names = [entry["name"] for entry in fleet.exports()["builders"]]
    assert names == ["one", "two"]

    # The host comes up: the same word completes the fleet and leaves the other builder alone.
    before = run("docker", "inspect", "--format", "{{.Id}}", f"{fleet.alias('one')}-daemon").stdout
    fleet.settings["hosts"][1] |= pair["two"].settings
    passed(fleet.update())
    assert fleet.reaches("two")
    after = run("docker", "inspect", "--format", "{{.Id}}", f"{fleet.alias('one')}-daemon").stdout
    assert before == after
    assert "unchanged" in passed(fleet.pulumi("up", "--expect-no-changes"))


def test_a_host_that_goes_down_later_stops_no_change_of_the_others(
    fleet: Fleet, pair: dict[str, Host]
) -> None:
    fleet.add_key("ci")
    passed(run("docker", "stop", "--time", "1", pair["two"].container))
    run("ssh", "-O", "exit", pair["two"].url)
    try:
        shown = passed(fleet.pulumi("preview", "--diff"))
        assert f"host = {pair['two'].url} cannot be reached over SSH" in shown
        assert re.search(r"[~-] HOST_DOCKER +: ", shown)
        said = fleet.update()
        assert said.returncode != 0
        assert f"host = {pair['two'].url} cannot be reached over SSH" in said.stdout
        assert fleet.reaches("one", "ci")
        # What runs on the host runs on, with the keys that it had.
        assert fleet.reaches("two")
        assert not fleet.reaches("two", "ci")
    finally:
        passed(run("docker", "start", pair["two"].container))
    passed(fleet.update())
    assert fleet.reaches("two", "ci")


def test_a_project_is_told_its_builder(fleet: Fleet) -> None:
    entries = fleet.exports()["builders"]
    lives = {project: assign.assign(project, entries)["name"] for project in "abcdefgh"}
    assert set(lives.values()) == {"one", "two"}
    assert all(fleet.reaches(name) for name in set(lives.values()))
