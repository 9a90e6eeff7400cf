"""The client's explanations of builds, without a daemon; test_history.py has a real one."""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import replace
from typing import Any

import pytest

from client.builds import table, waterfall
from client.explain import Cause, Clearing, comparable, explain
from client.history import Build, Definition, Details, Record, Step, definitions_of, steps_of
from client.stack import Stack, StackError
from components.docker_host import DockerHost
from tests.unit.protobuf_classes import MESSAGES

FROM = "[1/3] FROM docker.io/library/alpine:3.22"


def record(ref: str = "b", started: float = 100, **changes: Any) -> Record:
    values: dict[str, Any] = {
        "ref": ref,
        "started": started,
        "completed": started + 10,
        "frontend": "dockerfile.v0",
        "options": {"filename": "Dockerfile"},
        "arguments": {},
        "images": ("app:1",),
        "error": None,
        "provenance": (),
        **changes,
    }
    return Record(**values)


def step(name: str, *inputs: str, at: float | None = 100, **changes: Any) -> Step:
    """A step whose digest is its name; it took two seconds."""
    completed = None if at is None else at + 2
    return Step(name, name, inputs, started=at, completed=completed, **changes)


def run_of(text: str, line: int = 3, *env: str) -> Definition:
    return Definition({"exec": {"meta": {"args": [text], "env": list(env)}}}, line=line, text=text)


def build(ref: str, started: float, *steps: Step, **known: Any) -> Details:
    definitions = known.pop("definitions", {})
    return Details(record(ref, started, **known), [step(FROM, at=started), *steps], definitions)


def causes(*arguments: Any) -> list[tuple[Cause, str]]:
    return [(reason.cause, reason.text) for reason in explain(*arguments)]


def test_a_builder_of_several_is_chosen_by_its_host() -> None:
    hosts = [{"name": "eu1", "host": "ssh://ops@eu1.example", "hostKey": "ssh-ed25519 AAAA"}]
    builders = [{"name": "eu1", "sshAlias": "team-a-builder-eu1"}]
    several = Stack({"sshAlias": "first", "builders": builders}, {"hosts": hosts})
    one = several.on_host("eu1")
    assert one.alias == "team-a-builder-eu1"
    assert one.docker_host == DockerHost("ssh://ops@eu1.example", "ssh-ed25519 AAAA")
    for name, problem in ((None, "is missing: this stack has the hosts eu1"), ("us1", "us1: this")):
        with pytest.raises(StackError, match=f"--host {problem}"):
            several.on_host(name)
    single = Stack({"sshAlias": "first"}, {})
    assert single.on_host(None) == single
    with pytest.raises(StackError, match="--host eu1: this stack has one host"):
        single.on_host("eu1")


def test_values_of_build_arguments_are_masked_in_names_and_errors() -> None:
    one = record(arguments={"TOKEN": "s3cret", "USER": "s3", "N": "1", "EMPTY": ""})
    assert one.masked("RUN curl u:s3cret@host") == "RUN curl u:$TOKEN@host"
    assert one.masked("[2/11] RUN make -j 1") == "[2/11] RUN make -j $N"
    failed = replace(one, error="process /bin/sh -c echo s3cret did not complete")
    assert "s3cret" not in waterfall(Details(failed, [step("[2/3] RUN echo s3cret")], {}))
    assert "s3cret" not in repr(failed)


def test_a_change_of_a_failed_build_is_found_by_names() -> None:
    old = build("a", 50, step("[2/3] RUN one", FROM, at=50))
    new = build("b", 100, step("[2/3] RUN two", FROM))
    assert causes(new, [old], [], []) == [
        (Cause.INSTRUCTION, "the instruction changed; it was: [2/3] RUN one")
    ]


def test_an_argument_that_no_name_shows_is_found_by_names() -> None:
    name = "[2/3] RUN one"
    old = build("a", 50, step(name, FROM, at=50), arguments={"A": "1", "B": "1"})
    new = build("b", 100, step(name, FROM), arguments={"A": "1", "B": "2"})
    assert causes(new, [old], [51], []) == [(Cause.ARGUMENT, "the build argument B changed")]


