"""Which jobs may log in with a token of their CI: the setting `identities`."""

from __future__ import annotations

import hashlib
import json
import re
import ssl
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import pydantic
from pydantic import BeforeValidator, model_validator

from components.settings.keys import Grant
from components.settings.values import matching

_Audience = Annotated[
    str,
    matching(
        "[A-Za-z0-9][A-Za-z0-9._:/-]{2,199}",
        "3 to 200 letters, digits and . _ : / -, and start with a letter or digit; next: choose a "
        "name that only this builder has, such as builder.example.com",
    ),
]
_CLAIM_NAME = re.compile(r"[A-Za-z0-9_./:-]{1,100}")
_CLAIM_TEXT = re.compile(r"[ -~]{1,300}")

# What a claim must contain, before its first *, to name one owner at its issuer. A rule needs one
# of these; claims that are not here, such as ref, are the same for everybody.
_EXACT = re.compile(r"[^*]+")
_OWNER_AND_SLASH = re.compile(r"[^*/]+/.*")
_PINS = {
    "repository": _OWNER_AND_SLASH,  # GitHub, Forgejo
    "project_path": _OWNER_AND_SLASH,  # GitLab
    "oidc.circleci.com/vcs-origin": re.compile(r"[^*/]+/[^*/]+/.*"),
    "sub": re.compile(
        r"(?:repo|project_path):[^*/:]+/.*"  # GitHub, Forgejo, GitLab
        r"|organization:[^*:]+:.*"  # Buildkite
        r"|org/[^*/]+/.*"  # CircleCI
        r"|\{[0-9a-f-]+\}:.*"  # Bitbucket
        r"|[^*]+"
    ),
    **dict.fromkeys(
        (
            "repository_id",
            "repository_owner",
            "repository_owner_id",
            "project_id",
            "namespace_id",
            "namespace_path",
            "organization_id",
            "organization_slug",
            "oidc.circleci.com/project-id",
            "repositoryUuid",
            "workspaceUuid",
        ),
        _EXACT,
    ),
}


def _as_text(value: object) -> object:
    """Claims as text: YAML reads true and 17 as a boolean and a number, tokens may hold both."""
    if not isinstance(value, dict):
        return value
    return {name: _text(inner) for name, inner in value.items()}


def _text(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, int) else value


class Identity(Grant):
    """One entry of `identities`: jobs whose token has these claims may log in.

    arguments.Identity describes the fields.
    """

    issuer: str
    audience: _Audience
    claims: Annotated[dict[str, str], BeforeValidator(_as_text)]
    role: Literal["admin", "build"] = "build"
    issuer_ca: str = ""

    @pydantic.field_validator("issuer")
    @classmethod
    def _check_issuer(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            usable = parts.port != 0 and bool(parts.hostname) and url.isascii()
        except ValueError:
            usable = False
        if (
            not usable
            or parts.scheme != "https"
            or parts.username
            or re.search(r"[\s?#@\\]", url)
            or parts.netloc != parts.netloc.lower()
        ):
            raise ValueError(
                "must be an https:// URL without user, query and fragment, exactly as the tokens "
                "have it, such as https://token.actions.githubusercontent.com or https://gitlab.com"
            )
        return url

    @pydantic.field_validator("claims")
    @classmethod
    def _check_claims(cls, claims: dict[str, str]) -> dict[str, str]:
        for name, text in claims.items():
            if not _CLAIM_NAME.fullmatch(name):
                raise ValueError(f"has {name!r}, which is no name of a claim")
            if not _CLAIM_TEXT.fullmatch(text):
                raise ValueError(
                    f"has {name} = {text!r}; it must be 1 to 300 printable ASCII characters, since "
                    "other letters can look the same"
                )
        if not any(name in _PINS and _PINS[name].fullmatch(text) for name, text in claims.items()):
            raise ValueError(
                f"lets in jobs of any owner at this issuer ({_shown(claims)}); it needs one of "
                f"{', '.join(sorted(_PINS))} with the owner spelled out before any *, such as "
                "repository: acme/app or project_path: acme/*"
            )
        return claims

    @pydantic.field_validator("issuer_ca")
    @classmethod
    def _check_issuer_ca(cls, pem: str) -> str:
        if pem:
            try:
                ssl.create_default_context(cadata=pem)
            except (ssl.SSLError, ValueError):
                raise ValueError("must be certificates in PEM, -----BEGIN CERTIFICATE-----") from (
                    None
                )
        return pem

    @model_validator(mode="after")
    def _check_reserved(self) -> Self:
        checked = {"iss", "aud", "exp", "nbf", "iat"} & {*self.claims}
        if checked:
            raise ValueError(
                f"{self.name} has the claim {', '.join(sorted(checked))}, which is checked "
                "in any case; next: remove it from claims"
            )
        return self

    @property
    def conditions(self) -> str:
        """All that the rule demands and gives, in one line, as a preview shows it."""
        until = f" until {self.until}" if self.until else ""
        ca = f" issuerCa {_digest(self.issuer_ca)}" if self.issuer_ca else ""
        return (
            f"{self.issuer} audience {self.audience} claims {_shown(self.claims)} role {self.role}"
            f"{until}{ca}"
        )

    @property
    def digest(self) -> str:
        """Of the whole rule. A changed rule is another one, so its connections are closed."""
        return _digest(json.dumps(self.arguments, sort_keys=True))

    @property
    def rule(self) -> dict[str, Any]:
        """The rule as the verifier reads it."""
        return {
            "name": self.name,
            "issuer": self.issuer,
            "audience": self.audience,
            "claims": self.claims,
            "until": self.last_second,
            "issuer_ca": self.issuer_ca,
            "digest": self.digest,
        }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _shown(claims: dict[str, str]) -> str:
    return ", ".join(f"{name}: {text}" for name, text in sorted(claims.items())) or "no claims"
