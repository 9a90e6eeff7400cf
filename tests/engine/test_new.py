"""`pulumi new <this repository>` makes a project whose first stack is ready, with the real CLI."""

from __future__ import annotations

import os
import re
from pathlib import Path

import yaml

from tests.engine.conftest import (
    DAEMON_IMAGE,
    GATEWAY_IMAGE,
    PROJECT,
    ROOT,
    Result,
    free_port,
    make_key,
    passed,
    run,
)
from tests.engine.tree import copy_to

# The answers of a user; everything else has defaults.
QUESTIONS = {"host", "hostKey", "sshAddress", "sshPort", "cacheSize"}


def template(folder: Path) -> Path:
    """The tracked files, as in a clone of this repository."""
    copy_to(folder)
    # The packages are installed in this environment already.
    (folder / "requirements.txt").write_text("")
    return folder


def test_a_new_project_has_a_stack_that_can_be_deployed(tmp_path: Path) -> None:
    project, port, key = tmp_path / "project", free_port(), make_key(tmp_path / "ada")
    for folder in (project, tmp_path / "state"):
        folder.mkdir()
    env = {
        "PULUMI_BACKEND_URL": f"file://{tmp_path}/state",
        "PULUMI_CONFIG_PASSPHRASE": "only for tests",
    }
    source = template(tmp_path / "template")

    def pulumi(*words: str) -> Result:
        return run("pulumi", "--non-interactive", *words, cwd=project, env=env, seconds=300)

    made = pulumi(
        *("new", str(source), "--yes", "--stack", "first", "--config-path"),
        *("--config", f"sshPort={port}"),
        *("--config", "keys[0].name=ada", "--config", f"keys[0].publicKey={key}"),
    )
    # At the end the CLI installs the official plugins, which may be unreachable.
    out_of_reach = "failed to download plugin" in made.stdout + made.stderr
    assert made.returncode == 0 or out_of_reach, made.stdout + made.stderr

    about = yaml.safe_load((project / "Pulumi.yaml").read_text())
    assert about["name"] == PROJECT
    assert "template" not in about
    settings = yaml.safe_load((project / "Pulumi.first.yaml").read_text())["config"]
    assert settings == {
        f"{PROJECT}:host": "unix:///var/run/docker.sock",
        f"{PROJECT}:sshAddress": "0.0.0.0",
        f"{PROJECT}:sshPort": str(port),
        f"{PROJECT}:cacheSize": "40%",
        f"{PROJECT}:keys": [{"name": "ada", "publicKey": key}],
    }
    assert os.access(project / "scripts" / "up", os.X_OK)

    for setting, image in (("daemonImage", DAEMON_IMAGE), ("gatewayImage", GATEWAY_IMAGE)):
        passed(pulumi("config", "set", "--stack", "first", setting, image))
    shown = passed(pulumi("preview", "--stack", "first"))
    assert re.search(r"builder-gateway create", shown)
    assert re.search(r"\+ \d+ to create", shown)


def test_the_questions_are_settings_with_the_same_defaults() -> None:
    about = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())
    questions = about["template"]["config"]
    assert set(questions) == QUESTIONS
    for name, question in questions.items():
        assert question["description"]
        assert question.get("default", "") == str(about["config"][name]["default"])
        assert not question.get("secret"), "nothing that is asked for is a secret"
