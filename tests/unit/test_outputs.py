"""Settings that are Outputs of a machine which the same program makes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pulumi
import pytest
from pulumi.output import UNKNOWN

from components import BuilderArgs, DockerBuilder
from tests.unit.conftest import CONFIG, KEY, OTHER_KEY, Run, record

HOST = "ssh://ops@vm.example:2022"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))


def output(value: object) -> pulumi.Output[Any]:
    return pulumi.Output.from_input(value)


def ada(public_key: object) -> list[dict[str, object]]:
    return [{"name": "ada", "publicKey": public_key}]


def declare(args: Callable[[], dict[str, Any]], run: Run, *, preview: bool = False) -> Run:
    """Run a program whose one resource is a builder; its arguments are made as it runs."""

    def program() -> None:
        DockerBuilder("builder", cast("BuilderArgs", {**CONFIG, **args()}))

    record(program, run, preview=preview)
    return run


def test_what_an_output_brings_is_as_if_it_had_been_written() -> None:
    def outputs() -> dict[str, Any]:
        return {
            "host": output(HOST),
            "hostKey": output(KEY),
            "sshHost": output("vm.example"),
            "keys": ada(output(OTHER_KEY)),
        }

    def plain() -> dict[str, Any]:
        return {"host": HOST, "hostKey": KEY, "sshHost": "vm.example", "keys": ada(OTHER_KEY)}

    expected, seen = declare(plain, Run()), declare(outputs, Run())
    assert seen.resources.keys() == expected.resources.keys()
    for name in seen.resources:
        assert seen[name].inputs == expected[name].inputs, name


def test_a_local_host_that_an_output_brings_has_no_ssh_options() -> None:
    run = declare(lambda: {"host": output("unix:///run/docker.sock")}, Run())
    assert run["builder-host"].inputs["host"] == "unix:///run/docker.sock"
    # Not null: the plugin reads a list.
    assert run["builder-host"].inputs["sshOpts"] == "[]"


def test_a_preview_plans_everything_while_the_machine_is_not_there() -> None:
    def unknown() -> dict[str, Any]:
        never = output(UNKNOWN)
        return {"host": never, "hostKey": never, "sshHost": never, "keys": ada(never)}

    planned = declare(unknown, Run(), preview=True)
    assert planned.resources.keys() == declare(dict, Run(), preview=True).resources.keys()
    assert "not-known-yet" not in str([one.inputs for one in planned.resources.values()])
    assert "AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAA" not in str(planned.resources)


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        ({"host": "tcp://vm:2375"}, "host = 'tcp://vm:2375' must be unix:///"),
        ({"host": HOST}, "hostKey is empty, but host = ssh://ops@vm.example:2022"),
        ({"sshHost": "a b"}, "sshHost = 'a b' must be a host name"),
    ],
)
def test_what_an_output_brings_is_checked_before_anything_is_on_the_host(
    args: dict[str, str], problem: str
) -> None:
    run = Run()
    with pytest.raises(pulumi.RunError, match="One setting is not usable") as refused:
        declare(lambda: {name: output(value) for name, value in args.items()}, run)
    assert problem in str(refused.value)
    assert not run.of_type("Container")


def test_a_key_that_an_output_brings_is_checked_too() -> None:
    run = Run()
    with pytest.raises(pulumi.RunError, match=r"keys\[0\].publicKey = 'ssh-rsa AAAA' is cut short"):
        declare(lambda: {"keys": ada(output("ssh-rsa AAAA"))}, run)
    assert "builder-keys" not in run.resources


def test_what_is_known_is_checked_at_once() -> None:
    run = Run()
    with pytest.raises(ValueError, match="2 settings are not usable") as refused:
        declare(lambda: {"host": output(HOST), "cpus": "many", "ssh_port": 0}, run)
    assert "cpus = 'many'" in str(refused.value)
    assert "builder" not in run.resources


def test_other_settings_are_no_outputs() -> None:
    with pytest.raises(ValueError, match="cacheSize has an Output, which only these can be: host,"):
        declare(lambda: {"cacheSize": output("5GB")}, Run())
