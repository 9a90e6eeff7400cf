"""The component in a program in another language: the example in YAML, on the real engine."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.engine.conftest import (
    DAEMON_IMAGE,
    GATEWAY_IMAGE,
    REGISTRY_IMAGE,
    ROOT,
    Result,
    bridge_address,
    free_port,
    make_key,
    passed,
    run,
    run_inside,
)


class YamlProgram:
    """The example with its own stack and additional settings of its builder."""

    def __init__(self, folder: Path, **properties: Any) -> None:
        self.folder = folder
        self.env = {
            "PULUMI_BACKEND_URL": f"file://{folder}",
            "PULUMI_CONFIG_PASSPHRASE": "only for tests",
            # The plugins on PATH are none that the engine would count as installed.
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
        }
        program = yaml.safe_load((ROOT / "examples" / "yaml" / "Pulumi.yaml").read_text())
        assert program["packages"] == {"docker-build-machine": "../../package"}
        program["packages"] = {"docker-build-machine": str(ROOT / "package")}
        self.program = program
        self.public_key = make_key(folder / "ada")
        self.set(**properties)
        passed(self.pulumi("stack", "init", "yaml"))
        passed(self.pulumi("config", "set", "publicKey", self.public_key))

    def set(self, **properties: Any) -> None:
        self.program["resources"]["builder"]["properties"] |= properties
        (self.folder / "Pulumi.yaml").write_text(yaml.safe_dump(self.program))

    def output_of_a_command(self, name: str, text: str) -> str:
        """The text as an output of another resource, which a preview does not know."""
        self.program["resources"][name] = {
            "type": "command:local:Command",
            "properties": {"create": f"echo {shlex.quote(text)}"},
        }
        return f"${{{name}.stdout}}"

    def pulumi(self, *words: str) -> Result:
        return run("pulumi", "--non-interactive", *words, cwd=self.folder, env=self.env)

    def review(self, *words: str) -> Result:
        """`python -m review` of this repository, for this program."""
        review = (sys.executable, "-m", "review", *words, "--cwd", str(self.folder))
        return run(*review, "--stack", "yaml", env=self.env, cwd=ROOT)


@pytest.fixture
def program(tmp_path: Path) -> Iterator[YamlProgram]:
    program = YamlProgram(
        tmp_path,
        daemonImage=DAEMON_IMAGE,
        gatewayImage=GATEWAY_IMAGE,
        sshPort=free_port(),
        cacheSize="5GB",
        keepCache=False,
    )
    yield program
    passed(program.pulumi("destroy", "--yes", "--skip-preview"))


@pytest.fixture
def upstream() -> Iterator[str]:
    """A registry for a mirror to ask, at an address of this machine that containers reach."""
    place = f"{bridge_address()}:{free_port()}"
    publish = ("--detach", "--publish", f"{place}:5000")
    container = passed(run("docker", "run", *publish, REGISTRY_IMAGE)).strip()
    yield f"http://{place}"
    run("docker", "rm", "--force", "--volumes", container)


def test_a_yaml_program_declares_a_builder_on_a_machine_that_it_makes(
    program: YamlProgram, upstream: str
) -> None:
    host = program.output_of_a_command("machine", "unix:///var/run/docker.sock")
    port = free_port()
    program.program["resources"]["cache"] = {
        "type": "docker-build-machine:Registry",
        "properties": {
            "host": host,
            "name": "cache.example",
            "address": "127.0.0.1",
            "port": port,
            "mirrorPort": free_port(),
            "image": REGISTRY_IMAGE,
            "upstream": upstream,
        },
    }
    parts = ("store", "mirror", "ca", "certificate", "key")
    program.set(registryClient={part: f"${{cache.{part}}}" for part in parts})
    key = program.output_of_a_command("key", "ssh-ed25519 AAAA")
    program.set(host=host, keys=[{"name": "ada", "publicKey": key}])

    # A preview does not know them and plans everything.
    shown = passed(program.pulumi("preview"))
    assert "builder-readiness" in shown
    # What is known by now is wrong, and nothing of it gets to the host.
    result = program.pulumi("up", "--yes", "--skip-preview")
    assert result.returncode != 0
    assert "keys[0].publicKey = 'ssh-ed25519 AAAA' is cut short" in result.stdout, result.stdout
    assert " builder-" not in result.stdout

    program.output_of_a_command("key", program.public_key)
    program.set()
    passed(program.pulumi("up", "--yes", "--skip-preview"))
    outputs = json.loads(passed(program.pulumi("stack", "output", "--json")))
    (program.folder / "ssh_config").write_text(
        outputs["sshConfig"].replace("~/.ssh/%C", f"{program.folder}/%n")
    )
    pong = run(
        "ssh",
        "-F",
        str(program.folder / "ssh_config"),
        "-S",
        "none",
        "-i",
        str(program.folder / "ada"),
        "-oIdentitiesOnly=yes",
        "yaml-builder",
        input="GET /_ping HTTP/1.0\r\n\r\n",
    )
    assert "200 OK" in pong.stdout
    certificates = f"/etc/docker-build-machine/docker/certs.d/cache.example:{port}"
    listed = passed(run_inside("yaml-builder-daemon", "ls", certificates))
    assert listed.split() == ["ca.crt", "client.cert", "client.key"]
    assert "PRIVATE KEY" not in passed(program.pulumi("stack", "export"))
    result = program.pulumi("up", "--yes", "--skip-preview", "--expect-no-changes")
    assert "unchanged" in passed(result)

    # Plans, rules and drift are this repository's, for a program that is not.
    assert "### Stack `yaml`" in passed(program.review("preview"))
    passed(run("docker", "rm", "--force", "yaml-builder-janitor"))
    drifted = program.review("drift")
    assert drifted.returncode == 1
    (found,) = [line for line in drifted.stdout.splitlines() if line.startswith("- ")]
    assert found.startswith("- `builder-janitor` ")
    passed(program.review("drift", "--fix"))
    assert "The host is as the stack says" in passed(program.review("drift"))


def test_a_wrong_setting_has_the_error_of_this_programs_own_stacks(tmp_path: Path) -> None:
    program = YamlProgram(tmp_path, cpus="many", sshPort=0)
    # What is known is checked while the machine is not there.
    program.set(host=program.output_of_a_command("machine", "unix:///var/run/docker.sock"))
    result = program.pulumi("preview")
    assert result.returncode != 0
    for sentence in (
        "2 settings are not usable; nothing was created or changed.",
        "cpus = 'many' must be a number of CPUs such as 2 or 1.5",
        "sshPort = '0' must be a whole number from 1 to 65535",
    ):
        assert sentence in result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    assert ".py" not in result.stdout + result.stderr


def test_a_fleet_on_future_machines_is_planned(tmp_path: Path) -> None:
    program = YamlProgram(tmp_path)
    settings = program.program["resources"].pop("builder")["properties"]
    hosts: list[dict[str, Any]] = [
        {
            "name": name,
            "host": program.output_of_a_command(f"{name}-host", "ssh://root@vm.example"),
            "hostKey": program.output_of_a_command(f"{name}-key", program.public_key),
            "labels": {"disk": "fast"},
        }
        for name in ("eu1", "arm")
    ]
    program.program["resources"]["fleet"] = {
        "type": "docker-build-machine:Fleet",
        "properties": {"keys": settings["keys"], "hosts": hosts},
    }
    program.program["outputs"] = {"first": "${fleet.builders[0].dockerHost}"}
    (tmp_path / "Pulumi.yaml").write_text(yaml.safe_dump(program.program))
    planned = json.loads(passed(program.pulumi("preview", "--json")))
    names = {step["urn"].split("::")[-1] for step in planned["steps"]}
    assert {"fleet-eu1-readiness", "fleet-arm-readiness"} <= names
    hosts[0]["weight"] = 0
    (tmp_path / "Pulumi.yaml").write_text(yaml.safe_dump(program.program))
    result = program.pulumi("preview")
    assert "hosts[0].weight = '0' must be a whole number from 1 to 100" in result.stdout


def test_other_settings_cannot_be_outputs(tmp_path: Path) -> None:
    program = YamlProgram(tmp_path)
    program.set(cacheSize=program.output_of_a_command("size", "20GB"))
    result = program.pulumi("preview")
    assert result.returncode != 0
    assert "cacheSize has an Output, which only these can be: host, hostKey" in result.stdout


def test_the_cli_reads_the_schema_of_the_package(tmp_path: Path) -> None:
    plugin = tmp_path / "pulumi-resource-docker-build-machine"
    plugin.write_text(f'#!/bin/sh\nexec python "{ROOT}/package" "$@"\n')
    plugin.chmod(0o755)
    schema = json.loads(passed(run("pulumi", "package", "get-schema", str(plugin))))
    assert set(schema["resources"]) == {
        f"docker-build-machine:index:{name}" for name in ("DockerBuilder", "Fleet", "Registry")
    }
