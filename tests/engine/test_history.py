"""Builds that a builder remembers: the list, one build step by step, and why its steps ran."""

from __future__ import annotations

import argparse
import io
import json
import re
import secrets
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from client import builds
from client.history import History, Record
from client.stack import Stack, StackError
from tests.collector import Collector, collecting
from tests.engine.conftest import (
    BASE_IMAGE,
    Builder,
    Result,
    docker_config,
    passed,
    run,
    until,
)

SECRET = "p4ss" + secrets.token_hex(4)
DOCKERFILE = f"""\
FROM {BASE_IMAGE} AS base
ARG WORD=hey
RUN echo $WORD >/word
FROM base
COPY a.txt /src/
RUN --mount=type=secret,id=go \\
    test -s /run/secrets/go && cat /src/a.txt
COPY sub /src/sub
"""
STEPS = ("[base 2/2]", "[stage-1 1/3]", "[stage-1 2/3]", "[stage-1 3/3]")


@dataclass
class Project:
    """A folder that is built, and the builder that builds it."""

    builder: Builder
    folder: Path
    config: Path
    """For DOCKER_CONFIG, with buildx."""

    def build(self, *options: str, go: str = "yes") -> Result:
        (self.folder.parent / "go").write_text(go)
        return run(
            "docker",
            "buildx",
            "build",
            "--tag=acme/app:1",
            f"--secret=id=go,src={self.folder.parent}/go",
            *options,
            str(self.folder),
            env={**self.builder.docker_env(), "DOCKER_CONFIG": str(self.config)},
        )

    def change(self, file: str, old: str = "", new: str = "") -> None:
        """Replace text in a file, or give it new content."""
        path = self.folder / file
        text = path.read_text().replace(old, new) if old else secrets.token_hex(8)
        path.write_text(text)

    def printed(self, *words: str) -> str:
        """What `python -m client builds` prints, without asking Pulumi for the builder's name."""
        parser = argparse.ArgumentParser()
        builds.add_arguments(parser)
        with redirect_stdout(io.StringIO()) as output:
            stack = Stack({"sshAlias": self.builder.alias}, {})
            assert builds.run(stack, parser.parse_args(words)) == 0
        assert SECRET not in output.getvalue(), "never the value of a build argument"
        return output.getvalue()

    def ask(self, *words: str) -> Any:
        """The same as JSON."""
        return json.loads(self.printed(*words, "--json"))

    def causes(self, which: str = "1") -> list[tuple[str, str]]:
        """Stage and number of each step that ran, and the cause."""
        return [(r["step"].split("]")[0] + "]", r["cause"]) for r in self.ask("why", which)]

    def reason(self) -> str:
        """The text about the first step that ran in the last build."""
        return str(self.ask("why")[0]["text"])


