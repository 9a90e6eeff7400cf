"""What is built: the contexts in `workloads/`, with a token for each kind of change."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from pathlib import Path

_CONTEXTS = Path(__file__).parent / "workloads"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
NAMES = ("service", "packages", "compiled")


@dataclass
class Workload:
    """A context in its own folder, with its base image."""

    name: str
    base: str
    folder: Path
    _tokens: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir()
        for state in ("cold", "source", "dependency"):
            self.change(state)

    def change(self, state: str) -> None:
        """Prepare the next build everywhere: cold, warm (nothing changes), source (one line
        changes) or dependency.

        `cold` gives the layers and cache mounts new names, so that no cache must be deleted.
        """
        if state != "warm":
            self._tokens[state] = secrets.token_hex(8)
        for source in (_CONTEXTS / self.name).iterdir():
            text = source.read_text()
            for name, token in self._tokens.items():
                text = text.replace(f"@{name}@", token)
            (self.folder / source.name).write_text(text)

    def options(self, bases: str = "") -> list[str]:
        """Options of its `docker build`; `bases` is a prefix for the base image's name."""
        # Behind a proxy that re-signs TLS a build needs this machine's certificate authorities.
        secret = ["--secret", f"id=ca,src={CERTIFICATES}"]
        return ["--build-arg", f"BASE={bases}{self.base}", *secret]
