"""Stand-in for pulumi-command 1.2: the resource local.Command and the function local.run."""

from __future__ import annotations

import contextlib
import os
import subprocess
from contextvars import copy_context
from threading import Thread
from typing import IO

from offline.plugins.stand_in.plugin import Input, Kind, Properties, StandIn, serve


class Command(Kind):
    """command:local:Command; without `update`, every change runs `create` again."""

    inputs = {
        "create": Input(replaces=False),
        "update": Input(replaces=False),
        "delete": Input(replaces=False),
        "environment": Input(replaces=False),
        "stdin": Input(replaces=False),
        "logging": Input(replaces=False),
        "addPreviousOutputInEnv": Input(replaces=False),
        "triggers": Input(replaces=True),
    }
    computed = ("stdout", "stderr")

    def create(self, inputs: Properties) -> tuple[str, Properties]:
        return "command" + os.urandom(8).hex(), self._run(inputs, inputs.get("create"), {})

    def read(self, identifier: str, state: Properties) -> Properties | None:
        return state

    def update(self, identifier: str, state: Properties, inputs: Properties) -> Properties:
        return self._run(inputs, inputs.get("update") or inputs.get("create"), state)

    def delete(self, identifier: str, state: Properties) -> None:
        if state.get("delete"):
            self._run(state, state["delete"], state)

    def run(self, arguments: Properties) -> Properties:
        """command:local:run; the engine calls it in every preview and update."""
        return self._run(arguments, arguments.get("command"), {})

    def _run(self, inputs: Properties, command: str | None, before: Properties) -> Properties:
        if not command:
            return {**inputs, "stdout": "", "stderr": ""}
        environment = {**os.environ, **(inputs.get("environment") or {})}
        if before and inputs.get("addPreviousOutputInEnv") is not False:
            environment["PULUMI_COMMAND_STDOUT"] = before.get("stdout") or ""
            environment["PULUMI_COMMAND_STDERR"] = before.get("stderr") or ""
        logging = inputs.get("logging") or "stdoutAndStderr"
        output: dict[str, list[str]] = {"stdout": [], "stderr": []}
        with subprocess.Popen(
            ["/bin/sh", "-c", command],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:

            def follow(name: str, stream: IO[str]) -> None:
                for line in stream:
                    output[name].append(line)
                    if name in logging.lower():
                        self.show(line.removesuffix("\n"))

            assert process.stdin
            assert process.stdout
            assert process.stderr
            readers = [
                Thread(target=copy_context().run, args=(follow, name, stream))
                for name, stream in (("stdout", process.stdout), ("stderr", process.stderr))
            ]
            for reader in readers:
                reader.start()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(inputs.get("stdin") or "")
                process.stdin.close()
            for reader in readers:
                reader.join()
        stdout, stderr = "".join(output["stdout"]), "".join(output["stderr"])
        if process.returncode:
            raise RuntimeError(
                f"exit status {process.returncode}: running {command!r}:\n{stdout}{stderr}"
            )
        return {
            **inputs,
            "stdout": stdout.removesuffix("\n"),
            "stderr": stderr.removesuffix("\n"),
        }


if __name__ == "__main__":
    command = Command()
    serve(StandIn("1.2.1", {"command:local:Command": command}, {"command:local:run": command.run}))
