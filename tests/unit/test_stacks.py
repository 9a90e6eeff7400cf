"""How users see Pulumi's results and failures; a shell script replaces its CLI."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stacks import commands
from stacks.commands import ROOT, StackCommands, StackError

Install = Callable[[str], Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put a `pulumi` with this script on PATH; return the file that records each call."""
    calls = tmp_path / "calls"

    def install(script: str) -> Path:
        pulumi = tmp_path / "bin" / "pulumi"
        pulumi.parent.mkdir()
        pulumi.write_text(
            "#!/bin/sh\n[ $1 != version ] || { echo v3.259.0; exit; }\n"
            f'echo "$*" >>{calls}\n{script}\n'
        )
        pulumi.chmod(0o755)
        monkeypatch.setenv("PATH", f"{pulumi.parent}:/usr/bin:/bin")
        return calls

    commands._command.cache_clear()
    yield install
    commands._command.cache_clear()


def test_a_missing_pulumi_is_one_line_with_the_next_step(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StackError, match=r"pulumi is not on PATH; next: install it"):
        StackCommands("dev").outputs()


def test_a_failure_shows_only_pulumis_standard_error(install: Install) -> None:
    install("echo hunter2; echo 'error: no stack named dev' >&2; exit 255")
    with pytest.raises(StackError) as raised:
        StackCommands("dev").resources_with_secrets()
    assert str(raised.value) == (
        "`pulumi stack export --show-secrets --stack dev` failed: error: no stack named dev"
    )


def test_a_pulumi_that_does_not_answer_times_out(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("sleep 5")
    monkeypatch.setattr(commands, "_READ_SECONDS", 0.2)
    with pytest.raises(StackError, match=r"took longer than 0.2 seconds; next: run it by itself"):
        StackCommands("dev").outputs()


def test_settings_are_read_from_the_file_unchanged(install: Install) -> None:
    calls = install(
        """echo '{"docker-build-machine:sshPort": {"value": "2222"},
        "docker-build-machine:keys": {"value": "[]", "objectValue": [{"name": "ada"}]}}'"""
    )
    settings = StackCommands("dev", "/x/config.yaml").settings()
    assert settings == {"sshPort": "2222", "keys": [{"name": "ada"}]}
    assert calls.read_text() == (
        "--non-interactive config --json --config-file /x/config.yaml --stack dev\n"
    )


def test_secrets_are_decrypted_only_on_request(install: Install) -> None:
    calls = install(
        """echo '{"deployment": {"resources": [{"urn": "u", "inputs": {"envs": ["A=1"], "key": {
        "4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270",
        "plaintext": "\\"hunter2\\""}}}]}}'"""
    )
    [resource] = StackCommands().resources_with_secrets()
    assert resource["inputs"] == {"envs": ["A=1"], "key": "hunter2"}
    StackCommands().resources()
    assert calls.read_text().splitlines() == [
        "--non-interactive stack export --show-secrets",
        "--non-interactive stack export",
    ]


def test_a_failed_plan_has_its_diagnostics(install: Install) -> None:
    install("""echo '{"diagnostics": [{"severity": "error"}]}'; echo why >&2; exit 1""")
    assert StackCommands("dev").preview() == ({"diagnostics": [{"severity": "error"}]}, "why")


def test_output_of_a_long_command_is_shown(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("echo updating; echo warning >&2")
    assert not commands.run(["up"], show=True).failure
    assert capsys.readouterr() == ("updating\n", "warning\n")


def test_an_interrupted_update_ends_cleanly(install: Install) -> None:
    trap = "trap 'sleep 0.5; echo cancelled; exit 1' INT"
    install(f"{trap}; echo started; while :; do sleep 0.1; done")
    program = "from stacks.commands import run; run(['up'], show=True)"
    # What runs in the background of a shell ignores this signal.
    command = ["env", "--default-signal=INT", sys.executable, "-c", program]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, process_group=0
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.communicate(timeout=30)[0] == "cancelled\n"
    assert process.returncode == -signal.SIGINT
