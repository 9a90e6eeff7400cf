"""Settings that are Outputs of a machine which the same program creates."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pulumi
import pytest
from pulumi.output import UNKNOWN

from components import BuilderArgs, DockerBuilder, Fleet, FleetArgs, Registry, RegistryArgs
from tests.unit.conftest import CONFIG, KEY, OTHER_KEY, Run, record
from tests.unit.test_fleet import HOSTS
from tests.unit.test_program import uploads
from tests.unit.test_registry import CERTS_D

RunProgram = Callable[..., Run]

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
    return declared(lambda: DockerBuilder("builder", builder(args())), run, preview=preview)


def builder(args: dict[str, Any]) -> BuilderArgs:
    return cast("BuilderArgs", {**CONFIG, **args})


def declared(program: Callable[[], object], run: Run, *, preview: bool = False) -> Run:
    record(program, run, preview=preview)
    return run


def test_a_value_from_an_output_works_like_a_written_one() -> None:
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


def test_a_local_host_from_an_output_has_no_ssh_options() -> None:
    run = declare(lambda: {"host": output("unix:///run/docker.sock")}, Run())
    assert run["builder-host"].inputs["host"] == "unix:///run/docker.sock"
    # Not null: the plugin reads a list.
    assert run["builder-host"].inputs["sshOpts"] == "[]"


def test_a_preview_plans_everything_for_a_future_machine() -> None:
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
def test_a_value_from_an_output_is_checked_before_anything_is_created(
    args: dict[str, str], problem: str
) -> None:
    run = Run()
    with pytest.raises(pulumi.RunError, match="One setting is not usable") as refused:
        declare(lambda: {name: output(value) for name, value in args.items()}, run)
    assert problem in str(refused.value)
    assert not run.of_type("Container")


def test_a_key_from_an_output_is_checked() -> None:
    run = Run()
    with pytest.raises(pulumi.RunError, match=r"keys\[0\].publicKey = 'ssh-rsa AAAA' is cut short"):
        declare(lambda: {"keys": ada(output("ssh-rsa AAAA"))}, run)
    assert "builder-keys" not in run.resources


def test_a_host_key_from_an_output_does_not_count_as_missing() -> None:
    run = declare(lambda: {"host": HOST, "hostKey": output(KEY)}, Run())
    assert run["builder"].inputs["hostKey"] == KEY
    assert f"%H {KEY}" in run["builder-host"].inputs["sshOpts"]


def test_known_values_are_checked_at_once() -> None:
    run = Run()
    with pytest.raises(ValueError, match="2 settings are not usable") as refused:
        declare(lambda: {"host": output(HOST), "cpus": "many", "ssh_port": 0}, run)
    assert "cpus = 'many'" in str(refused.value)
    assert "builder" not in run.resources


def test_other_settings_cannot_be_outputs() -> None:
    with pytest.raises(ValueError, match="cacheSize has an Output, which only these can be: host,"):
        declare(lambda: {"cacheSize": output("5GB")}, Run())


# The registry -------------------------------------------------------------------------------------

PLACE = {"host": HOST, "hostKey": KEY, "port": 5005}


def registry(**args: Any) -> Registry:
    return Registry("cache", cast("RegistryArgs", {**PLACE, **args}))


def test_a_registry_component_serves_a_builder_like_the_stacks_own() -> None:
    def both(**args: Any) -> None:
        cache = registry(**args)
        DockerBuilder("builder", builder({"registryClient": cache.client}))

    plain = declared(both, Run())
    assert plain["cache"].inputs["host"] == HOST
    assert plain["cache-certificates"].inputs["stdin"] == "vm.example\n1\n"
    assert plain["cache-store"].inputs["ports"][0]["external"] == 5005
    files = uploads(plain["builder-daemon"])
    assert f"{CERTS_D}/vm.example:5005/client.key" in files
    # A key is in its inputs, which a preview shows.
    assert "registryClient" not in plain["builder"].inputs
    late = declared(lambda: both(host=output(HOST), hostKey=output(KEY)), Run())
    assert late.resources.keys() == plain.resources.keys()
    for name in plain.resources:
        assert late[name].inputs == plain[name].inputs, name


def test_the_export_of_another_stacks_registry_works_too() -> None:
    def program() -> None:
        parts = ("store", "mirror", "ca", "certificate", "key")
        given = pulumi.Output.secret({part: f"the {part}" for part in parts})
        DockerBuilder("builder", builder({"registry_client": given, "privateNetworks": "block"}))

    daemon = declared(program, Run())["builder-daemon"]
    files = uploads(daemon)
    assert files[f"{CERTS_D}/the store/ca.crt"]["content"] == "the ca"
    # Its names are no secrets: a preview shows the environment.
    assert "EGRESS_SERVERS=the store the mirror" in daemon.inputs["envs"]


def test_a_preview_plans_a_registry_on_a_future_machine() -> None:
    def unknown() -> None:
        never = output(UNKNOWN)
        cache = registry(host=never, hostKey=never, name=never)
        DockerBuilder("builder", builder({"registryClient": cache.client}))

    planned = declared(unknown, Run(), preview=True)
    assert "cache-mirror" in planned.resources
    assert "not-known-yet" not in str([one.inputs for one in planned.resources.values()])


def test_an_unreachable_registry_is_refused_as_soon_as_that_is_known() -> None:
    with pytest.raises(ValueError, match="name = 'localhost' must be a name or IPv4 address"):
        declared(lambda: registry(name="localhost"), Run())
    run = Run()
    with pytest.raises(pulumi.RunError, match="name = '' must be a name or IPv4 address"):
        declared(lambda: registry(host=output("unix:///run/docker.sock"), hostKey=""), run)
    assert not run.of_type("Container")


def test_a_missing_part_of_a_registry_is_named() -> None:
    with pytest.raises(ValueError, match="registryClient has no ca, certificate, key, mirror;"):
        declare(lambda: {"registryClient": {"store": "a:5000"}}, Run())


# A fleet ------------------------------------------------------------------------------------------


def test_a_fleet_has_the_stacks_builders_in_one_component(run_program: RunProgram) -> None:
    shared = {name: value for name, value in CONFIG.items() if name != "host"}

    def program() -> None:
        fleet = Fleet("builder", cast("FleetArgs", {**shared, "hosts": HOSTS}))
        pulumi.export("builders", fleet.builders)
        pulumi.export("buildxCreate", fleet.buildx_create)

    seen, expected = declared(program, Run()), run_program(host=None, hosts=HOSTS)
    assert seen.resources.keys() - expected.resources.keys() == {"builder"}
    for name, resource in expected.resources.items():
        if resource.type != "pulumi:pulumi:Stack":
            assert seen[name].inputs == resource.inputs, name
    assert seen["builder-arm"].request.parent.endswith("index:Fleet::builder")
    assert seen["builder"].inputs["hosts"][1]["name"] == "arm"
    assert not {"host", "platforms", "registry", "registryImage"} & set(seen["builder"].inputs)
    assert seen.exports["builders"] == expected.exports["builders"]
    named = expected.exports["buildxCreate"].replace("--name dev ", "--name dev-builder ")
    assert seen.exports["buildxCreate"] == named.replace("--node dev-", "--node dev-builder-")


def test_machines_of_a_fleet_can_be_outputs() -> None:
    def fleet(value: Callable[[object], object]) -> None:
        hosts = [
            {**host, "host": value(host["host"]), "hostKey": value(host["hostKey"])}
            for host in HOSTS
        ]
        keys = ada(value(OTHER_KEY))
        settings = {**{n: v for n, v in CONFIG.items() if n != "host"}, "hosts": hosts}
        Fleet("fleet", cast("FleetArgs", {**settings, "keys": keys}))

    plain = declared(lambda: fleet(lambda value: value), Run())
    late = declared(lambda: fleet(output), Run())
    assert late.resources.keys() == plain.resources.keys()
    for name in plain.resources:
        assert late[name].inputs == plain[name].inputs, name
    planned = declared(lambda: fleet(lambda _: output(UNKNOWN)), Run(), preview=True)
    assert planned.resources.keys() == plain.resources.keys()
    assert "not-known-yet" not in str([one.inputs for one in planned.resources.values()])


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        ({"hosts": []}, "hosts is empty; next: give it a host"),
        ({"hosts": [{"name": "A", "host": "unix:///a"}]}, "hosts[0].name = 'A' must be 1 to 30"),
        ({"hosts": HOSTS, "host": "unix:///a"}, "host and hosts exclude each other"),
        ({"hosts": HOSTS, "sshPort": 0}, "sshPort = '0' must be a whole number"),
    ],
)
def test_a_wrong_fleet(args: dict[str, Any], problem: str) -> None:
    run = Run()
    settings = {"keys": CONFIG["keys"], **args}
    with pytest.raises(ValueError, match=re.escape(problem)):
        declared(lambda: Fleet("fleet", cast("FleetArgs", settings)), run)
    assert "fleet" not in run.resources
