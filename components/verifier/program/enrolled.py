"""The keys whose tokens were accepted, in files that sshd and the session monitor read."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from .rules import Rule, shown
from .tokens import SKEW_SECONDS, Refused

LOGIN_SECONDS = 900
"""How long a key may log in after its token was accepted; a job can send another token."""
KEPT_SECONDS = 24 * 3600
"""How long a key is remembered for the log and the session monitor after its last token."""
_MOST_KEYS = 5000
_MOST_TOKENS = 20000
_PUBLIC_KEY = re.compile(r"ssh-ed25519 ([A-Za-z0-9+/]{68})")


@dataclass(frozen=True)
class PublicKey:
    """An ed25519 key, without a comment."""

    line: str

    @classmethod
    def parse(cls, line: str) -> Self:
        """Raises Refused."""
        match = _PUBLIC_KEY.fullmatch(line)
        if not match:
            raise Refused("only an ed25519 key can be let in")
        return cls(line)

    @property
    def fingerprint(self) -> str:
        """As sshd logs it."""
        digest = hashlib.sha256(base64.b64decode(self.line.split()[1])).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


@dataclass(frozen=True)
class Entry:
    """One key that was let in."""

    line: str
    rule: str
    """Digest of the rule that accepted its token."""
    job: str
    """Repository, ref and run, for the log."""
    accepted: int
    """Seconds since 1970, of the last token."""


class Enrolled:
    """All keys that were let in, kept in a folder so that a restart forgets nothing.

    `authorized_keys` is for sshd. For the session monitor, `keys/` has a file for each key, with
    the digest of its rule and what the log says of the job.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._state = folder / "state.json"
        self._entries: dict[str, Entry] = {}
        # Of each token that was used and has not expired: whose key, and when it expires.
        self._tokens: dict[str, tuple[str, float]] = {}
        self._written: dict[str, str] = {}
        keys = folder / "keys"
        keys.mkdir(exist_ok=True)
        for file in keys.iterdir():
            self._written[file.name] = file.read_text()
        if self._state.exists():
            state = json.loads(self._state.read_text())
            self._entries = {name: Entry(**entry) for name, entry in state["entries"].items()}
            self._tokens = {name: (use[0], use[1]) for name, use in state["tokens"].items()}

    def add(self, key: PublicKey, token: bytes, rule: Rule, claims: dict[str, Any]) -> int:
        """Let the key in; return until when, in seconds since 1970. Raises Refused.

        A token lets in one key: whoever sees it later cannot use it for another.
        """
        now = int(time.time())
        self._tokens = {
            name: use for name, use in self._tokens.items() if use[1] + SKEW_SECONDS >= now
        }
        signed = token.rpartition(b".")[0]
        used = hashlib.sha256(signed).hexdigest()
        if self._tokens.get(used, (key.fingerprint, 0))[0] != key.fingerprint:
            raise Refused("the token was used for another key")
        if key.fingerprint not in self._entries:
            self._make_room(now)
        if len(self._tokens) >= _MOST_TOKENS and used not in self._tokens:
            raise Refused("too many tokens have been used; try again later")
        self._tokens[used] = (key.fingerprint, float(claims["exp"]))
        self._entries[key.fingerprint] = Entry(key.line, rule.digest, shown(claims), now)
        return now + LOGIN_SECONDS

    def _make_room(self, now: int) -> None:
        """Forget the oldest key if there are too many. Raises Refused if it may still log in."""
        if len(self._entries) < _MOST_KEYS:
            return
        oldest = min(self._entries, key=lambda name: self._entries[name].accepted)
        if self._entries[oldest].accepted + LOGIN_SECONDS > now:
            raise Refused("too many keys have been let in; try again later")
        del self._entries[oldest]

    def keep(self, rules: Iterable[Rule]) -> bool:
        """Forget old keys and those of rules that do not count; return whether there were any."""
        digests = {rule.digest for rule in rules if not rule.is_over}
        oldest = time.time() - KEPT_SECONDS
        kept = {
            name: entry
            for name, entry in self._entries.items()
            if entry.rule in digests and entry.accepted >= oldest
        }
        gone = len(kept) != len(self._entries)
        self._entries = kept
        return gone

    def write(self, rules: Iterable[Rule]) -> None:
        """Write all files; the one that lets a key in comes last."""
        by_digest = {rule.digest: rule for rule in rules}
        state = {
            "entries": {name: asdict(entry) for name, entry in self._entries.items()},
            "tokens": self._tokens,
        }
        self._replace(self._state, json.dumps(state), 0o600)
        texts = {
            name.replace("/", "_"): f"{entry.rule} {entry.job}\n"
            for name, entry in self._entries.items()
        }
        for name in self._written.keys() - texts.keys():
            (self._folder / "keys" / name).unlink()
        for name, text in texts.items():
            if self._written.get(name) != text:
                self._replace(self._folder / "keys" / name, text, 0o644)
        self._written = texts
        now = time.time()
        lines = []
        for entry in self._entries.values():
            rule, until = by_digest.get(entry.rule), entry.accepted + LOGIN_SECONDS
            if rule and until > now:
                expiry = time.strftime("%Y%m%d%H%M%SZ", time.gmtime(until))
                lines.append(f'{rule.options},expiry-time="{expiry}" {entry.line} {rule.name}\n')
        self._replace(self._folder / "authorized_keys", "".join(lines), 0o644)

    def _replace(self, file: Path, text: str, mode: int) -> None:
        new = self._folder / ".new"
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(descriptor, "w") as writing:
            writing.write(text)
        new.rename(file)
