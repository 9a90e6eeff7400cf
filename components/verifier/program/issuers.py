"""The public keys of the issuers, by OpenID Connect Discovery."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
import urllib.request
from collections.abc import Callable
from typing import Any

from .openssl import ALGORITHMS, Key, UnusableKey

REFRESH_SECONDS = 300
"""How often the keys are read again, so that a withdrawn key is no longer accepted."""
LAST_KNOWN_SECONDS = 24 * 3600
"""How long the last known keys are accepted while the issuer does not answer."""
_UNKNOWN_KEY_SECONDS = 10
"""Least time between two reads when a token has an unknown key, or no key is accepted."""
_ANSWER_SECONDS = 10
_MOST_BYTES = 1024 * 1024


class Away(Exception):
    """The issuer has no usable keys; the text says why."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


class Issuer:
    """One issuer, and its keys when they were last read."""

    def __init__(self, url: str, ca: str, log: Callable[[str], None]) -> None:
        self.url = url
        self.ca = ca
        self._log = log
        self._keys: dict[str, Key] = {}
        self._answered = self._asked = float("-inf")
        self._problem = "not asked yet"
        self._asking = asyncio.Lock()

    @property
    def problem(self) -> str:
        """Why no key of this issuer is accepted; empty if its keys are."""
        if time.monotonic() - self._answered <= LAST_KNOWN_SECONDS:
            return ""
        return f"{self.url}: {self._problem}"

    async def key(self, identity: str) -> Key | None:
        """The key with this `kid`; an unknown one may be new, so the keys are read. Raises Away."""
        if identity not in self._keys:
            await self.refresh(_UNKNOWN_KEY_SECONDS)
        if self.problem:
            raise Away(self.problem)
        return self._keys.get(identity)

    async def refresh(self, least_seconds: float | None = None) -> None:
        """Read the keys, unless they were read in the last `least_seconds` seconds.

        The default is REFRESH_SECONDS while the issuer's keys are accepted.
        """
        if least_seconds is None:
            least_seconds = _UNKNOWN_KEY_SECONDS if self.problem else REFRESH_SECONDS
        async with self._asking:
            if time.monotonic() - self._asked < least_seconds:
                return
            try:
                self._keys = await asyncio.to_thread(self._fetch)
                self._answered = time.monotonic()
                if self._problem:
                    self._log(f"issuer {self.url}: {len(self._keys)} keys")
                self._problem = ""
            except Exception as wrong:
                # No answer of one issuer may stop the verifier for the others.
                problem = " ".join(str(wrong).split()) or type(wrong).__name__
                if problem != self._problem:
                    self._log(f"issuer {self.url} gives no keys: {problem}")
                self._problem = problem
            self._asked = time.monotonic()

    def _fetch(self) -> dict[str, Key]:
        about = self._get(f"{self.url.rstrip('/')}/.well-known/openid-configuration")
        if about["issuer"] != self.url:
            raise Away(f"its configuration is that of another issuer, {about['issuer']!r}")
        if not str(about["jwks_uri"]).startswith("https://"):
            raise Away("its jwks_uri is not https://")
        keys: dict[str, Key] = {}
        for jwk in self._get(about["jwks_uri"])["keys"]:
            try:
                if isinstance(jwk.get("kid"), str):
                    keys[jwk["kid"]] = Key.of(jwk)
            except UnusableKey:
                continue
        if not keys:
            raise Away(f"it has no key for {' or '.join(ALGORITHMS)}")
        return keys

    def _get(self, url: str) -> dict[str, Any]:
        """A JSON object, without following redirects and without a proxy."""
        context = ssl.create_default_context(cadata=self.ca or None)
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),
            urllib.request.HTTPSHandler(context=context),
            _NoRedirects,
        )
        # Some servers refuse the name that Python sends by itself.
        opener.addheaders = [("User-Agent", "docker-build-machine"), ("Accept", "application/json")]
        with opener.open(url, timeout=_ANSWER_SECONDS) as answer:
            content = answer.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise Away("its answer is too long")
        found = json.loads(content)
        if not isinstance(found, dict):
            raise Away("its answer is not a JSON object")
        return found
