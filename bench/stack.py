"""A stack of a Pulumi program, whose state lives as long as the run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.client import Result, run, timed

NAME = "bench"


@dataclass(frozen=True)
class Stack:
    program: Path
    """The folder with its Pulumi.yaml."""
    folder: Path
    """The folder of its state and settings."""

    @classmethod
    def create(cls, program: Path, folder: Path, **settings: Any) -> Stack:
        """A stack with these settings that is not deployed yet."""
        (folder / "project").mkdir(parents=True)
        (folder / "backend").mkdir()
        stack = cls(program, folder)
        project = yaml.safe_load((program / "Pulumi.yaml").read_text())["name"]
        config = {"config": {f"{project}:{name}": value for name, value in settings.items()}}
        stack.config.write_text(yaml.safe_dump(config))
        # `stack init` writes beside Pulumi.yaml; a separate one keeps the program's folder clean.
        (folder / "project" / "Pulumi.yaml").write_text(f"name: {project}\nruntime: python\n")
        stack.pulumi("stack", "init", NAME, "--no-select", cwd=folder / "project")
        return stack

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PULUMI_BACKEND_URL": f"file://{self.folder}/backend",
            "PULUMI_CONFIG_PASSPHRASE": "for a stack that lives for minutes",
        }

    def pulumi(self, *arguments: str, cwd: Path | None = None) -> Result:
        command = ("pulumi", "--non-interactive", *arguments)
        return run(*command, env=self.environment, cwd=cwd or self.program)

    def _change(self, verb: str) -> float:
        options = ("--stack", NAME, "--config-file", str(self.config))
        return timed(self.pulumi, verb, "--yes", "--skip-preview", *options)

    def up(self) -> float:
        """Run `pulumi up` and return the seconds."""
        return self._change("up")

    def destroy(self) -> float:
        """Run `pulumi destroy` and return the seconds."""
        return self._change("destroy")
