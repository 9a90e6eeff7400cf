"""RS256 (RFC 7518, section 3.3), verified by the OpenSSL that Python itself uses.

PyJWT takes the package cryptography for this, which Python's image does not have.
"""

from __future__ import annotations

import ctypes
import ssl
from dataclasses import dataclass
from functools import cache
from typing import Any, NoReturn

from jwt.algorithms import Algorithm
from jwt.utils import base64url_decode

# The sizes of RSA keys that are accepted; larger ones would cost much time.
_BITS = range(2048, 8193)
_EXPONENTS = range(3, 2**32)
# The object identifier rsaEncryption and NULL, in DER (RFC 3279, section 2.3.1).
_RSA_ENCRYPTION = bytes.fromhex("300d06092a864886f70d0101010500")


class UnusableKey(Exception):
    """A key of an issuer that is not for RS256."""


@dataclass(frozen=True)
class RsaKey:
    """A public key as SubjectPublicKeyInfo in DER."""

    der: bytes

    @classmethod
    def of(cls, jwk: dict[str, Any]) -> RsaKey:
        """The key of a JWK (RFC 7517). Raises UnusableKey."""
        if jwk.get("kty") != "RSA":
            raise UnusableKey("kty is not RSA")
        if jwk.get("use", "sig") != "sig" or jwk.get("alg", "RS256") != "RS256":
            raise UnusableKey("use is not sig, or alg is not RS256")
        try:
            modulus, exponent = (
                int.from_bytes(base64url_decode(jwk[name].encode("ascii")), "big")
                for name in ("n", "e")
            )
        except (KeyError, AttributeError, ValueError) as wrong:
            raise UnusableKey("n or e is not base64url") from wrong
        if modulus.bit_length() not in _BITS or exponent not in _EXPONENTS or exponent % 2 == 0:
            raise UnusableKey("the modulus must have 2048 to 8192 bits")
        numbers = _sequence(_integer(modulus) + _integer(exponent))
        return cls(_sequence(_RSA_ENCRYPTION + _element(0x03, b"\0" + numbers)))

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Whether the signature is one of this key over the message."""
        crypto = _crypto()
        start = ctypes.c_char_p(self.der)
        key = crypto.d2i_PUBKEY(None, ctypes.byref(start), len(self.der))
        context = crypto.EVP_MD_CTX_new()
        try:
            if not key or not context:
                return False
            if crypto.EVP_DigestVerifyInit(context, None, crypto.EVP_sha256(), None, key) != 1:
                return False
            verified = crypto.EVP_DigestVerify(
                context, signature, len(signature), message, len(message)
            )
            return bool(verified == 1)
        finally:
            crypto.EVP_MD_CTX_free(context)
            crypto.EVP_PKEY_free(key)
            # Failures stay in OpenSSL's queue of errors, which Python's TLS reads too.
            crypto.ERR_clear_error()


class Rs256(Algorithm):
    """What PyJWT calls for RS256; its keys are RsaKeys."""

    def prepare_key(self, key: Any) -> RsaKey:
        if not isinstance(key, RsaKey):
            raise TypeError("not a key for RS256")
        return key

    def verify(self, msg: bytes, key: RsaKey, sig: bytes) -> bool:
        return key.verify(msg, sig)

    def sign(self, msg: bytes, key: Any) -> NoReturn:
        raise NotImplementedError

    @staticmethod
    def to_jwk(key_obj: Any, as_dict: bool = False) -> NoReturn:  # type: ignore[override]
        raise NotImplementedError

    @staticmethod
    def from_jwk(jwk: Any) -> NoReturn:
        raise NotImplementedError


@cache
def _crypto() -> Any:
    library = ctypes.CDLL(f"libcrypto.so.{ssl.OPENSSL_VERSION_INFO[0]}")
    pointer, size, integer = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "d2i_PUBKEY": (pointer, [pointer, ctypes.POINTER(ctypes.c_char_p), ctypes.c_long]),
        "EVP_PKEY_free": (None, [pointer]),
        "EVP_MD_CTX_new": (pointer, []),
        "EVP_MD_CTX_free": (None, [pointer]),
        "EVP_sha256": (pointer, []),
        "EVP_DigestVerifyInit": (integer, [pointer, pointer, pointer, pointer, pointer]),
        "EVP_DigestVerify": (integer, [pointer, ctypes.c_char_p, size, ctypes.c_char_p, size]),
        "ERR_clear_error": (None, []),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _element(tag: int, content: bytes) -> bytes:
    """One element in DER (X.690)."""
    length = len(content)
    if length < 128:
        return bytes([tag, length]) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([tag, 128 | len(octets)]) + octets + content


def _sequence(content: bytes) -> bytes:
    return _element(0x30, content)


def _integer(number: int) -> bytes:
    # One more bit keeps it positive.
    return _element(0x02, number.to_bytes(number.bit_length() // 8 + 1, "big"))
