"""Pulumi's commands for one stack.

Of Pulumi's automation API this uses the runner of the CLI alone. LocalWorkspace opens all secrets
whenever it reads outputs, settings or the state, takes no --config-file when it reads settings, and
returns no plan as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TextIO

from pulumi.automation import CommandError, InvalidVersionError, PulumiCommand

ROOT = Path(__file__).parents[1]
PROJECT = "docker-build-machine"

_READ_SECONDS = 120
# The mark of a secret in a state that was exported with its secrets.
_SECRET = "4dabf18193072939515e22adb298388d"

Json = dict[str, Any]


class StackError(Exception):
    """Pulumi cannot do it: what is wrong, and the next step."""


@dataclass(frozen=True)
class Answer:
    """What a command of Pulumi printed."""

    stdout: str
    failure: str
    """Its standard error when the command failed, else empty."""


@dataclass(frozen=True)
class StackCommands:
    """The commands for one stack. All raise StackError when Pulumi does not start."""

    name: str | None = None
    """None for the stack that is selected."""
    config_file: str | None = None
    """None for Pulumi.NAME.yaml in the folder."""
    folder: Path = ROOT
    """Where Pulumi.yaml is."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables for Pulumi besides those of this process."""

    def create(self) -> None:
        """Make the stack, and select none. Raises StackError when Pulumi cannot."""
        _printed(["stack", "init", self.name or "", "--no-select"], self.folder, self.environment)

    def outputs(self) -> Json:
        """The exports, with secrets masked. Raises StackError when Pulumi cannot read them."""
        return self._json("stack", "output", "--json")

    def secret_output(self, name: str) -> Any:
        """The value of one export, secret or not. Raises StackError when there is none."""
        return self._json("stack", "output", name, "--show-secrets", "--json")

    def settings(self) -> Json:
        """The settings by the names of Pulumi.yaml; lists as lists, everything else as text.

        Raises StackError when Pulumi cannot read them.
        """
        config = self._json("config", "--json", *self._configured)
        return {
            key.removeprefix(f"{PROJECT}:"): entry.get("objectValue", entry.get("value"))
            for key, entry in config.items()
        }

    def resources(self) -> list[Json]:
        """The resources of the state, with secrets encrypted.

        Raises StackError when Pulumi cannot read it.
        """
        return list(self._json("stack", "export")["deployment"].get("resources") or [])

    def resources_with_secrets(self) -> list[Json]:
        """The resources of the state, with secrets as plain values: never print them.

        Raises StackError when Pulumi cannot read it.
        """
        exported = self._json("stack", "export", "--show-secrets")
        return [_opened(resource) for resource in exported["deployment"].get("resources") or []]

    def preview(self, *options: str, destroy: bool = False) -> tuple[Json, str]:
        """The plan of `pulumi up`, or of `pulumi destroy`, as Pulumi prints it in JSON.

        Nothing is changed. The second value is empty, or why Pulumi failed; the plan then has its
        diagnostics, or is empty.
        """
        command = ["destroy", "--preview-only"] if destroy else ["preview", "--show-sames"]
        words = [*command, "--json", *self._selected, *self._configured, *options]
        answer = run(words, self.folder, self.environment)
        try:
            plan: Json = json.loads(answer.stdout)
        except json.JSONDecodeError:
            plan = {}
        return plan, answer.failure

    @property
    def _selected(self) -> list[str]:
        return ["--stack", self.name] if self.name else []

    @property
    def _configured(self) -> list[str]:
        return ["--config-file", self.config_file] if self.config_file else []

    def _json(self, *words: str) -> Any:
        return json.loads(_printed([*words, *self._selected], self.folder, self.environment))


def _printed(words: list[str], folder: Path, environment: Mapping[str, str]) -> str:
    answer = run(words, folder, environment, seconds=_READ_SECONDS)
    if answer.failure:
        raise StackError(f"`pulumi {' '.join(words)}` failed: {answer.failure}")
    return answer.stdout


def run(
    words: list[str],
    folder: Path = ROOT,
    environment: Mapping[str, str] | None = None,
    *,
    seconds: float | None = None,
    show: bool = False,
) -> Answer:
    """Run `pulumi WORDS` without questions; with `show`, print what it prints as it comes.

    Raises StackError when Pulumi does not start or takes longer than so many seconds.
    """
    command, out, err = _command(), list[str](), list[str]()

    def keep(lines: list[str], line: str, stream: TextIO) -> None:
        lines.append(line)
        if show:
            print(line, file=stream, flush=True)

    def work() -> None:
        try:
            command.run(
                list(words),
                str(folder),
                environment or {},
                lambda line: keep(out, line, sys.stdout),
                lambda line: keep(err, line, sys.stderr),
            )
            ended.set_result(None)
        except Exception as error:
            ended.set_exception(error)

    # PulumiCommand has no time limit. A command that takes too long ends when it next prints.
    ended: Future[None] = Future()
    threading.Thread(target=work, daemon=True).start()
    try:
        ended.result(seconds)
    except KeyboardInterrupt:
        # Ctrl-C reaches Pulumi too. Cut off here, it would leave its update unfinished and locked.
        ended.exception()
        raise
    except TimeoutError:
        raise StackError(
            f"`pulumi {' '.join(words)}` took longer than {seconds} seconds; next: run it by itself"
        ) from None
    except CommandError:
        # The text of this error contains standard output, where secrets may be.
        return Answer("\n".join(out), "\n".join(err).strip() or "pulumi gave no reason")
    return Answer("\n".join(out), "")


@cache
def _command() -> PulumiCommand:
    try:
        return PulumiCommand()
    except FileNotFoundError:
        raise StackError("pulumi is not on PATH; next: install it, or use the make words") from None
    except (InvalidVersionError, subprocess.CalledProcessError) as error:
        raise StackError(f"pulumi cannot be used: {error}; next: install a current one") from None


def _opened(value: Any) -> Any:
    if isinstance(value, dict):
        if _SECRET in value:
            return json.loads(value["plaintext"])
        return {name: _opened(item) for name, item in value.items()}
    return [_opened(item) for item in value] if isinstance(value, list) else value
