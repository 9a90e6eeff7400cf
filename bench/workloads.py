"""What is built: contexts of `workloads/`, in which a token stands for each kind of change."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from pathlib import Path

_CONTEXTS = Path(__file__).parent / "workloads"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
NAMES = ("service", "packages", "compiled")


@dataclass
class Workload:
    """A context in a folder of its own, with the base image that it starts from."""

    name: str
    base: str
    folder: Path
    _tokens: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir()
        for state in ("cold", "source", "dependency"):
            self.change(state)

    def change(self, state: str) -> None:
        """Make the next build one in this state, wherever it takes place: cold, warm (nothing
        changes), source (one line does) or dependency.

        `cold` gives the layers and the cache mounts other names, so that nobody's cache has to go.
        """
        if state != "warm":
            self._tokens[state] = secrets.token_hex(8)
        for source in (_CONTEXTS / self.name).iterdir():
            text = source.read_text()
            for name, token in self._tokens.items():
                text = text.replace(f"@{name}@", token)
            (self.folder / source.name).write_text(text)

    def options(self, bases: str = "") -> list[str]:
        """Options of its `docker build`; `bases` is what stands before a base image's name."""
        # A build behind a proxy that re-signs needs this machine's authorities.
        secret = ["--secret", f"id=ca,src={CERTIFICATES}"]
        return ["--build-arg", f"BASE={bases}{self.base}", *secret]