@pytest.fixture(scope="module")
def project(builder: Builder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project in a git checkout that was built once; its builder keeps its base image."""
    folder = tmp_path_factory.mktemp("project") / "app"
    (folder / "sub").mkdir(parents=True)
    (folder / "Dockerfile").write_text(DOCKERFILE)
    for name in ("a.txt", "sub/b.txt"):
        (folder / name).write_text(name)
    git = ("git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@example.com")
    passed(run(*git, "init", "--quiet"))
    passed(run(*git, "remote", "add", "origin", "https://git.example/acme/app.git"))
    passed(run(*git, "add", "."))
    passed(run(*git, "commit", "--quiet", "--message", "one"))
    ready = Project(builder, folder, docker_config(folder.parent / "docker"))
    passed(ready.build())
    yield ready
    builder.load_base()


@pytest.fixture(scope="module")
def collector(builder: Builder) -> Iterator[Collector]:
    """It listens where the daemon's container reaches this machine.

    The address of Docker's default bridge is also that of the bridge in the daemon.
    """
    form = "{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}"
    address = passed(run("docker", "inspect", "--format", form, builder.container("daemon")))
    with collecting(address.strip()) as started:
        yield started


def chain(first: str, cause: str) -> list[tuple[str, str]]:
    """The causes when this step ran and all later ones followed from it."""
    after = STEPS[STEPS.index(first) + 1 :]
    return [(first, cause), *((step, "step before it") for step in after)]


def test_a_first_build_has_no_earlier_one_to_compare(project: Project) -> None:
    assert project.causes() == chain("[base 2/2]", "first build")


def test_a_cached_build_needs_no_explanation(project: Project) -> None:
    passed(project.build())
    assert project.causes() == []
    assert "every step" in project.printed("why")


def test_builds_are_listed_with_commit_context_and_cached_steps(project: Project) -> None:
    commit = passed(run("git", "-C", str(project.folder), "rev-parse", "HEAD")).strip()
    again, first = project.ask("list", "--last", "2")
    assert (again["cached"], again["steps"], first["cached"], first["steps"]) == (4, 4, 0, 4)
    for build in (again, first):
        assert build["images"] == ["acme/app:1"]
        assert build["commit"] == commit
        assert not build["failed"]
        assert build["seconds"] > 0
        assert 0 < build["context"] < 1000
    listed = passed(project.builder.client("builds")).splitlines()
    assert listed[1].split()[0] == "1"
    assert f"acme/app:1  {commit[:7]}" in listed[1]
    assert "4 of 4" in listed[1]
    assert first["ref"][:8] in listed[2]


def test_one_build_is_shown_step_by_step(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    # Names are cut to the width of the terminal, which pytest's workers set to 80.
    monkeypatch.setenv("COLUMNS", "120")
    shown = project.ask("show", "2")
    steps = {entry["step"].split("]")[0] + "]": entry for entry in shown["waterfall"]}
    assert set(STEPS) < set(steps)
    assert steps["[base 2/2]"]["step"] == "[base 2/2] RUN echo $WORD >/word"
    times = [steps[place]["started"] for place in STEPS]
    assert times == sorted(times)
    assert all(entry["completed"] >= entry["started"] for entry in shown["waterfall"])
    text = project.printed("show")
    assert "cached" in text
    assert "[stage-1 3/3] COPY sub /src/sub" in text
    wrong = project.builder.client("builds", "show", "nothing")
    assert wrong.returncode == 1
    assert "no builds are called nothing; next: choose a number or an id" in wrong.stderr


@pytest.mark.parametrize("what", ["list", "show"])
def test_a_build_that_is_removed_during_reading_is_left_out(
    project: Project, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    passed(project.build())
    [newest] = project.ask("list", "--last", "1")
    records = History.records
    env = {**project.builder.docker_env(), "DOCKER_CONFIG": str(project.config)}

    def removed_afterwards(history: History) -> list[Record]:
        found = records(history)
        run("docker", "buildx", "history", "rm", newest["ref"], env=env)
        return found

    monkeypatch.setattr(History, "records", removed_afterwards)
    if what == "show":
        with pytest.raises(StackError, match="build 1 has just been removed; next: choose another"):
            project.printed("show")
        return
    listed = project.ask("list")
    assert listed
    assert newest["ref"] not in [build["ref"] for build in listed]


def test_a_changed_file_is_found_by_the_step_that_copies_it(project: Project) -> None:
    project.change("a.txt")
    passed(project.build())
    assert project.causes() == chain("[stage-1 1/3]", "file")
    assert project.reason() == "a.txt, or a file in it, changed"
    project.change("sub/b.txt")
    passed(project.build())
    assert project.causes() == chain("[stage-1 3/3]", "file")


def test_a_changed_instruction_is_shown_with_what_it_was(project: Project) -> None:
    project.change("Dockerfile", "/src/a.txt", "-n /src/a.txt")
    passed(project.build())
    assert project.causes() == chain("[stage-1 2/3]", "instruction")
    assert project.reason().endswith(
        "it was: RUN --mount=type=secret,id=go test -s /run/secrets/go && cat /src/a.txt"
    )


def test_a_changed_build_argument_is_named_without_its_value(project: Project) -> None:
    passed(project.build("--build-arg", f"WORD={SECRET}"))
    assert project.causes() == chain("[base 2/2]", "build argument")
    assert project.reason() == "the build argument WORD changed"
    for words in ((), ("show",), ("why",)):
        project.printed(*words)


def test_the_page_of_the_status_explains_each_build(project: Project, tmp_path: Path) -> None:
    passed(project.build("--build-arg", f"WORD={SECRET}"))
    project.change("sub/b.txt")
    passed(project.build())
    target = tmp_path / "status.html"
    passed(project.builder.client("status", "--html", str(target)))
    html = target.read_text()
    assert SECRET not in html
    refs = [build["ref"] for build in project.ask("list") if build["steps"]]
    waterfalls = html.split('<details class="build">')[1:]
    assert re.findall(r'<div id="build-(\w+)">', html) == refs, "the newest first"
    assert {f"#build-{ref}" for ref in refs} == set(re.findall(r'href="([^"]*)"', html))
    rows = re.findall(r'<li class="(\w+)">\n<code>(\[\S+ \d/\d\]) (?!FROM)', waterfalls[0])
    # WORD has its default again, with which the first step was built before.
    cached = {step: "cached" for step in STEPS[:3]}
    assert {step: kind for kind, step in rows} == {**cached, STEPS[3]: "ran"}
    assert "<b>file</b> sub, or a file in it, changed" in waterfalls[0]
    assert "<b>" not in waterfalls[0].replace("<b>file</b>", "")


def test_a_step_that_failed_after_a_change_is_explained_when_it_runs_again(
    project: Project,
) -> None:
    project.change("a.txt")
    assert project.build(go="").returncode
    assert project.causes() == [("[stage-1 1/3]", "file"), ("[stage-1 2/3]", "step before it")]
    assert project.ask("list")[0]["failed"]
    assert "error: " in project.printed("show")
    passed(project.build())
    assert project.causes() == chain("[stage-1 2/3]", "never completed")


def test_no_cache_is_named_as_an_option_of_the_client(project: Project) -> None:
    passed(project.build("--no-cache"))
    assert project.causes() == [(step, "no-cache") for step in STEPS]


def test_another_platform_is_no_change(project: Project) -> None:
    (project.folder / "other").write_text("FROM scratch\nARG TARGETARCH\nCOPY *$TARGETARCH /\n")
    for name in ("for-amd64", "for-arm64"):
        (project.folder / name).write_text(name)
    for name in ("linux/amd64", "linux/arm64"):
        passed(project.build(f"--file={project.folder}/other", f"--platform={name}"))
    assert [cause for _, cause in project.causes()] == ["platform"]
    assert "another platform: linux/amd64, not linux/arm64" in project.reason()


def test_another_base_image_of_the_same_name_is_found(project: Project) -> None:
    passed(project.build())
    dockerfile = f"FROM {BASE_IMAGE}\nRUN echo {secrets.token_hex(4)} >/other\n"
    passed(project.builder.docker("build", "--tag", BASE_IMAGE, "-", input=dockerfile))
    passed(project.build())
    assert project.causes() == chain("[base 2/2]", "base image")
    assert f"the base image {BASE_IMAGE} has another digest: sha256:" in project.reason()


def test_a_cleared_cache_is_distinguished_from_a_change(project: Project) -> None:
    project.change("a.txt")
    passed(project.build())
    [changed] = project.ask("list", "--last", "1")
    assert project.causes(changed["ref"][:10]) == chain("[stage-1 1/3]", "file")
    passed(project.builder.docker("builder", "prune", "--all", "--force"))
    passed(project.build())
    assert project.causes() == chain("[base 2/2]", "cache cleared")
    # What the daemon had to tell the two apart is gone.
    assert project.causes(changed["ref"][:10]) == chain("[stage-1 1/3]", "cannot be told")


def test_the_history_survives_a_new_daemon_and_keeps_to_its_limits(
    project: Project, collector: Collector
) -> None:
    before = [build["ref"] for build in project.ask("list")]
    project.builder.settings |= {
        "historyBuilds": 4,
        "historyAge": "10s",
        "traces": collector.url,
    }
    daemon = project.builder.container_id("daemon")
    project.builder.up()
    assert project.builder.container_id("daemon") != daemon

    def kept() -> list[str]:
        return [build["ref"] for build in project.ask("list") if build["ref"] in before]

    # The daemon removes what is beyond both limits when it starts, and every two minutes.
    assert until(lambda: len(kept()) < len(before))
    assert len(kept()) >= 4
    assert kept() == before[: len(kept())]
    assert project.causes(before[0][:10]) == chain("[base 2/2]", "cache cleared")


def test_builds_are_traced_where_a_setting_says(project: Project, collector: Collector) -> None:
    project.builder.settings["traces"] = collector.url
    project.builder.up()
    for _ in range(2):
        project.change("a.txt")
        passed(project.build("--build-arg", f"WORD={SECRET}"))

    def of(name: str) -> set[str]:
        """The traces that have a span with this in its name."""
        return {span.trace for span in list(collector.spans) if name in span.name}

    # What runs, what comes from the cache, and the client's spans, which buildx sends the daemon.
    spans = (f"{STEPS[1]} COPY a.txt", f"load cache: {STEPS[0]} RUN", f"build {project.folder}")
    assert until(lambda: set.intersection(*map(of, spans)), 60), "one trace has all of a build"
    assert any(SECRET in span.name for span in collector.spans), "as docs/running.md says"
    assert collector.paths == {"/v1/traces"}

    def exporters() -> dict[str, str]:
        resources = [span.resource for span in list(collector.spans)]
        return {one["service.name"]: one.get("service.instance.id", "") for one in resources}

    daemon = project.builder.container("daemon")
    expected = {"dockerd": daemon, "containerd": daemon, "buildx": ""}
    assert until(lambda: exporters() == expected, 60), exporters()
    assert passed(project.builder.client("status", "--quiet")) == ""

    collector.stop()
    passed(project.build())
    told = f"{project.builder.alias}: traces do not reach traces = {collector.url} (Post "
    assert until(lambda: project.builder.client("status", "--quiet").stdout.startswith(told), 60)
    assert project.builder.client("status").returncode == 1
