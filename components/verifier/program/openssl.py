"""Signatures of tokens (RFC 7518, RFC 8037), verified by the OpenSSL that Python itself uses.

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
# AlgorithmIdentifiers in DER (RFC 3279, RFC 5480, RFC 8410).
_RSA_ENCRYPTION = bytes.fromhex("300d06092a864886f70d0101010500")
_ED25519 = bytes.fromhex("300506032b6570")
# Of each curve: the algorithm that is for it, the bytes of a number, and the identifier.
_CURVES = {
    "P-256": ("ES256", 32, bytes.fromhex("301306072a8648ce3d020106082a8648ce3d030107")),
    "P-384": ("ES384", 48, bytes.fromhex("301006072a8648ce3d020106052b81040022")),
}
_NUMBER_BYTES = {algorithm: size for algorithm, size, _ in _CURVES.values()}
# Ed25519 has a digest of its own.
_DIGESTS = {"RS256": "EVP_sha256", "ES256": "EVP_sha256", "ES384": "EVP_sha384"}
ALGORITHMS = (*_DIGESTS, "EdDSA")
"""What tokens may be signed with. Each type of key is for one of them."""


class UnusableKey(Exception):
    """A key of an issuer that is not for one of ALGORITHMS."""


@dataclass(frozen=True)
class Key:
    """A public key. Its type alone says with which algorithm it verifies."""

    algorithm: str
    der: bytes
    """SubjectPublicKeyInfo."""

    @classmethod
    def of(cls, jwk: dict[str, Any]) -> Key:
        """The key of a JWK (RFC 7517). Raises UnusableKey."""
        match jwk.get("kty"), jwk.get("crv"):
            case "RSA", _:
                key = cls("RS256", _rsa(jwk))
            case "EC", "P-256" | "P-384" as curve:
                key = cls(_CURVES[curve][0], _elliptic(jwk, curve))
            case "OKP", "Ed25519":
                key = cls("EdDSA", _edwards(jwk))
            case _:
                raise UnusableKey("kty and crv are not of a type that is accepted")
        if jwk.get("use", "sig") != "sig" or jwk.get("alg", key.algorithm) != key.algorithm:
            raise UnusableKey(f"use is not sig, or alg is not {key.algorithm}")
        crypto = _crypto()
        decoded = key.decoded()
        crypto.EVP_PKEY_free(decoded)
        crypto.ERR_clear_error()
        if not decoded:
            raise UnusableKey("there is no such key, as of a point that is not on its curve")
        return key

    def decoded(self) -> Any:
        """OpenSSL's form of the key, which the caller frees; None if there is no such key."""
        start = ctypes.c_char_p(self.der)
        return _crypto().d2i_PUBKEY(None, ctypes.byref(start), len(self.der))

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Whether the signature is one of this key over the message."""
        if size := _NUMBER_BYTES.get(self.algorithm):
            if len(signature) != 2 * size:
                return False
            numbers = (signature[:size], signature[size:])
            signature = _sequence(b"".join(_integer(int.from_bytes(one)) for one in numbers))
        crypto = _crypto()
        digest = _DIGESTS.get(self.algorithm)
        key = self.decoded()
        context = crypto.EVP_MD_CTX_new()
        try:
            if not key or not context:
                return False
            kind = getattr(crypto, digest)() if digest else None
            if crypto.EVP_DigestVerifyInit(context, None, kind, None, key) != 1:
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


class Verification(Algorithm):
    """What PyJWT calls for one algorithm; it takes the Keys of this algorithm and no others."""

    def __init__(self, name: str) -> None:
        self._name = name

    def prepare_key(self, key: Any) -> Key:
        if not isinstance(key, Key) or key.algorithm != self._name:
            raise TypeError(f"not a key for {self._name}")
        return key

    def verify(self, msg: bytes, key: Key, sig: bytes) -> bool:
        return key.verify(msg, sig)

    def sign(self, msg: bytes, key: Any) -> NoReturn:
        raise NotImplementedError

    @staticmethod
    def to_jwk(key_obj: Any, as_dict: bool = False) -> NoReturn:  # type: ignore[override]
        raise NotImplementedError

    @staticmethod
    def from_jwk(jwk: Any) -> NoReturn:
        raise NotImplementedError


def _rsa(jwk: dict[str, Any]) -> bytes:
    modulus, exponent = _number(jwk, "n"), _number(jwk, "e")
    if modulus.bit_length() not in _BITS or exponent not in _EXPONENTS or exponent % 2 == 0:
        raise UnusableKey("the modulus must have 2048 to 8192 bits")
    return _public_key(_RSA_ENCRYPTION, _sequence(_integer(modulus) + _integer(exponent)))


def _elliptic(jwk: dict[str, Any], curve: str) -> bytes:
    _, size, identifier = _CURVES[curve]
    try:
        # Forgejo and Gitea leave out zeros at the start.
        point = b"".join(_number(jwk, name).to_bytes(size) for name in ("x", "y"))
    except OverflowError as wrong:
        raise UnusableKey("x or y is too long") from wrong
    return _public_key(identifier, b"\4" + point)


def _edwards(jwk: dict[str, Any]) -> bytes:
    point = _octets(jwk, "x")
    if len(point) != 32:
        raise UnusableKey("x must have 32 bytes")
    return _public_key(_ED25519, point)


def _number(jwk: dict[str, Any], name: str) -> int:
    return int.from_bytes(_octets(jwk, name))


def _octets(jwk: dict[str, Any], name: str) -> bytes:
    try:
        return base64url_decode(jwk[name].encode("ascii"))
    except (KeyError, AttributeError, ValueError) as wrong:
        raise UnusableKey(f"{name} is not base64url") from wrong


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
        "EVP_sha384": (pointer, []),
        "EVP_DigestVerifyInit": (integer, [pointer, pointer, pointer, pointer, pointer]),
        "EVP_DigestVerify": (integer, [pointer, ctypes.c_char_p, size, ctypes.c_char_p, size]),
        "ERR_clear_error": (None, []),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _public_key(identifier: bytes, key: bytes) -> bytes:
    """SubjectPublicKeyInfo (RFC 5280)."""
    return _sequence(identifier + _element(0x03, b"\0" + key))


def _element(tag: int, content: bytes) -> bytes:
    """One element in DER (X.690)."""
    length = len(content)
    if length < 128:
        return bytes([tag, length]) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8)
    return bytes([tag, 128 | len(octets)]) + octets + content


def _sequence(content: bytes) -> bytes:
    return _element(0x30, content)


def _integer(number: int) -> bytes:
    # One more bit keeps it positive.
    return _element(0x02, number.to_bytes(number.bit_length() // 8 + 1))
