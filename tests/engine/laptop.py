"""A client's machine: a clean container with docker, OpenSSH and an empty home."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.engine.conftest import DAEMON_IMAGE, Builder, Result, passed, run, run_inside

_HOME = "/home/rootless"
_COMMAND = f"{_HOME}/.builder/builder"


@dataclass(frozen=True)
class Laptop:
    """A container of the daemon's image, which has all that a client needs; on this network."""

    name: str
    alias: str
    """The name of the builder."""

    @classmethod
    @contextmanager
    def with_kit(cls, builder: Builder, key: str = "ada") -> Iterator[Laptop]:
        """A laptop with this key, on which the kit is installed."""
        with cls.started(builder, f"laptop-{key}") as laptop:
            laptop.put_key(builder, key)
            passed(laptop.install(write_kit(builder, key)))
            yield laptop

    @classmethod
    @contextmanager
    def started(cls, builder: Builder, name: str) -> Iterator[Laptop]:
        """A laptop that is removed after the block."""
        laptop = cls(f"{builder.stack}-{name}", builder.alias)
        # --init reaps the background processes of `builder`, as init does on other machines.
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
        """Run a shell script as the user."""
        return run("docker", "exec", "--interactive", self.name, "sh", "-c", script, **options)

    def as_root(self, script: str) -> str:
        """Run a shell script as root; return its output."""
        return passed(run_inside(self.name, "sh", "-c", script, user="0"))

    def builder(self, *words: str, before: str = "") -> Result:
        """Run the installed command; `before` is shell code that runs first, such as a variable."""
        return self.sh(f"{before} {_COMMAND} {shlex.join(words)}")

    def put(self, source: Path, target: str) -> None:
        """Copy a file or folder there; it belongs to the user."""
        passed(run("docker", "cp", str(source), f"{self.name}:{target}"))
        self.as_root(f"chown -R 1000:1000 {shlex.quote(target)}")

    def put_key(self, builder: Builder, key: str = "ada") -> None:
        """Install the user's private key where ssh finds it."""
        self.sh("mkdir -p -m 700 ~/.ssh")
        self.put(builder.folder / key, f"{_HOME}/.ssh/id_ed25519")

    def install(self, kit: Path, *options: str) -> Result:
        """Copy a kit there and install it."""
        self.put(kit, f"{_HOME}/kit")
        return self.sh(f"sh ~/kit/builder install {shlex.join(options)}")

    @contextmanager
    def changed(self, change: str, back: str) -> Iterator[None]:
        """Run one shell script before the block and one after it."""
        passed(self.sh(change))
        try:
            yield
        finally:
            passed(self.sh(back))

    def edited(self, file: str, change: str) -> AbstractContextManager[None]:
        """During the block, this file of the installed builder is changed by a sed script."""
        path = f"~/.builder/{self.alias}/{file}"
        edit = f"cp {path} ~/kept && sed -i '{change}' {path} && ! cmp -s ~/kept {path}"
        return self.changed(edit, f"cp ~/kept {path}")

    @contextmanager
    def without(self, *commands: str) -> Iterator[None]:
        """During the block, these commands, or files with a full path, are missing."""
        paths = [passed(self.sh(f"command -v {command}")).strip() for command in commands]
        self.as_root("; ".join(f"mv {path} {path}.away" for path in paths))
        try:
            yield
        finally:
            self.as_root("; ".join(f"mv {path}.away {path}" for path in paths))

    def buildx_plugins(self) -> list[str]:
        """The paths of all buildx plugins there."""
        return self.as_root("find / -xdev -name docker-buildx -type f 2>/dev/null; true").split()


def write_kit(builder: Builder, key: str = "ada", out: Path | None = None) -> Path:
    """A kit as the admin writes it."""
    kit = out or builder.folder / f"kit-{key}"
    passed(builder.client("kit", "--key", key, "--out", str(kit)))
    return kit
