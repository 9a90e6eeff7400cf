"""The rules of the setting `identities`, and which of them fits a token's claims."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote

# What a log line says of a job, by the names of the claims in which CIs have it.
_SHOWN = {
    "repository": (
        "repository",
        "project_path",
        "oidc.circleci.com/vcs-origin",
        "pipeline_slug",
        "repositoryUuid",
    ),
    "ref": ("ref", "oidc.circleci.com/vcs-ref", "build_branch", "branchName"),
    "run": ("run_id", "build_number", "pipeline_id", "pipelineUuid", "jti"),
}
_MOST_SHOWN = 200


@dataclass(frozen=True)
class Rule:
    """One entry of `identities`."""

    name: str
    issuer: str
    audience: str
    claims: dict[str, str]
    until: str
    """The last second (UTC) as YYYYMMDDHHMMSS; empty for none."""
    issuer_ca: str
    digest: str
    """Of the whole rule."""
    options: str
    """Of the lines in authorized_keys (sshd(8)) for keys that this rule accepts."""

    @classmethod
    def read(cls, text: str) -> list[Self]:
        """The rules of a file, in the order of the setting."""
        return [cls(**rule) for rule in json.loads(text)]

    @property
    def is_over(self) -> bool:
        return bool(self.until) and self.until < time.strftime("%Y%m%d%H%M%S", time.gmtime())

    def fits(self, claims: dict[str, Any]) -> bool:
        """Whether the claims say all that the rule demands; * fits anything but a colon."""
        return all(_fits(text, claims.get(name)) for name, text in self.claims.items())


def _fits(pattern: str, value: object) -> bool:
    text = _text(value)
    if text is None:
        return False
    parts = (re.escape(part) for part in pattern.split("*"))
    return re.fullmatch(r"[^:\x00-\x1f\x7f]*".join(parts), text) is not None


def _text(value: object) -> str | None:
    """The value of a claim as the rules write it; None for lists, maps and null."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int) else None


def shown(claims: dict[str, Any]) -> str:
    """Repository, ref and run of a job for a log line, as words without spaces."""
    words = []
    for word, names in _SHOWN.items():
        value = next(filter(None, (_text(claims.get(name)) for name in names)), None)
        if value:
            words.append(f"{word}={quote(value[:_MOST_SHOWN], safe='/:@._{}-')}")
    return " ".join(words)
