"""The metrics that a builder itself serves, read over HTTP."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bench.keys import free_port, make_key
from tests.engine.conftest import BASE_IMAGE, Builder, NewBuilder, passed, run, until

WAIT = 40


@pytest.fixture(scope="module")
def builder(new_builder: NewBuilder) -> Builder:
    """A builder with a guard, whose janitor removes leftovers after ten seconds."""
    ready = new_builder(metrics=f"127.0.0.1:{free_port()}", leftoverAge="10s")
    ready.add_key("ci", role="build", until="2099-12-31")
    ready.up()
    ready.load_base()
    return ready


def url(builder: Builder) -> str:
    return f"http://{builder.settings['metrics']}/metrics"


def page(builder: Builder) -> str:
    with urllib.request.urlopen(url(builder), timeout=10) as answer:
        return str(answer.read().decode())


def values(builder: Builder) -> dict[str, float]:
    """The value of each series, by its name and the values of its labels but the builder's."""
    found = {}
    for family in text_string_to_metric_families(page(builder)):
        for sample in family.samples:
            assert sample.labels["builder"] == builder.alias
            labels = [value for name, value in sample.labels.items() if name != "builder"]
            found[" ".join([sample.name.removeprefix("builder_"), *labels])] = sample.value
    return found


def shows(builder: Builder, **expected: Any) -> bool:
    """Whether the page has these values within seconds, the time between two readings."""

    def seen() -> dict[str, float | None]:
        now = values(builder)
        return {name: now.get(name) for name in expected}

    assert until(lambda: seen() == expected, WAIT), (seen(), expected)
    return True


def answered(request: urllib.request.Request) -> int:
    """The status of the answer."""
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def build(builder: Builder, *steps: str, tag: str = "app") -> int:
    dockerfile = "\n".join([f"FROM {BASE_IMAGE}", *steps])
    return builder.docker("build", "--tag", tag, "-", input=dockerfile).returncode


def test_the_page_is_complete_once_the_update_has_ended(builder: Builder) -> None:
    found = values(builder)
    parts = ("daemon", "gateway", "janitor", "guard")
    assert {name: found[name] for name in found if name.startswith("part_up")} == {
        f"part_up {part}": 1 for part in parts
    }
    expected = {
        "up": 1,
        "problems": 0,
        "cache_limit_bytes": 5e9,
        "builds_total ok": 0,
        "builds_total failed": 0,
        "refused_logins_total": 0,
        "janitor_removed_total space volume": 0,
        "sessions ada": 0,
        "key_expires_timestamp_seconds ci": 4102444800,
    }
    assert {name: found.get(name) for name in expected} == expected
    assert found["disk_bytes"] > found["disk_free_bytes"] > 0
    assert found["disk_inodes"] > found["disk_free_inodes"] > 0
    assert until(lambda: values(builder)["images_bytes"] > 0, WAIT), "of the base image"
    assert found["read_timestamp_seconds"] >= found["start_timestamp_seconds"] > 1.7e9
    assert "key_expires_timestamp_seconds ada" not in found
    assert 0 < found["host_key_age_seconds 1 true"] < 3600
    version = passed(builder.docker("version", "--format", "{{.Server.Version}}")).strip()
    assert f'version="{version}"' in page(builder)
    subprocess.run(["promtool", "check", "metrics"], input=page(builder), text=True, check=True)


def test_builds_are_counted_with_their_result_and_cached_steps(builder: Builder) -> None:
    assert build(builder, "RUN echo 1 >/one", "RUN echo 2 >/two") == 0
    assert build(builder, "RUN echo 1 >/one", "RUN echo 3 >/two") == 0
    assert build(builder, "RUN echo 1 >/one", "RUN echo 3 >/two") == 0
    assert build(builder, "RUN echo 1 >/one", "RUN false") != 0
    shows(
        builder,
        **{
            "builds_total ok": 3,
            "builds_total failed": 1,
            "build_duration_seconds_count": 4,
            "build_cached_steps_ratio_count": 4,
            "build_cached_steps_ratio_sum": 0 + 0.5 + 1 + 0.5,
            "running_builds": 0,
        },
    )
    found = values(builder)
    assert 0 < found["build_duration_seconds_sum"] < 100
    assert found["cache_bytes"] > 0
    with builder.build_in_flight(8) as results:
        shows(builder, running_builds=1)
    assert results[0].returncode == 0
    shows(builder, **{"builds_total ok": 4, "running_builds": 0})


def test_connections_and_refused_logins_are_told_by_key(builder: Builder) -> None:
    make_key(builder.folder / "stranger")
    builder.ssh_end()
    with builder.connection(), builder.connection(), builder.connection(key="ci"):
        assert builder.ping(key="stranger").returncode
        assert until(lambda: builder.who().count(" login ") == 3)
        passed(builder.health("gateway"))
        shows(builder, **{"sessions ada": 2, "sessions ci": 1, "refused_logins_total": 1})
    assert until(lambda: "nobody" in builder.who())
    passed(builder.health("gateway"))
    shows(builder, **{"sessions ada": 0, "sessions ci": 0, "refused_logins_total": 1})


