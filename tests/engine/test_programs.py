"""Examples that bring builders up: on a machine of their own, and for each team of a list."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.engine.conftest import (
    DAEMON_IMAGE,
    GATEWAY_IMAGE,
    PING,
    free_port,
    make_key,
    passed,
    run,
)
from tests.engine.hosts import agent_with
from tests.engine.test_examples import ENV, EXAMPLES, NewExample, new_example, path, site

__all__ = ["new_example", "path", "site"]


def test_a_machine_and_its_builder_in_one_program(tmp_path: Path, new_example: NewExample) -> None:
    example = new_example("machine")
    images = f'daemon_image="{DAEMON_IMAGE}", gateway_image="{GATEWAY_IMAGE}"'
    options = f'{images}, cache_size="5GB", keep_cache=False, ssh_port={free_port()}, '
    example.replace("__main__.py", "    keys=", f"    {options}keys=")
    operator = make_key(tmp_path / "operator")
    example.init(operatorKey=operator, port=str(free_port()))
    with agent_with(tmp_path / "operator", tmp_path) as agent:
        example.env["SSH_AUTH_SOCK"] = agent
        # Nothing of the machine is there, and all is planned.
        assert "builder-readiness" in example.pulumi("preview")
        try:
            example.pulumi("up", "--yes", "--skip-preview")
            config = tmp_path / "ssh_config"
            config.write_text(
                f"IdentityFile {example.folder}/ada\nIdentitiesOnly yes\n"
                + example.pulumi("stack", "output", "sshConfig")
            )
            ssh = ("ssh", "-F", str(config), "-S", "none", "example-builder")
            assert "200 OK" in passed(run(*ssh, input=PING))
        finally:
            example.pulumi("destroy", "--yes", "--skip-preview")
    assert not (example.folder / "sshd" / "pid").exists()


def test_a_builder_for_each_team_of_a_list(tmp_path: Path) -> None:
    teams: dict[str, Any] = {
        team: {
            "sshAddress": "127.0.0.1",
            "sshPort": free_port(),
            "keys": [{"name": "ada", "publicKey": make_key(tmp_path / team)}],
            "daemonImage": DAEMON_IMAGE,
            "gatewayImage": GATEWAY_IMAGE,
            "cacheSize": "5GB",
            "keepCache": False,
        }
        for team in ("web", "data")
    }
    (tmp_path / "teams.yaml").write_text(yaml.safe_dump(teams))
    (tmp_path / "backend").mkdir()
    env = {**ENV, "PULUMI_BACKEND_URL": f"file://{tmp_path}/backend"}
    example = (sys.executable, str(EXAMPLES / "teams.py"), str(tmp_path / "teams.yaml"))
    try:
        report = passed(run(*example, env=env))
        for team, other in (("web", "data"), ("data", "web")):
            port = teams[team]["sshPort"]
            assert f"{team}: DOCKER_HOST=ssh://builder@127.0.0.1:{port}\n" in report
            outputs = passed(
                run("pulumi", "stack", "output", "--json", "-s", team, cwd=tmp_path, env=env)
            )
            config = tmp_path / f"{team}.config"
            config.write_text(f"IdentitiesOnly yes\n{json.loads(outputs)['sshConfig']}")
            ssh = ("ssh", "-F", str(config), "-S", "none", "-o", "BatchMode=yes")
            builder = f"{team}-builder"
            assert "200 OK" in passed(run(*ssh, "-i", str(tmp_path / team), builder, input=PING))
            assert run(*ssh, "-i", str(tmp_path / other), builder, input=PING).returncode != 0
    finally:
        passed(run(*example, "destroy", env=env))
    left = "label=docker-build-machine.owner=teams/web/builder"
    assert not passed(run("docker", "ps", "--all", "--quiet", "--filter", left))
