"""Whether a token lets a key in: signature, issuer, audience, times and claims."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jwt
from jwt.utils import base64url_decode, base64url_encode

from .issuers import Away, Issuer
from .openssl import ALGORITHMS, Verification
from .rules import Rule, shown

MOST_BYTES = 16384
"""The longest token that is read."""
SKEW_SECONDS = 30
"""How much the clocks of issuer and verifier may differ."""
_MOST_KEY_ID = 256
_TOKEN = re.compile(rb"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+){2}")


class Refused(Exception):
    """The token is not accepted; the text never contains any part of it.

    `job` is for the log, and is empty before the token is verified.
    """

    def __init__(self, reason: str, job: str = "") -> None:
        super().__init__(reason)
        self.job = job


class _Tokens(jwt.PyJWT):
    """PyJWT that knows no other algorithms."""

    def __init__(self) -> None:
        super().__init__({"require": ["iss", "aud", "exp", "iat"]})
        self._jws = jwt.PyJWS(algorithms=[])
        for name in ALGORITHMS:
            self._jws.register_algorithm(name, Verification(name))


_TOKENS = _Tokens()


def bound(audience: str, fingerprint: str) -> str:
    """The audience of a token that is good for one key only."""
    digest = fingerprint.removeprefix("SHA256:").translate(str.maketrans("+/", "-_"))
    return f"{audience}#{digest}"


async def check(
    token: bytes, fingerprint: str, rules: Iterable[Rule], issuers: Mapping[str, Issuer]
) -> tuple[Rule, dict[str, Any]]:
    """The first rule that the token satisfies for this key, and the token's claims.

    Raises Refused.
    """
    if len(token) > MOST_BYTES:
        raise Refused("the token is too long")
    if not _TOKEN.fullmatch(token):
        raise Refused("this is not a token")
    header_part, payload_part, signature_part = token.split(b".")
    # No part of these is trusted before the signature is verified with a key of the issuer.
    header, payload = _object(header_part), _object(payload_part)
    _decoded(signature_part)
    if header.get("alg") not in ALGORITHMS or {"crit", "b64"} & {*header}:
        raise Refused(f"the token is not signed with {' or '.join(ALGORITHMS)}")
    key_id = header.get("kid")
    if not isinstance(key_id, str) or len(key_id) > _MOST_KEY_ID:
        raise Refused("the token names no key of its issuer")
    name = payload.get("iss")
    candidates = [rule for rule in rules if rule.issuer == name and not rule.is_over]
    if not candidates:
        raise Refused("no rule is about the token's issuer")
    issuer = issuers[candidates[0].issuer]
    try:
        key = await issuer.key(key_id)
    except Away as away:
        raise Refused("the issuer's keys cannot be had; try again later") from away
    if key is None:
        raise Refused("the issuer has no such key")
    if header["alg"] != key.algorithm:
        raise Refused(f"the token is not signed with {key.algorithm}, which its key is for")

    audiences = {
        audience: rule.audience
        for rule in candidates
        for audience in (rule.audience, bound(rule.audience, fingerprint))
    }
    try:
        claims = _TOKENS.decode(
            token,
            key,  # type: ignore[arg-type]
            algorithms=[key.algorithm],
            audience=[*audiences],
            issuer=issuer.url,
            leeway=SKEW_SECONDS,
        )
    except jwt.ExpiredSignatureError as wrong:
        raise Refused("the token has expired") from wrong
    except jwt.ImmatureSignatureError as wrong:
        raise Refused("the token is not valid yet") from wrong
    except jwt.InvalidAudienceError as wrong:
        raise Refused("the token is for another audience or another key") from wrong
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as wrong:
        raise Refused("the token is not valid") from wrong
    named = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
    meant = {audiences[one] for one in named if one in audiences}
    for rule in candidates:
        if rule.audience in meant and rule.fits(claims):
            return rule, claims
    raise Refused("no rule fits what the token says of the job", shown(claims))


def _decoded(part: bytes) -> bytes:
    """The content of a part, in its one correct form; PyJWT accepts others. Raises Refused."""
    try:
        content = base64url_decode(part)
    except ValueError as wrong:
        raise Refused("this is not a token") from wrong
    if base64url_encode(content) != part:
        raise Refused("this is not a token")
    return content


def _object(part: bytes) -> dict[str, Any]:
    try:
        found = json.loads(_decoded(part))
    except (ValueError, RecursionError) as wrong:
        raise Refused("this is not a token") from wrong
    if not isinstance(found, dict):
        raise Refused("this is not a token")
    return found