def test_what_the_janitor_removes_is_counted(builder: Builder) -> None:
    for _ in range(2):
        passed(builder.docker("create", BASE_IMAGE))
    shows(
        builder,
        **{"janitor_removed_total age container": 2, "janitor_removed_total space container": 0},
    )


def test_a_part_that_fails_its_health_check_is_not_up(builder: Builder) -> None:
    gateway = ("docker", "exec", builder.container("gateway"), "pkill")
    passed(run(*gateway, "-STOP", "-f", "s6-log"))
    try:
        assert builder.health("gateway").returncode
        shows(builder, **{"part_up gateway": 0, "part_up guard": 1, "problems": 1, "up": 1})
    finally:
        passed(run(*gateway, "-CONT", "-f", "s6-log"))
    passed(builder.health("gateway"))
    shows(builder, **{"part_up gateway": 1, "problems": 0})


def test_a_part_that_has_not_reported_for_long_is_not_up(builder: Builder) -> None:
    passed(run("docker", "stop", builder.container("guard")))
    report = ("touch", "-d", "2 minutes ago", "/reports/guard")
    passed(run("docker", "exec", builder.container("metrics"), *report))
    shows(builder, **{"part_up guard": 0, "part_up janitor": 1, "problems": 1})
    passed(run("docker", "start", builder.container("guard")))
    assert until(lambda: builder.health("guard").returncode == 0)
    shows(builder, **{"part_up guard": 1, "problems": 0})


def test_only_the_page_is_behind_the_port(builder: Builder) -> None:
    form = "{{json .}}"
    [of_page, of_reader] = (
        json.loads(passed(run("docker", "inspect", "--format", form, builder.container(role))))
        for role in ("metrics-page", "metrics")
    )
    address, _, port = builder.settings["metrics"].partition(":")
    published = {"HostIp": address, "HostPort": port}
    assert of_page["NetworkSettings"]["Ports"]["9105/tcp"] == [published]
    assert not any(of_reader["NetworkSettings"]["Ports"].values())
    assert of_reader["HostConfig"]["NetworkMode"] == "none"
    [mounted] = of_page["Mounts"]
    assert (mounted["Destination"], mounted["RW"]) == ("/reports", False)
    for container in (of_page, of_reader):
        assert "docker.sock" not in json.dumps(container["Mounts"])
        assert container["Config"]["User"] == "1000:1000"
        assert container["HostConfig"]["CapDrop"] == ["ALL"]
    for method, path, status in (
        ("GET", "/metrics?a=b", 200),
        ("GET", "/reports/gateway", 404),
        ("GET", "/../problem", 404),
        ("POST", "/metrics", 501),
        ("DELETE", "/metrics", 501),
    ):
        request = urllib.request.Request(
            url(builder).removesuffix("/metrics") + path, method=method
        )
        assert answered(request) == status, (method, path)


def test_another_update_changes_nothing(builder: Builder) -> None:
    passed(builder.pulumi("preview", "--expect-no-changes"))
    passed(builder.review("drift"))


def test_without_a_daemon_the_builder_is_down_and_the_health_check_says_why(
    builder: Builder,
) -> None:
    passed(run("docker", "stop", builder.container("daemon")))
    shows(builder, **{"up": 0, "part_up daemon": 0})
    failed = builder.health("metrics")
    assert failed.returncode == 1
    assert "the daemon does not answer" in failed.stdout
    passed(run("docker", "start", builder.container("daemon")))
    assert until(lambda: builder.health("daemon").returncode == 0, 60)
    shows(builder, **{"up": 1, "part_up daemon": 1})
    passed(builder.health("metrics"))
    before = values(builder)["builds_total ok"]
    assert build(builder, "RUN echo 4 >/four") == 0
    shows(builder, **{"builds_total ok": before + 1})


def test_a_page_that_nobody_writes_any_more_is_refused(builder: Builder) -> None:
    metrics = builder.container("metrics")
    passed(run("docker", "pause", metrics))
    try:
        # The container's own clock, and the files that only it can write.
        file = f"{builder.mountpoint('reports')}/page"
        passed(run("touch", "-d", "3 minutes ago", file))
        with pytest.raises(urllib.error.HTTPError) as refused:
            page(builder)
        assert refused.value.code == 503
        assert "the builder was last read " in refused.value.read().decode()
        assert builder.health("metrics-page").returncode == 1
    finally:
        passed(run("docker", "unpause", metrics))
    assert until(lambda: builder.health("metrics-page").returncode == 0, WAIT)


def test_over_tls_it_reads_the_same_but_the_daemon_s_start(builder: Builder) -> None:
    builder.remove_key("ci")
    builder.settings["transport"] = "tls"
    builder.up()
    found = values(builder)
    assert (found["up"], found["part_up daemon"], found["problems"]) == (1, 1, 0)
    assert not {"part_up guard", "start_timestamp_seconds"} & set(found)
    assert build(builder, "RUN echo 5 >/five") == 0
    shows(builder, **{"builds_total ok": 1, "build_cached_steps_ratio_count": 1})
    assert passed(builder.client("status", "--quiet")) == ""