def test_the_digest_of_an_image_is_found_by_names() -> None:
    """BuildKit writes no provenance for a build that failed."""
    name = "[2/3] RUN one"
    old, new = (
        Details(
            record(ref, at), [step(f"{FROM}@sha256:{ref}"), step(name, f"{FROM}@sha256:{ref}")], {}
        )
        for ref, at in (("a", 50), ("b", 100))
    )
    image = "docker.io/library/alpine:3.22"
    assert causes(new, [old], [], []) == [
        (Cause.BASE, f"the base image {image} has another digest: sha256:a → sha256:b")
    ]


def test_a_download_does_not_count_as_an_instruction() -> None:
    """The download of an ADD is a step with the same name, and never cached."""
    vertex = MESSAGES["Vertex"]
    name = "[2/2] ADD https://a.example/b /b"
    answer = MESSAGES["StatusResponse"](
        vertexes=[
            vertex(digest="add", name=name, inputs=["from", "download"], cached=True),
            vertex(digest="download", name=name),
        ]
    )
    steps = steps_of([answer])
    assert [one.digest for one in steps if one.is_instruction] == ["add"]
    ran = [replace(one, started=100.0, completed=101.0, cached=False) for one in steps]
    before = [replace(one, started=50.0, completed=51.0) for one in ran]
    assert causes(
        Details(record(), ran, {}), [Details(record("a", 50), before, {})], [50.5], []
    ) == [(Cause.FILE, "a file that it takes from the build context or an address changed")]


def test_a_variable_of_the_dockerfile_is_distinguished_from_a_build_argument() -> None:
    name = "[2/3] RUN make"
    old = build("a", 50, step(name, FROM, at=50), definitions={name: run_of("RUN make", 3, "A=1")})
    new = build("b", 100, step(name, FROM), definitions={name: run_of("RUN make", 3, "A=2")})
    [(cause, text)] = causes(new, [old], [], [])
    assert (cause, text) == (
        Cause.INSTRUCTION,
        "the variable A changed (an ENV or ARG of the Dockerfile before it)",
    )


def test_an_added_instruction_is_new() -> None:
    first, second = step("[2/3] RUN one", FROM, cached=True), step("[3/3] RUN two", "[2/3] RUN one")
    new = build("b", 100, first, second)
    old = build("a", 50, step("[2/3] RUN one", FROM, at=50))
    assert causes(new, [old], [], []) == [
        (Cause.INSTRUCTION, "build a did not have the instruction")
    ]


def test_the_janitor_is_named_when_it_cleared_the_cache_between_two_builds() -> None:
    log = (
        "2026-11-27T00:00:10.123456789Z [janitor] by age: removed image a:1; free 1 GB -> 2 GB\n"
        "2026-11-27T00:00:20.123456789Z [janitor] the disk is nearly full: removed image a:1, "
        "cache 1.2GB; free 1.00 GB -> 3.00 GB\n"
    )
    [found] = Clearing.parse(log)
    assert found.text.startswith("2026-11-27 00:00:20, the disk is nearly full: removed image a:1")
    name = "[2/3] RUN make"
    old, new = build("a", 50, step(name, FROM, at=50)), build("b", 100, step(name, FROM))
    [(cause, text)] = causes(new, [old], [], [Clearing(70, "at 70")])
    assert (cause, text) == (
        Cause.CLEARED,
        "its result was no longer in the cache; the janitor removed cache in between: at 70",
    )
    for outside in (40, 200):
        assert "janitor" not in causes(new, [old], [], [Clearing(outside, "")])[0][1]


def test_a_result_that_is_in_the_cache_and_was_not_used_cannot_be_explained() -> None:
    name = "[2/3] RUN make"
    old, new = build("a", 50, step(name, FROM, at=50)), build("b", 100, step(name, FROM))
    assert causes(new, [old], [51], [])[0][0] == Cause.UNKNOWN
    assert causes(new, [old], [60], [])[0][0] == Cause.CLEARED


