"""The component in a program in another language: the example in YAML, on the real engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.engine.conftest import (
    DAEMON_IMAGE,
    GATEWAY_IMAGE,
    ROOT,
    Result,
    free_port,
    make_key,
    passed,
    run,
)


class YamlProgram:
    """The example with a stack of its own, and what a test adds to it."""

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
        program["resources"]["builder"]["properties"] |= properties
        (folder / "Pulumi.yaml").write_text(yaml.safe_dump(program))
        passed(self.pulumi("stack", "init", "yaml"))
        passed(self.pulumi("config", "set", "publicKey", make_key(folder / "ada")))

    def pulumi(self, *words: str) -> Result:
        return run("pulumi", "--non-interactive", *words, cwd=self.folder, env=self.env)


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


def test_a_yaml_program_declares_a_builder_that_builds(program: YamlProgram) -> None:
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
    said = passed(program.pulumi("up", "--yes", "--skip-preview", "--expect-no-changes"))
    assert "unchanged" in said


def test_a_wrong_setting_is_told_as_in_this_programs_own_stacks(tmp_path: Path) -> None:
    program = YamlProgram(tmp_path, cpus="many", sshPort=0)
    said = program.pulumi("preview")
    assert said.returncode != 0
    for sentence in (
        "2 settings are not usable; nothing was created or changed.",
        "cpus = 'many' must be a number of CPUs such as 2 or 1.5",
        "sshPort = '0' must be a whole number from 1 to 65535",
    ):
        assert sentence in said.stdout + said.stderr


def test_the_cli_reads_the_schema_of_the_package(tmp_path: Path) -> None:
    plugin = tmp_path / "pulumi-resource-docker-build-machine"
    plugin.write_text(f'#!/bin/sh\nexec python "{ROOT}/package" "$@"\n')
    plugin.chmod(0o755)
    schema = json.loads(passed(run("pulumi", "package", "get-schema", str(plugin))))
    assert set(schema["resources"]) == {"docker-build-machine:index:DockerBuilder"}
