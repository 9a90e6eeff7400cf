"""A client's machine: a clean container with docker, OpenSSH and a home that has never seen ssh."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.engine.conftest import DAEMON_IMAGE, Builder, Result, passed, run

_HOME = "/home/rootless"
_COMMAND = f"{_HOME}/.builder/builder"


@dataclass(frozen=True)
class Laptop:
    """A container of the daemon's image, which has what a client needs; it shares this network."""

    name: str

    @classmethod
    @contextmanager
    def started(cls, builder: Builder, name: str = "laptop") -> Iterator[Laptop]:
        """One that is gone after the block."""
        laptop = cls(f"{builder.stack}-{name}")
        # With a process that reaps what `builder` leaves to run by itself, as any machine has.
        passed(
            run(
                "docker",
                "run",
                "--detach",
                "--init",
                "--name",
                laptop.name,
                "--network",
                "host",
                "--entrypoint",
                "sleep",
                DAEMON_IMAGE,
                "infinity",
            )
        )
        try:
            yield laptop
        finally:
            run("docker", "rm", "--force", "--volumes", laptop.name)

    def sh(self, script: str, **options: Any) -> Result:
        """A shell script as the person who works there."""
        return run("docker", "exec", "--interactive", self.name, "sh", "-c", script, **options)

    def builder(self, *words: str, before: str = "") -> Result:
        """The installed command; `before` is shell that runs first, such as a variable."""
        return self.sh(f"{before} {_COMMAND} {shlex.join(words)}")

    def put(self, source: Path, target: str) -> None:
        """Copy a file or folder there, as the person's own."""
        passed(run("docker", "cp", str(source), f"{self.name}:{target}"))
        passed(run("docker", "exec", "--user", "0", self.name, "chown", "-R", "1000:1000", target))

    def put_key(self, builder: Builder, key: str = "ada") -> None:
        """The person's private key, where ssh looks for it."""
        self.sh("mkdir -p -m 700 ~/.ssh")
        self.put(builder.folder / key, f"{_HOME}/.ssh/id_ed25519")

    def install(self, kit: Path, *options: str) -> Result:
        """Bring a kit and install it."""
        self.put(kit, f"{_HOME}/kit")
        return self.sh(f"sh ~/kit/builder install {shlex.join(options)}")


def write_kit(builder: Builder, key: str = "ada", out: Path | None = None) -> Path:
    """A kit as the admin writes it."""
    kit = out or builder.folder / f"kit-{key}"
    passed(builder.client("kit", "--key", key, "--out", str(kit)))
    return kit
