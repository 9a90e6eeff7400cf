"""`builder doctor` reports every fault that it knows, with the next step."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

import pytest

from tests.engine.conftest import (
    Builder,
    NewBuilder,
    NewDisk,
    free_port,
    make_key,
    passed,
    run,
    until,
)
from tests.engine.laptop import Laptop

SSH = "/home/rootless/.ssh"
KEY = f"{SSH}/id_ed25519"


@pytest.fixture(scope="module")
def builder(new_builder: NewBuilder, new_disk: NewDisk) -> Builder:
    """A builder with a disk that can be filled, and an image that has df."""
    ready = new_builder(cacheSize="1GB", minFreeSpace="100MB", keepImages=["*"])
    ready.put_cache_on(new_disk(1600))
    ready.up()
    ready.load_base()
    ready.build()
    return ready


@pytest.fixture(scope="module")
def laptop(builder: Builder) -> Iterator[Laptop]:
    with Laptop.with_kit(builder) as ready:
        passed(ready.builder("on"))
        yield ready


def diagnosis(laptop: Laptop, before: str = "") -> dict[str, Any]:
    """The output of `doctor --json`; its exit code must agree."""
    result = laptop.builder("doctor", "--json", before=before)
    report = dict(json.loads(result.stdout))
    assert result.returncode == (0 if report["healthy"] else 1), result.stdout
    return report


def findings(laptop: Laptop, before: str = "") -> dict[str, tuple[str, str, str]]:
    """Status, finding and next step of each check that is not ok.

    Limits of containers are excluded: they depend on the host's control groups, and have their own
    test.
    """
    return {
        finding["check"]: (finding["status"], finding["found"], finding["next"])
        for finding in diagnosis(laptop, before)["findings"]
        if finding["status"] != "ok" and finding["check"] != "limits"
    }


def the_error(laptop: Laptop, before: str = "") -> tuple[str, str, str]:
    """The only error: its check, finding and next step."""
    problems = findings(laptop, before)
    errors = [(check, *rest) for check, (status, *rest) in problems.items() if status == "error"]
    assert len(errors) == 1, problems
    return errors[0]  # type: ignore[return-value]


def ssh_config(laptop: Laptop, line: str) -> Any:
    """During the block, this line is at the top of ~/.ssh/config."""
    config = f"{SSH}/config"
    change = f"cp {config} ~/kept; {{ printf '%s\\n' {shlex.quote(line)}; cat ~/kept; }} >{config}"
    return laptop.changed(change, f"cat ~/kept >{config}; chmod 600 {config}")


def test_all_is_well(builder: Builder, laptop: Laptop) -> None:
    assert findings(laptop) == {}
    output = passed(laptop.builder("doctor"))
    assert output.endswith(f"{laptop.alias}: builds can work\n")
    checks = [line.split()[1] for line in output.splitlines()[:-1] if not line.startswith(" ")]
    assert checks == [
        "docker",
        "buildkit",
        "ssh",
        "config",
        "key",
        "context",
        "way",
        "builder",
        "reachable",
        "hostkey",
        "access",
        "daemon",
        "versions",
        "cache",
        "limits",
        "rootless",
        "disk",
    ]


def test_limits_of_containers_work_or_are_reported(builder: Builder, laptop: Laptop) -> None:
    [(state, found)] = [
        (finding["status"], finding["found"])
        for finding in diagnosis(laptop)["findings"]
        if finding["check"] == "limits"
    ]
    status = json.loads(builder.client("status", "--json").stdout)
    if passed(run("docker", "info", "--format", "{{.CgroupVersion}}")).strip() == "2":
        assert (state, found) == ("ok", "containers keep to theirs")
        assert status["limits"] == "containers keep to theirs"
    else:
        assert state == "warning"
        assert found.endswith("do nothing there: the host has control groups of version 1")
        assert "do nothing: the host has control groups of version 1" in status["limits"]
        shown = passed(builder.pulumi("preview"))
        assert "limits of single containers (docker run --memory, --cpus, --pids-limit) do" in shown
    assert status["notices"] == []


def test_no_docker_and_no_ssh(laptop: Laptop) -> None:
    with laptop.without("docker"):
        check, found, next_step = the_error(laptop)
    assert (check, found) == ("docker", "docker is not installed here")
    assert "install the docker CLI" in next_step
    with laptop.without("ssh"):
        check, found, _ = the_error(laptop)
    assert (check, found) == ("ssh", "ssh is not installed here")


def test_buildkit_is_missing_or_turned_off(laptop: Laptop) -> None:
    with laptop.without(*laptop.buildx_plugins()):
        check, found, next_step = the_error(laptop)
    assert check == "buildkit"
    assert "without buildx, which is missing" in found
    assert "docker-buildx" in next_step
    check, found, next_step = the_error(laptop, before="DOCKER_BUILDKIT=0")
    assert (check, next_step) == ("buildkit", "unset DOCKER_BUILDKIT")


def test_another_block_of_the_configuration_comes_first(builder: Builder, laptop: Laptop) -> None:
    with ssh_config(laptop, f"Host {laptop.alias}\n  User ops\nHost *\n"):
        problems = findings(laptop)
    assert problems["config"] == (
        "error",
        "something in /home/rootless/.ssh/config comes before the builders: user is 'ops' and "
        "should be 'builder'",
        "move the two lines about docker-build-machine to its top, or take these options out of "
        "the other block",
    )
    assert problems["access"][0] == "error"


def test_the_include_is_gone(laptop: Laptop) -> None:
    with laptop.changed(f"mv {SSH}/config ~/kept", f"mv ~/kept {SSH}/config"):
        problems = findings(laptop)
    assert problems["config"][0] == "error"
    assert "does not include the builders: hostname is" in problems["config"][1]
    assert problems["reachable"][0] == "error"
    assert "is not known here" in problems["reachable"][1]


def test_ssh_refuses_the_configuration(laptop: Laptop) -> None:
    with laptop.changed(f"chmod 666 {SSH}/config", f"chmod 600 {SSH}/config"):
        check, found, _ = the_error(laptop)
    assert check == "config"
    assert "Bad owner or permissions" in found


def test_the_key_can_be_read_by_others(laptop: Laptop) -> None:
    with laptop.changed(f"chmod 640 {KEY}", f"chmod 600 {KEY}"):
        problems = findings(laptop)
    assert problems["key"] == (
        "error",
        f"{KEY} can be read by others, so ssh does not use it",
        f"chmod 600 {KEY}",
    )
    assert problems["access"][0] == "error"


def test_the_key_has_a_passphrase_and_is_not_in_the_agent(laptop: Laptop) -> None:
    change = f"cp {KEY} ~/kept; ssh-keygen -q -p -N secret -P '' -f {KEY}"
    with laptop.changed(change, f"cp ~/kept {KEY}; rm ~/kept"):
        problems = findings(laptop)
        assert problems["key"][1].startswith(f"{KEY} has a passphrase and is not in the agent")
        assert problems["key"][2] == f"ssh-add {KEY}"
        # With the agent there is no finding.
        passed(laptop.sh("ssh-agent -a ~/agent && SSH_AUTH_SOCK=~/agent ssh-add ~/kept"))
        assert findings(laptop, before="SSH_AUTH_SOCK=~/agent") == {}


def test_the_key_is_missing_or_another(laptop: Laptop) -> None:
    with laptop.changed(f"mv {KEY} ~/kept", f"mv ~/kept {KEY}"):
        assert findings(laptop)["key"][1].endswith("is neither in ~/.ssh nor in the agent")
        with laptop.changed(f"ssh-keygen -q -t ed25519 -N '' -f {KEY}", f"rm {KEY} {KEY}.pub"):
            problems = findings(laptop)
    assert "is another key than the builder knows" in problems["key"][1]
    assert problems["access"][:2] == ("error", "the builder does not accept this key")


def test_a_dead_agent_is_a_warning(laptop: Laptop) -> None:
    problems = findings(laptop, before="SSH_AUTH_SOCK=/nowhere")
    assert problems.keys() == {"agent"}
    assert problems["agent"][:2] == ("warning", "there is no agent at SSH_AUTH_SOCK=/nowhere")


def test_a_variable_hides_the_context(builder: Builder, laptop: Laptop) -> None:
    problems = findings(laptop, before="DOCKER_HOST=unix:///elsewhere")
    assert problems["context"][0] == "error"
    assert problems["context"][1].startswith(
        "DOCKER_HOST=unix:///elsewhere in this shell overrides"
    )
    assert problems["context"][2].startswith("unset DOCKER_HOST")
    check, found, next_step = the_error(laptop, before="DOCKER_CONTEXT=default")
    assert (check, next_step) == ("context", "unset DOCKER_CONTEXT")
    assert found == f"DOCKER_CONTEXT=default in this shell overrides the context {laptop.alias}"


def test_variables_of_another_daemon_are_still_set(builder: Builder, laptop: Laptop) -> None:
    left = f"DOCKER_TLS_VERIFY=1 DOCKER_HOST=ssh://{laptop.alias}"
    assert "ca.pem" in laptop.sh(f"{left} docker version").stderr
    check, _, next_step = the_error(laptop, before=left)
    assert (check, next_step) == ("context", "unset DOCKER_TLS_VERIFY DOCKER_CERT_PATH")


def test_docker_builds_elsewhere(builder: Builder, laptop: Laptop) -> None:
    with laptop.changed("docker context use default", f"docker context use {laptop.alias}"):
        problems = findings(laptop)
    assert problems == {
        "context": ("warning", "docker builds on the context default", "builder on")
    }


def test_nothing_listens_behind_the_socket(builder: Builder, laptop: Laptop) -> None:
    stop = f"rm ~/.builder/{laptop.alias}/watched; sleep 1.5; ssh -O exit {laptop.alias}"
    with laptop.changed(stop, "~/.builder/builder on"):
        check, found, next_step = the_error(laptop)
    assert (check, next_step) == ("way", "builder on")
    assert found.startswith("nothing answers at unix://")


def test_plain_ssh_is_a_warning(builder: Builder, laptop: Laptop) -> None:
    with laptop.changed("~/.builder/builder off", "~/.builder/builder on"):
        problems = findings(laptop)
    assert problems["way"][0] == "warning"
    assert "plain ssh" in problems["way"][1]


def test_a_stray_builder_of_setup_buildx(builder: Builder, laptop: Laptop) -> None:
    create = "docker buildx create --name stray --driver docker-container --use"
    with laptop.changed(create, f"docker buildx rm stray; docker buildx use {laptop.alias}"):
        check, found, next_step = the_error(laptop)
        assert check == "builder"
        assert found.startswith("buildx builds in stray (driver docker-container)")
        assert next_step == f"docker buildx use {laptop.alias}"
        passed(laptop.sh(next_step))
        assert findings(laptop) == {}
        check, _, next_step = the_error(laptop, before="BUILDX_BUILDER=stray")
        assert "unset BUILDX_BUILDER (it is stray)" in next_step


def test_the_name_or_the_port_is_wrong(builder: Builder, laptop: Laptop) -> None:
    for change, expected in (
        ("s/HostName .*/HostName nowhere.invalid/", "the name of nowhere.invalid:"),
        (f"s/Port .*/Port {free_port()}/", "answers, but no gateway listens there"),
    ):
        with laptop.edited("ssh_config", change):
            check, found, next_step = the_error(laptop)
        assert check == "reachable"
        assert expected in found
        assert next_step


def test_a_host_that_does_not_answer_is_reported_in_time(builder: Builder, laptop: Laptop) -> None:
    # 192.0.2.0/24 is for documentation (RFC 5737), so nothing answers there.
    with laptop.edited("ssh_config", "s/HostName .*/HostName 192.0.2.1/"):
        check, found, _ = the_error(laptop)
    assert check == "reachable"
    assert "192.0.2.1" in found


def test_another_host_key_than_the_pinned_one(builder: Builder, laptop: Laptop) -> None:
    other = make_key(builder.folder / "impostor").split()[1]
    with laptop.edited("known_hosts", f"s|AAAA.*|{other}|"):
        check, found, next_step = the_error(laptop)
    assert check == "hostkey"
    assert "shows another host key than the pinned one" in found
    assert "install a new kit" in next_step


def test_the_gateway_refuses_the_key(builder: Builder, laptop: Laptop) -> None:
    config, reload = "/config/sshd/sshd_config", "pkill -HUP -f 'sshd.*[l]istener'"
    none = f"sed -i '1i AuthorizedKeysFile none' {config}; {reload}"
    passed(builder.inside("gateway", "sh", "-c", none))
    try:
        check, found, next_step = the_error(laptop)
    finally:
        passed(builder.inside("gateway", "sh", "-c", f"sed -i 1d {config}; {reload}"))
    assert (check, found) == ("access", "the builder does not accept this key")
    fingerprint = passed(run("ssh-keygen", "-lf", str(builder.folder / "ada.pub"))).split()[1]
    assert fingerprint in next_step


def test_the_daemon_does_not_answer(builder: Builder, laptop: Laptop) -> None:
    daemon = builder.container("daemon")
    passed(run("docker", "pause", daemon))
    try:
        problems = findings(laptop)
    finally:
        passed(run("docker", "unpause", daemon))
    assert "daemon" in problems, problems
    assert problems["daemon"][1].startswith("the daemon does not answer")
    assert problems["way"][0] == "error"


def test_versions_that_do_not_fit(laptop: Laptop) -> None:
    check, found, next_step = the_error(laptop, before="DOCKER_API_VERSION=1.20")
    assert check == "versions"
    assert "too old" in found
    assert next_step.startswith("unset DOCKER_API_VERSION")


def test_a_cold_cache_is_a_warning(builder: Builder, laptop: Laptop) -> None:
    passed(laptop.sh("docker builder prune --all --force"))
    problems = findings(laptop)
    assert problems["cache"][0] == "warning"
    assert problems.keys() == {"cache"}
    builder.build()


def test_a_full_disk(builder: Builder, laptop: Laptop) -> None:
    folder = "/home/rootless/.local/share/docker"
    builder.in_daemon("sh", "-c", f"dd if=/dev/zero of={folder}/filler bs=1M count=2000")
    try:
        problems = findings(laptop)
    finally:
        passed(builder.in_daemon("sh", "-c", f"rm {folder}/filler"))
    assert problems["disk"][0] == "error"
    assert "full" in problems["disk"][1]
    assert until(lambda: "disk" not in findings(laptop), 30)


def test_without_an_image_that_has_df_the_disk_is_skipped(builder: Builder, laptop: Laptop) -> None:
    passed(laptop.sh("docker image rm --force $(docker image ls --quiet)"))
    try:
        assert findings(laptop)["disk"][0] == "skipped"
    finally:
        builder.load_base()
        builder.build()
    assert findings(laptop) == {}, "everything that was wrong in these tests is correct again"
