"""One deployed stack: its exports and its settings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from components.docker_host import DockerHost
from components.settings import AuthorizedKey
from components.ssh_key import PublicKey
from stacks.commands import StackCommands, StackError


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
        """Ask Pulumi. Raises StackError when it cannot answer, or nothing is deployed."""
        commands = StackCommands(name, config_file)
        outputs = commands.outputs()
        if "sshAlias" not in outputs:
            raise StackError("this stack is not deployed; next: pulumi up (or make up)")
        return cls(outputs, commands.settings(), name)

    def secret(self, name: str) -> Any:
        """The plain value of a secret export."""
        return StackCommands(self.name).secret_output(name)

    def resources(self) -> list[dict[str, Any]]:
        """The resources of the stack's state; secrets stay encrypted."""
        return StackCommands(self.name).resources()

    @property
    def each(self) -> list[Stack]:
        """The stack as each of its builders alone would have it: one, or one for each host."""
        entries = self.outputs.get("builders") or [{}]
        return [replace(self, outputs={**self.outputs, **entry}) for entry in entries]

    def on_host(self, name: str | None) -> Stack:
        """The stack as the builder on this host alone would have it; None if there is one host.

        Raises StackError when the name is missing, no entry of `hosts` has it, or the stack has not
        been updated since the entry was added.
        """
        hosts = {entry["name"]: entry for entry in self.settings.get("hosts") or []}
        if not hosts and name is None:
            return self
        if name not in hosts:
            names = f"the hosts {', '.join(sorted(hosts))}" if hosts else "one host, without a name"
            raise StackError(
                f"--host {name or 'is missing'}: this stack has {names}; next: name one of them, "
                "or leave --host out for a single host"
            )
        one = {"hosts": [], "host": hosts[name]["host"], "hostKey": hosts[name].get("hostKey")}
        if "metrics" in hosts[name]:
            one["metrics"] = hosts[name]["metrics"]
        deployed = {entry["name"]: entry for entry in self.outputs["builders"]}
        if name not in deployed:
            raise StackError(f"the host {name} has no builder yet; next: pulumi up")
        entry = deployed[name]
        return Stack({**self.outputs, **entry}, {**self.settings, **one}, self.name)

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
    def keys(self) -> list[AuthorizedKey]:
        """The entries of the setting `keys`."""
        return [AuthorizedKey.of(entry) for entry in self.settings.get("keys") or []]

    @property
    def identities(self) -> list[dict[str, Any]]:
        """The entries of the setting `identities`."""
        return list(self.settings.get("identities") or [])

    def key(self, name: str) -> AuthorizedKey:
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
