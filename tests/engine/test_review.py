"""The preview's page, compared with what really happens afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from review.effects import Effects, effects_of
from review.plan import Plan
from tests.engine.conftest import (
    GATEWAY_IMAGE,
    Builder,
    free_port,
    passed,
    run,
)

DAEMON, GATEWAY, JANITOR, METRICS = {"daemon"}, {"gateway"}, {"janitor"}, {"metrics"}
Change = Callable[[Builder], None]


def setting(**values: Any) -> Change:
    return lambda builder: builder.settings.update(values)


def together(*changes: Change) -> Change:
    def change(builder: Builder) -> None:
        for each in changes:
            each(builder)

    return change


def foretold_by(builder: Builder) -> Effects:
    """What the preview says that the update will do."""
    plan = Plan.of(json.loads(builder.pulumi("preview", "--json", "--show-sames").stdout))
    assert not plan.errors
    return effects_of(plan.builders[0])


def containers(builder: Builder) -> dict[str, str]:
    """The running containers of the builder: role and id."""
    label = f"label=docker-build-machine.owner=docker-build-machine/{builder.stack}/builder"
    output = passed(
        run("docker", "ps", "--no-trunc", "--format", "{{.Names}} {{.ID}}", "--filter", label)
    )
    prefix = builder.container("")
    return {
        name.removeprefix(prefix): identifier
        for name, identifier in (line.split() for line in output.splitlines())
    }


def cache_folder(builder: Builder) -> str:
    """The folder of the cache volume."""
    return passed(
        run(
            "docker",
            "run",
            "--rm",
            "--volume",
            f"{builder.container('cache')}:/cache",
            "--entrypoint",
            "stat",
            GATEWAY_IMAGE,
            "-c",
            "%i %w",
            "/cache",
        )
    )


@pytest.mark.parametrize(
    ("change", "gone", "output"),
    [
        # Changes that restart nothing are made together, because an update takes seconds.
        pytest.param(
            together(
                lambda builder: builder.add_key("bob", **{"from": ["127.0.0.1"]}),
                setting(memory="2GB", drainTime="1m"),
            ),
            set(),
            ["nothing restarts", "who gets in changes", "changes the daemon in place"],
            id="another key, memory and drainTime",
        ),
        pytest.param(
            setting(leftoverAge="2d"), JANITOR, ["restarts the janitor"], id="leftoverAge"
        ),
        pytest.param(
            setting(cpus="1.5"),
            DAEMON,
            ["builds in flight get 1m to end, new ones wait"],
            id="cpus",
        ),
        pytest.param(
            setting(cacheSize="4GB", insecureRegistries=["registry.example:5000"]),
            DAEMON | JANITOR,
            ["recreates the daemon", "restarts the janitor"],
            id="cacheSize and insecureRegistries",
        ),
        pytest.param(
            lambda builder: builder.settings.update(
                sshPort=free_port(), metrics=f"127.0.0.1:{free_port()}"
            ),
            GATEWAY | JANITOR,
            [
                "open connections drop",
                "every client needs the new sshConfig",
                "adds the metrics",
                "adds the metrics-page",
            ],
            id="sshPort and metrics",
        ),
        pytest.param(
            together(lambda builder: builder.remove_key("bob"), setting(hostKeys=[1, 2])),
            METRICS,
            ["who gets in changes", "makes host key 2", "restarts the metrics"],
            id="a key less and a second host key",
        ),
        pytest.param(
            setting(hostKeys=[2, 1]),
            GATEWAY | METRICS,
            ["presents host key 2 instead of 1: clients"],
            id="the second host key first",
        ),
        pytest.param(
            setting(transport="tls"),
            DAEMON | GATEWAY | JANITOR | METRICS,
            ["builds in flight get 1m to end", "open connections drop", "restarts the metrics"],
            id="transport",
        ),
        pytest.param(
            setting(keepCache=False), set(), ["the next pulumi destroy DELETES it"], id="keepCache"
        ),
    ],
)
def test_a_plan_shows_what_the_update_does(
    builder: Builder, change: Change, gone: set[str], output: list[str]
) -> None:
    before, cache = containers(builder), cache_folder(builder)
    with ExitStack() as open_things:
        connection = open_things.enter_context(builder.connection())
        in_flight = (
            open_things.enter_context(builder.build_in_flight(4)) if "daemon" in gone else None
        )
        change(builder)
        foretold = foretold_by(builder)
        builder.up()
        after = containers(builder)
        dropped = connection.poll() is not None
    went = {role for role in before if before[role] != after.get(role)}
    assert went == foretold.containers_gone == gone
    assert dropped == foretold.drops_connections
    assert cache_folder(builder) == cache
    assert not foretold.deletes_cache
    if in_flight:
        assert (in_flight[0].returncode == 0) == foretold.drains
    for sentence in output:
        assert any(sentence in report for report in foretold.sentences), foretold.sentences
    assert ("nothing restarts" in foretold.sentences) == (not gone)
