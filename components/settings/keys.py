"""Who may log in: the settings `keys` and `revoked`."""

from __future__ import annotations

import datetime
import ipaddress
from typing import Annotated, Literal, Self

import pydantic
from pydantic import Field, model_validator

from components.settings.model import Model
from components.settings.values import PublicKeyText, check_word, matching

_Name = Annotated[
    str,
    matching(
        "[a-zA-Z0-9][a-zA-Z0-9._@-]{0,63}",
        "1 to 64 letters, digits, dots, dashes, underscores or @, and start with a letter or digit",
    ),
]
_Fingerprint = Annotated[
    str,
    matching(
        "(SHA256:[A-Za-z0-9+/]{43})?", "as `ssh-keygen -lf` shows it: SHA256: and 43 characters"
    ),
]


class Grant(Model):
    """Who may log in, under which name and until when: what keys and identities have in common."""

    name: _Name
    """Name in logs and in previews; a key's comment too."""
    until: datetime.date | None = None
    """Last day (UTC) on which it counts; none for always."""

    @property
    def has_expired(self) -> bool:
        """Whether the last day (UTC) has passed."""
        return self.until is not None and self.until < datetime.datetime.now(datetime.UTC).date()

    @property
    def last_second(self) -> str:
        """The last second (UTC) of `until`, as YYYYMMDDHHMMSS; empty for none."""
        return f"{self.until:%Y%m%d}235959" if self.until else ""


class AuthorizedKey(Grant):
    """One entry of `keys`; arguments.Key describes the fields."""

    public_key: PublicKeyText
    from_: Annotated[tuple[str, ...], Field(alias="from")] = ()
    principals: tuple[str, ...] = ()
    role: Literal["admin", "build"] = "admin"

    @pydantic.field_validator("principals")
    @classmethod
    def _check_principals(cls, principals: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(check_word(text) for text in principals)

    @pydantic.field_validator("from_")
    @classmethod
    def _check_from(cls, ranges: tuple[str, ...]) -> tuple[str, ...]:
        for text in ranges:
            try:
                ipaddress.ip_network(text)
            except ValueError:
                raise ValueError(
                    f"{text!r} must be an address or a CIDR range without host bits, such as "
                    "192.0.2.7 or 192.0.2.0/24"
                ) from None
        return ranges

    @property
    def is_authority(self) -> bool:
        return bool(self.principals)


class Revocation(Model):
    """One entry of `revoked`; arguments.RevokedKey describes the fields."""

    fingerprint: _Fingerprint = ""
    ca: str = ""
    serial: Annotated[int | None, Field(ge=1, lt=2**64)] = None
    id: str = ""

    @pydantic.field_validator("id")
    @classmethod
    def _check_id(cls, text: str) -> str:
        try:
            return check_word(text) if text else text
        except ValueError as error:
            raise ValueError(f"{error}; revoke another one by serial or fingerprint") from None

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        kinds = [bool(self.fingerprint), self.serial is not None, bool(self.id)]
        if sum(kinds) != 1 or bool(self.ca) == bool(self.fingerprint):
            raise ValueError(
                "must be one of {fingerprint: SHA256:...}, {ca: <name of a key>, serial: <number>}"
                " and {ca: <name of a key>, id: <text>}"
            )
        return self

    @property
    def line(self) -> str:
        """The entry as a line of a KRL specification (ssh-keygen(1))."""
        if self.fingerprint:
            return f"hash: {self.fingerprint}"
        return f"serial: {self.serial}" if self.serial is not None else f"id: {self.id}"
