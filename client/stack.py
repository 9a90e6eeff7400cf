"""One deployed stack as Pulumi tells it: its exports and its settings."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from components.docker_host import DockerHost
from components.ssh_key import PublicKey

ROOT = Path(__file__).parents[1]
_PROJECT = "docker-build-machine"
_PULUMI_SECONDS = 120


class StackError(Exception):
    """What is wrong, and the next step."""


@dataclass(frozen=True)
class Key:
    """One entry of the setting `keys`."""

    name: str
    public_key: PublicKey
    is_authority: bool
    role: str = "admin"


@dataclass(frozen=True)
class Stack:
    """What clients and their admin need to know of one stack."""

    outputs: dict[str, Any]
    settings: dict[str, Any]
    """By the names of Pulumi.yaml; lists as lists, everything else as text."""
    name: str | None = None
    """None for the stack that is selected."""

    @classmethod
    def read(cls, name: str | None = None, config_file: str | None = None) -> Stack:
        """Ask the Pulumi CLI. Raises StackError when it cannot tell, or nothing is deployed."""
        stack = ["--stack", name] if name else []
        outputs = _pulumi("stack", "output", *stack)
        if "sshAlias" not in outputs:
            raise StackError("this stack is not deployed; next: pulumi up (or make up)")
        config = _pulumi("config", *stack, *(["--config-file", config_file] if config_file else []))
        return cls(
            outputs,
            {
                setting.removeprefix(f"{_PROJECT}:"): entry.get("objectValue", entry.get("value"))
                for setting, entry in config.items()
            },
            name,
        )

    def secret(self, name: str) -> Any:
        """The value of a secret export, in the open."""
        stack = ["--stack", self.name] if self.name else []
        return _pulumi("stack", "output", name, "--show-secrets", *stack)

    def resources(self) -> list[dict[str, Any]]:
        """The resources of the stack's state; secrets stay encrypted."""
        exported = _pulumi("stack", "export", *(["--stack", self.name] if self.name else []))
        return list(exported["deployment"]["resources"])

    @property
    def each(self) -> list[Stack]:
        """The stack as each of its builders alone would have it: one, or one for each host."""
        entries = self.outputs.get("builders") or [{}]
        return [replace(self, outputs={**self.outputs, **entry}) for entry in entries]

    @property
    def docker_host(self) -> DockerHost:
        """Where the builder runs, with the host key that the settings pin."""
        host = self.settings.get("host") or "unix:///var/run/docker.sock"
        return DockerHost(host, self.settings.get("hostKey") or "")

    @property
    def alias(self) -> str:
        """The name of the builder: of its ssh host, its Docker context, its containers."""
        return str(self.outputs["sshAlias"])

    @property
    def address(self) -> tuple[str, str, int]:
        """User, host and port of the gateway."""
        parts = urlsplit(self.outputs["dockerHost"])
        return parts.username or "", parts.hostname or "", parts.port or 22

    @property
    def known_hosts(self) -> str:
        return str(self.outputs["knownHosts"])

    @property
    def keys(self) -> list[Key]:
        return [
            Key(
                entry["name"],
                PublicKey.parse(entry["publicKey"]),
                bool(entry.get("principals")),
                entry.get("role") or "admin",
            )
            for entry in self.settings.get("keys") or []
        ]

    def key(self, name: str) -> Key:
        """The key of this name, or that of a .pub file. Raises StackError when there is none."""
        keys = {key.name: key for key in self.keys}
        if name.endswith(".pub") and Path(name).is_file():
            public_key = PublicKey.parse(Path(name).read_text())
            name = next((key.name for key in self.keys if key.public_key == public_key), name)
        if name not in keys:
            raise StackError(
                f"--key {name}: this stack has no such key; allowed: "
                f"{', '.join(sorted(keys))}; next: name one of them, or add it to the setting keys"
            )
        return keys[name]


def _pulumi(*words: str) -> dict[str, Any]:
    command = ["pulumi", "--non-interactive", *words]
    if words[:2] != ("stack", "export"):
        command.append("--json")
    try:
        result = subprocess.run(
            command, cwd=ROOT, text=True, capture_output=True, timeout=_PULUMI_SECONDS, check=False
        )
    except FileNotFoundError:
        raise StackError("pulumi is not on PATH; next: install it, or use the make words") from None
    except subprocess.TimeoutExpired:
        raise StackError(
            f"`{' '.join(command)}` took longer than {_PULUMI_SECONDS} seconds; next: run it by "
            "itself"
        ) from None
    if result.returncode != 0:
        raise StackError(f"`{' '.join(command)}` failed: {result.stderr.strip()}")
    return dict(json.loads(result.stdout))
