"""OpenSSH public keys: parsed strictly, without options, with their fingerprint.

The wire format is RFC 4253, section 6.6, and RFC 8709 for ed25519; the fingerprint is the one
that sshd logs ("SHA256:" and unpadded base64).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from dataclasses import dataclass

KEY_TYPES = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "ssh-rsa",
)
MINIMUM_RSA_BITS = 2048


@dataclass(frozen=True)
class PublicKey:
    """One public key: its type and its base64 text, without the comment."""

    type: str
    base64: str

    @property
    def fingerprint(self) -> str:
        """The SHA-256 fingerprint in the form of `ssh-keygen -l` and of sshd's log."""
        digest = hashlib.sha256(base64.b64decode(self.base64)).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")

    def __str__(self) -> str:
        return f"{self.type} {self.base64}"

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """Parse the line of a `.pub` file.

        Raises ValueError with the problem and what to give instead; the message never contains the
        text, because it may be a private key.
        """
        text = text.strip()
        if "PRIVATE KEY" in text:
            raise ValueError(
                "is a private key; give the public one (the .pub file) and treat this private "
                "key as leaked: it has been in a configuration file"
            )
        if "\n" in text:
            raise ValueError("must be one line, as in a .pub file; give one entry per key")
        words = text.split()
        if len(words) < 2 or words[0] not in KEY_TYPES:
            raise ValueError(_wrong_type(words))
        key_type, encoded = words[0], words[1]
        try:
            blob = base64.b64decode(encoded, validate=True)
            fields = _fields(blob)
        except (binascii.Error, ValueError):
            raise ValueError(
                "is cut short or damaged: its base64 part does not decode; copy the whole line "
                "of the .pub file"
            ) from None
        if not fields or fields[0] != key_type.encode():
            raise ValueError(f"is marked {key_type} but holds another type; copy the line again")
        if key_type == "ssh-rsa":
            _check_rsa(fields)
        elif key_type == "ssh-ed25519" and (len(fields) != 2 or len(fields[1]) != 32):
            raise ValueError("is not a whole ed25519 key; copy the line of the .pub file again")
        return cls(key_type, base64.b64encode(blob).decode())


def _wrong_type(words: list[str]) -> str:
    allowed = f"allowed types: {', '.join(KEY_TYPES)}"
    if any(word in KEY_TYPES for word in words[1:]):
        return (
            "starts with options; give the bare key (options are settings of their own: "
            "`from`, `until`)"
        )
    if words and words[0] == "ssh-dss":
        return f"is a DSA key, which OpenSSH no longer accepts; {allowed}"
    if words and "-cert-v01@" in words[0]:
        return f"is a certificate, not a key; {allowed}"
    return f"is not an OpenSSH public key ('ssh-ed25519 AAAA... comment'); {allowed}"


def _fields(blob: bytes) -> list[bytes]:
    fields = []
    while blob:
        if len(blob) < 4:
            raise ValueError("truncated")
        (length,) = struct.unpack(">I", blob[:4])
        if len(blob) < 4 + length:
            raise ValueError("truncated")
        fields.append(blob[4 : 4 + length])
        blob = blob[4 + length :]
    return fields


def _check_rsa(fields: list[bytes]) -> None:
    bits = int.from_bytes(fields[2], "big").bit_length() if len(fields) == 3 else 0
    if bits < MINIMUM_RSA_BITS:
        raise ValueError(
            f"is an RSA key of {bits} bits; at least {MINIMUM_RSA_BITS}, better ed25519: "
            "ssh-keygen -t ed25519"
        )
