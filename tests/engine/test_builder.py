"""The main job: up, build, push, settle, destroy, up again with a warm cache."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.engine.conftest import (
    AS_ROOT,
    PROJECT,
    ROOT,
    Builder,
    NewBuilder,
    passed,
    registry_in,
    run,
    until,
)


def test_a_preview_works_before_anything_exists(new_builder: NewBuilder) -> None:
    shown = passed(new_builder().pulumi("preview"))
    assert "21 to create" in shown


def test_a_second_up_changes_nothing_and_so_does_one_after_a_refresh(builder: Builder) -> None:
    assert "21 unchanged" in builder.up("--expect-no-changes")
    passed(builder.pulumi("refresh"))
    assert "21 unchanged" in builder.up("--expect-no-changes")


def test_a_second_build_is_all_cached_and_cache_mounts_are_warm(builder: Builder) -> None:
    first = builder.build()
    assert "CACHED" not in first
    again = builder.build()
    assert again.count("CACHED") == 3
    dockerfile = "FROM built\nRUN --mount=type=cache,target=/kept wc -l </kept/visits >/visits\n"
    changed = passed(builder.docker("build", "--quiet", "-", input=dockerfile))
    assert passed(builder.docker("run", "--rm", changed.strip(), "cat", "/visits")).strip() == "1"


def test_push_to_a_registry_and_pull_back(builder: Builder) -> None:
    builder.build("localhost:5000/built:1")
    with registry_in(builder):
        passed(builder.docker("push", "localhost:5000/built:1"))
        passed(builder.docker("image", "rm", "localhost:5000/built:1"))
        passed(builder.docker("pull", "localhost:5000/built:1"))
        shown = passed(builder.docker("run", "--rm", "localhost:5000/built:1", "cat", "/built"))
        assert shown == "hello\n"


def test_streams_go_both_ways_through_the_gateway(builder: Builder) -> None:
    builder.build()
    echoed = passed(builder.docker("run", "--rm", "--interactive", "built", "cat", input="ping"))
    assert echoed == "ping"


def test_no_tcp_port_is_open_but_sshd(builder: Builder) -> None:
    listening = {
        role: {
            int(line.split()[1].rsplit(":", 1)[1], 16)
            for line in passed(
                builder.inside(role, "cat", "/proc/1/net/tcp", "/proc/1/net/tcp6")
            ).splitlines()
            if line.split()[3] == "0A" and not line.split()[1].startswith("0B00007F")
        }
        for role in ("daemon", "gateway")
    }
    assert listening == {"daemon": set(), "gateway": {2222}}


def test_the_health_checks_pass(builder: Builder) -> None:
    for role in ("daemon", "gateway", "janitor"):
        passed(builder.health(role))


def test_a_health_check_leaves_no_file_open_in_the_daemon(builder: Builder) -> None:
    """Each question for the version would leave a connection to RootlessKit open."""
    count = ("sh", "-c", "ls /proc/$(pidof dockerd)/fd | wc -l")
    before = int(passed(builder.in_daemon(*count)))
    for _ in range(20):
        passed(builder.health("daemon"))
    assert int(passed(builder.in_daemon(*count))) < before + 10


def test_the_gateway_comes_back_with_its_host_key_and_keys_and_shows_no_secret(
    builder: Builder,
) -> None:
    builder.ssh_end()
    passed(run("docker", "rm", "--force", "--volumes", builder.container("gateway")))
    passed(builder.pulumi("refresh"))
    known = builder.output("knownHosts")
    output = builder.up()
    assert builder.output("knownHosts") == known
    assert "200 OK" in builder.ping().stdout

    private = passed(builder.inside("gateway", "cat", "/usr/local/lib/gateway/host_key"))
    line = private.splitlines()[1]
    assert len(line) > 60
    inspected = passed(run("docker", "inspect", builder.container("gateway")))
    for text in (output, builder.state(), inspected):
        assert line not in text
        assert "PRIVATE KEY" not in text


def test_the_init_script_can_run_twice(builder: Builder) -> None:
    script = ("bash", "/custom-cont-init.d/gateway")
    passed(builder.inside("gateway", "env", "USER_NAME=builder", *script))
    assert "200 OK" in builder.ping().stdout


def test_the_gateway_ends_within_seconds_when_sshd_refuses_its_configuration(
    builder: Builder, tmp_path: Path
) -> None:
    gateway = builder.container("gateway")
    broken = tmp_path / "sshd_config"
    broken.write_text("NoSuchOption yes\n")
    uploaded = f"{gateway}:/usr/local/lib/gateway/sshd_config"
    passed(run("docker", "cp", uploaded, str(tmp_path / "kept")))
    passed(run("docker", "stop", gateway))
    passed(run("docker", "cp", str(broken), uploaded))

    def ends() -> int:
        return int(passed(run("docker", "inspect", "--format", "{{.RestartCount}}", gateway)))

    try:
        passed(run("docker", "start", gateway))
        assert until(lambda: ends() >= 1, 30)
        refusal = "Bad configuration option: NoSuchOption"
        assert refusal in run("docker", "logs", gateway).stderr
        refused = builder.pulumi("up", "--target-replace", "**builder-readiness")
        assert refused.returncode != 0
        assert "its last lines" in refused.stdout
        assert "NoSuchOption" in refused.stdout
        run("docker", "update", "--restart", "no", gateway)
        assert until(lambda: passed(run("docker", "wait", gateway)) == "1\n", 60)
    finally:
        run("docker", "stop", gateway)
        passed(run("docker", "update", "--restart", "unless-stopped", gateway))
        passed(run("docker", "cp", str(tmp_path / "kept"), uploaded))
        run("docker", "start", gateway)
    builder.up()
    assert "200 OK" in builder.ping().stdout


def test_the_gateway_stops_by_itself_and_starts_again(builder: Builder) -> None:
    gateway = builder.container("gateway")
    builder.ssh_end()
    # A service that never starts would block s6-overlay forever.
    passed(run("docker", "stop", "--time", "30", gateway))
    state = ("docker", "inspect", "--format", "{{.State.ExitCode}}", gateway)
    assert passed(run(*state)) == "0\n"
    passed(run("docker", "start", gateway))
    assert until(lambda: "200 OK" in builder.ping().stdout, 30)


@pytest.mark.parametrize(
    ("broken", "mended"),
    [
        ("pkill -STOP -f 'session-monitor watch'", "pkill -CONT -f 'session-monitor watch'"),
        (
            "mv /usr/local/bin/session-monitor /session-monitor; pkill -f 'session-monitor watch'",
            "mv /session-monitor /usr/local/bin/session-monitor",
        ),
        ("pkill -STOP -f s6-log", "pkill -CONT -f s6-log"),
    ],
    ids=["hangs", "does not run", "hears nothing from sshd"],
)
def test_a_gateway_whose_session_monitor_does_not_work_is_unhealthy(
    builder: Builder, broken: str, mended: str
) -> None:
    assert until(lambda: builder.health("gateway").returncode == 0, 30)
    passed(builder.inside("gateway", "sh", "-c", broken))
    try:
        unhealthy = builder.health("gateway")
        assert unhealthy.returncode == 1
        assert "the session monitor did not see this login" in unhealthy.stdout
    finally:
        passed(builder.inside("gateway", "sh", "-c", mended))
    assert until(lambda: builder.health("gateway").returncode == 0, 30)


def test_a_builder_is_not_ready_when_the_session_monitor_cannot_read_the_access_list(
    builder: Builder,
) -> None:
    """`pulumi up` fails with this step: see the test of a refused configuration of sshd."""
    access = builder.mountpoint("access")
    assert passed(builder.readiness(10)) == "ready\n"
    passed(run(*AS_ROOT, "mv", f"{access}/list", f"{access}/away"))
    try:
        refused = builder.readiness(5)
    finally:
        passed(run(*AS_ROOT, "mv", f"{access}/away", f"{access}/list"))
    assert refused.returncode != 0
    assert "builder-gateway does not pass its health check" in refused.stderr
    assert "the session monitor did not see this login" in refused.stderr
    assert until(lambda: builder.health("gateway").returncode == 0, 30)


def test_limits_reach_the_container(builder: Builder) -> None:
    builder.build()
    before = builder.container_id("daemon")
    builder.settings |= {"memory": "2GiB", "cpus": "1.5"}
    builder.up()
    assert builder.container_id("daemon") != before
    host = json.loads(passed(run("docker", "inspect", builder.container("daemon"))))[0][
        "HostConfig"
    ]
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"]) == (2**31, 2**31, 1500000000)
    assert "unchanged" in builder.up("--expect-no-changes")
    assert builder.build().count("CACHED") == 3


def test_a_bill_of_materials_lists_what_runs(builder: Builder, tmp_path: Path) -> None:
    owner = f"{PROJECT}/{builder.stack}/builder"
    passed(run(sys.executable, "-m", "scripts.sbom", owner, str(tmp_path), cwd=ROOT))
    bills = {path.name.partition(".")[0]: path.read_text() for path in tmp_path.iterdir()}
    assert set(bills) == {"program", "daemon", "gateway", "janitor"}
    for text in bills.values():
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    named = {
        role: {part["name"] for part in json.loads(text)["components"]}
        for role, text in bills.items()
    }
    assert {"pulumi", "pydantic", "hpack"} <= named["program"]
    assert {"Engine", "containerd", "runc"} <= named["daemon"]
    assert any(name.startswith("openssh") for name in named["gateway"])


def test_destroy_keeps_the_cache_and_the_next_up_is_warm(builder: Builder) -> None:
    builder.build()
    known = builder.output("knownHosts")
    builder.ssh_end()
    passed(builder.pulumi("destroy", "--exclude-protected"))
    assert run("docker", "inspect", builder.container("daemon")).returncode != 0
    builder.up()
    assert builder.output("knownHosts") == known
    assert builder.build().count("CACHED") == 3


def test_a_plain_destroy_is_refused_while_the_cache_is_kept(builder: Builder) -> None:
    refused = builder.pulumi("destroy")
    assert refused.returncode != 0
    assert "protect" in refused.stdout + refused.stderr