def test_no_cache_for_one_stage_explains_only_that_stage() -> None:
    steps = (step("[web 2/2] RUN one", FROM), step("[api 2/2] RUN two", FROM))
    new = build("b", 100, *steps, options={"no-cache": "web"})
    old = build("a", 50, *(replace(one, started=50.0, completed=52.0) for one in steps))
    assert [cause for cause, _ in causes(new, [old], [], [])] == [Cause.NO_CACHE, Cause.CLEARED]


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"images": ("app:2", "other:1")}, True),
        ({"images": ("other:1",)}, False),
        ({"options": {"target": "tests"}}, False),
        ({"options": {"filename": "other"}}, False),
        ({"completed": None}, False),
        ({"started": 200}, False),
        ({"options": {"vcs:source": "https://a"}}, True),
    ],
)
def test_a_build_is_compared_with_earlier_ones_of_the_same(
    change: dict[str, Any], same: bool
) -> None:
    other = record("a", **{"started": 50, **change})
    assert comparable(record(), [other, record()]) == [other] * same


def test_builds_of_two_repositories_are_never_compared() -> None:
    def of(source: str, folder: str = ".") -> Record:
        options = {"vcs:source": source, "vcs:localdir:context": folder}
        return record("a", 50, options=options, images=())

    last = replace(of("https://a"), started=100.0)
    assert comparable(last, [of("https://a"), of("https://b"), of("https://a", "sub")]) == [
        of("https://a")
    ]
    remote = [record("a", 50, options={"context": f"https://a#{ref}"}) for ref in ("x", "y:sub")]
    last = record(options={"context": "https://a#z"})
    assert comparable(last, remote) == remote[:1]


def test_a_definition_is_read_from_the_provenance() -> None:
    dockerfile = "FROM alpine:3.22\nRUN one && \\\n    two\n"
    ranges = [{"start": {"line": n}, "end": {"line": n}} for n in (2, 3)]
    source = {"identifier": "docker-image://docker.io/library/alpine:3.22"}
    predicate = {
        "buildDefinition": {
            "resolvedDependencies": [
                {"uri": "pkg:docker/alpine@3.22?platform=x", "digest": {"sha256": "00ff"}}
            ],
            "internalParameters": {
                "buildConfig": {
                    "digestMapping": {"d0": "step0", "d1": "step1", "d2": "step2"},
                    "llbDefinition": [
                        {"id": "step0", "op": {"Op": {"source": source}}},
                        {
                            "id": "step1",
                            "op": {
                                "Op": {"exec": {"meta": {"env": ["A=1"], "proxyEnv": {}}}},
                                "platform": {"OS": "linux", "Architecture": "arm"},
                            },
                        },
                        {
                            "id": "step2",
                            "op": {
                                "Op": {
                                    "source": {
                                        "identifier": "local://context",
                                        "attrs": {"local.followpaths": '["a"]'},
                                    }
                                }
                            },
                        },
                    ],
                }
            },
        },
        "runDetails": {
            "metadata": {
                "buildkit_metadata": {
                    "source": {
                        "locations": {"step1": {"locations": [{"ranges": ranges}]}, "step2": {}},
                        "infos": [{"data": b64encode(dockerfile.encode()).decode()}],
                    }
                }
            }
        },
    }
    found = definitions_of(json.dumps(predicate).encode())
    assert found["d0"].image == "docker.io/library/alpine:3.22"
    assert found["d0"].image_digest == "sha256:00ff"
    assert found["d1"] == Definition(
        {"exec": {"meta": {"env": ["A=1"]}}}, platform="linux/arm", line=2, text="RUN one && two"
    )
    assert found["d2"] == Definition({"source": {"identifier": "local://context"}})


def test_the_list_says_which_builds_run_and_which_failed() -> None:
    rows = table(
        [
            Build(0, None, 0, 0, False, ref="running99"),
            Build(0, 1.25, 3, 2, True, ref="failed9999", images=("app:1",)),
        ]
    ).splitlines()
    assert rows[1].split() == ["1", "1970-01-01", "00:00:00", *"-----", "runs", "running9"]
    assert rows[2].split()[3:] == ["app:1", "-", "1.2", "2", "of", "3", "-", "failed", "failed99"]
    assert steps_of([]) == []
