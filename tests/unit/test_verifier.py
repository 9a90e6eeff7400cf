"""Which tokens the verifier accepts, with a real issuer over TLS, and that nothing else gets in."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from components.verifier import archive
from components.verifier.program import enrolled as enrolled_module
from components.verifier.program import issuers as issuers_module
from components.verifier.program.__main__ import Verifier
from components.verifier.program.enrolled import Enrolled, PublicKey
from components.verifier.program.issuers import Issuer as Known
from components.verifier.program.openssl import ALGORITHMS, Key, UnusableKey
from components.verifier.program.rules import Rule, shown
from components.verifier.program.tokens import Refused, bound, check
from tests.issuer import (
    CLAIMS,
    RULES,
    Issuer,
    PrivateKey,
    algorithm_of,
    issuing,
    jwk,
    new_key,
    public_pem,
)

AUDIENCE = "builder.example.com"
KEY = PublicKey(f"ssh-ed25519 {'A' * 68}")
OTHER = PublicKey(f"ssh-ed25519 {'B' * 68}")
MAIN = {"repository": "acme/app", "ref": "refs/heads/main"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Issuer]:
    with issuing(tmp_path_factory.mktemp("issuer")) as issuer:
        yield issuer


@pytest.fixture
def issuer(shared: Issuer) -> Iterator[Issuer]:
    """The issuer as it is at first."""
    kept = dict(shared.keys)
    yield shared
    shared.keys, shared.published, shared.configuration, shared.away = kept, None, {}, False


def rule(issuer: Issuer, claims: dict[str, str] = MAIN, **fields: Any) -> Rule:
    usual: dict[str, Any] = {
        "name": "main",
        "issuer": issuer.url,
        "audience": AUDIENCE,
        "claims": claims,
        "until": "",
        "issuer_ca": issuer.ca,
        "options": "restrict",
    }
    given = {**usual, **fields}
    return Rule(**given, digest=hashlib.sha256(repr(given).encode()).hexdigest()[:32])


def known(issuer: Issuer) -> Known:
    return Known(issuer.url, issuer.ca, lambda line: None)


def answer(token: str | bytes, *rules: Rule, to: Known | None = None, key: PublicKey = KEY) -> str:
    """The name of the rule that lets the key in, or why none does."""
    first = to or Known(rules[0].issuer, rules[0].issuer_ca, lambda line: None)
    text = token.encode() if isinstance(token, str) else token
    try:
        return asyncio.run(check(text, key.fingerprint, rules, {first.url: first}))[0].name
    except Refused as refused:
        return str(refused)


def encoded(content: Any) -> str:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


def good(issuer: Issuer, **changes: Any) -> str:
    audience = changes.pop("aud", bound(AUDIENCE, KEY.fingerprint))
    return issuer.token(audience, **{**CLAIMS["github"], **changes})


# What gets in -------------------------------------------------------------------------------------

JOBS = {
    "github": "repository=acme/app ref=refs/heads/main run=1658821493",
    "gitlab": "repository=acme/app ref=main run=574",
    "buildkite": "repository=app ref=main run=175",
}


@pytest.mark.parametrize("kind", CLAIMS)
def test_the_token_of_each_ci_gets_in_by_its_rule(issuer: Issuer, kind: str) -> None:
    wanted = rule(issuer, RULES[kind])
    for audience in (AUDIENCE, [AUDIENCE], ["elsewhere", AUDIENCE]):
        assert answer(issuer.token(audience, **CLAIMS[kind]), wanted) == "main"
    assert answer(issuer.token(bound(AUDIENCE, KEY.fingerprint), **CLAIMS[kind]), wanted) == "main"
    assert shown(CLAIMS[kind]).startswith(JOBS.get(kind, "repository="))


def test_the_first_rule_that_fits_counts(issuer: Issuer) -> None:
    rules = [
        rule(issuer, {"repository": "acme/other"}, name="other"),
        rule(issuer, name="over", until="20200101000000"),
        rule(issuer, name="elsewhere", audience="elsewhere.example.com"),
        rule(issuer, {"repository": "acme/*"}, name="all", until="29991231235959"),
        rule(issuer, name="main"),
    ]
    assert answer(good(issuer), *rules) == "all"


# What does not ------------------------------------------------------------------------------------

NO_RULE = "no rule fits what the token says of the job"


@pytest.mark.parametrize(
    "changes",
    [
        {"repository": "acme/app2"},
        {"repository": "xacme/app"},
        {"repository": "acme/app "},
        {"repository": "acme/app\n"},
        {"repository": "ACME/app"},
        {"repository": "evil/acme/app"},
        {"repository": "acme/app", "ref": "refs/heads/main2"},
        {"repository": "\u0430cme/app"},  # Cyrillic a
        {"repository": "acme\u2215app"},  # division slash
        {"repository": "acme/app\u200b"},  # zero width space
        {"repository": "\uff41cme/app"},  # full width a
        {"repository": ["acme/app"]},
        {"repository": {"acme/app": True}},
        {"repository": None},
        {"ref": None, "sub": "refs/heads/main"},
    ],
)
def test_claims_that_only_resemble_the_rule_do_not_get_in(
    issuer: Issuer, changes: dict[str, Any]
) -> None:
    assert answer(good(issuer, **changes), rule(issuer)) == NO_RULE


def test_a_star_fits_no_colon_and_nothing_before_it(issuer: Issuer) -> None:
    wanted = rule(issuer, {"sub": "repo:acme/*:ref:refs/heads/main"})
    fits = {
        "repo:acme/app:ref:refs/heads/main": "main",
        "repo:acme/group/app:ref:refs/heads/main": "main",
        "repo:acme/app:environment:x:ref:refs/heads/main": NO_RULE,
        "repo:acme-evil/app:ref:refs/heads/main": NO_RULE,
        "repo:acme/app:ref:refs/heads/main:x": NO_RULE,
        "x:repo:acme/app:ref:refs/heads/main": NO_RULE,
        "repo:acme/a\nb:ref:refs/heads/main": NO_RULE,
    }
    assert {sub: answer(good(issuer, sub=sub), wanted) for sub in fits} == fits


def test_a_subject_with_numbers_is_another_one(issuer: Issuer) -> None:
    ref = ":ref:refs/heads/main"
    subjects = [f"repo:acme{at}/app{ref}" for at in ("", "@65", "@66", "-65")]
    subjects += [f"repo:acme@65/app@74{ref}", f"repo:acme@65/app@75{ref}"]
    for subject in subjects:
        wanted = rule(issuer, {"sub": subject})
        fitting = [sub for sub in subjects if answer(good(issuer, sub=sub), wanted) == "main"]
        assert fitting == [subject]
    every = rule(issuer, {"sub": f"repo:acme@65/*{ref}"})
    assert [answer(good(issuer, sub=sub), every) == "main" for sub in subjects] == [
        subject.startswith("repo:acme@65/") for subject in subjects
    ]


# What the claims of a job for a pull or merge request of a fork say otherwise than those on main.
FORKS: list[tuple[str, dict[str, Any]]] = [
    ("github", {"event_name": "pull_request", "ref": "refs/pull/7/merge", "head_ref": "main"}),
    ("github", {"event_name": "pull_request_target", "base_ref": "main", "head_ref": "main"}),
    ("forgejo", {"event_name": "pull_request", "ref": "refs/pull/7/head", "head_ref": "main"}),
    ("forgejo", {"event_name": "pull_request_target", "base_ref": "main", "head_ref": "main"}),
    # In the parent project; job_project_path is still the parent's.
    ("gitlab", {"project_path": "evil/app", "project_id": "21", "ref_protected": "false"}),
    ("gitlab", {"project_path": "evil/app", "project_id": "21"}),
    ("circleci", {"oidc.circleci.com/vcs-origin": "github.com/evil/app"}),
    ("circleci", {"oidc.circleci.com/vcs-ref": "refs/pull/7/head"}),
    ("bitbucket", {"branchName": "fix"}),
]


@pytest.mark.parametrize(("kind", "claims"), FORKS)
def test_a_job_for_a_fork_gets_what_its_claims_say(
    issuer: Issuer, kind: str, claims: dict[str, Any]
) -> None:
    on_main = rule(issuer, RULES[kind])
    token = issuer.token(AUDIENCE, **{**CLAIMS[kind], **claims})
    assert answer(token, on_main) == NO_RULE
    forks = {name: str(text) for name, text in claims.items()}
    own = rule(issuer, {**forks, "sub": CLAIMS[kind]["sub"]}, name="forks")
    assert answer(token, on_main, own) == "forks"
    assert answer(issuer.token(AUDIENCE, **CLAIMS[kind]), on_main, own) == "main"


def test_special_characters_of_a_rule_stand_for_themselves(issuer: Issuer) -> None:
    wanted = rule(issuer, {"repository": "acme/a.p[p]", "ref": "refs/heads/main"})
    assert answer(good(issuer, repository="acme/axp[p]"), wanted) == NO_RULE
    assert answer(good(issuer, repository="acme/a.p[p]"), wanted) == "main"


@pytest.mark.parametrize(
    ("claim", "seconds", "reason"),
    [
        ("exp", -60, "the token has expired"),
        ("nbf", 600, "the token is not valid yet"),
        ("iat", 600, "the token is not valid yet"),
    ],
)
def test_times_are_checked(issuer: Issuer, claim: str, seconds: int, reason: str) -> None:
    token = good(issuer, **{claim: int(time.time()) + seconds})
    assert answer(token, rule(issuer)) == reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exp": None}, "the token is not valid"),
        ({"iat": None}, "the token is not valid"),
        ({"exp": "soon"}, "the token is not valid"),
        ({"exp": [1]}, "the token is not valid"),
        ({"exp": True}, "the token has expired"),
        ({"aud": "elsewhere"}, "the token is for another audience or another key"),
        ({"aud": AUDIENCE.upper()}, "the token is for another audience or another key"),
        ({"aud": f"{AUDIENCE}#"}, "the token is for another audience or another key"),
        ({"aud": [[AUDIENCE]]}, "the token is for another audience or another key"),
        ({"aud": {AUDIENCE: 1}}, "the token is for another audience or another key"),
        ({"aud": None}, "the token is not valid"),
        ({"iss": "https://elsewhere.example"}, "no rule is about the token's issuer"),
        ({"iss": None}, "no rule is about the token's issuer"),
        ({"iss": ["https://elsewhere.example"]}, "no rule is about the token's issuer"),
        ({"sub": ["x"]}, "the token is not valid"),
    ],
)
def test_forms_audience_and_issuer_are_checked(
    issuer: Issuer, changes: dict[str, Any], reason: str
) -> None:
    assert answer(good(issuer, **changes), rule(issuer)) == reason


def test_an_issuer_that_resembles_another_is_unknown(issuer: Issuer) -> None:
    url = issuer.url
    for name in (
        f"{url}/",
        f"{url}#",
        f" {url}",
        f"{url}\0",
        url.replace("https", "http"),
        url.replace("https", "HTTPS"),
        url.replace("127.0.0.1", "127.0.0.1."),
        url.replace("127.0.0.1", "a@127.0.0.1"),
        url.replace("127", "\uff1127"),  # full width 1
        url.replace(".", "\u3002", 1),  # ideographic full stop
        url[:-1],
    ):
        assert answer(good(issuer, iss=name), rule(issuer)) == "no rule is about the token's issuer"


def test_clocks_may_differ_a_little(issuer: Issuer) -> None:
    now = int(time.time())
    assert answer(good(issuer, exp=now - 10), rule(issuer)) == "main"
    assert answer(good(issuer, nbf=now + 10, iat=now + 10), rule(issuer)) == "main"


def test_a_token_that_is_bound_to_a_key_lets_no_other_in(issuer: Issuer) -> None:
    token = good(issuer, aud=bound(AUDIENCE, KEY.fingerprint))
    assert answer(token, rule(issuer)) == "main"
    reason = "the token is for another audience or another key"
    assert answer(token, rule(issuer), key=OTHER) == reason


def test_a_rule_of_another_audience_of_the_issuer_does_not_lend_its_own(issuer: Issuer) -> None:
    wide = rule(issuer, {"repository_owner": "acme"}, name="wide", audience="wide.example.com")
    assert answer(good(issuer, ref="refs/heads/x"), rule(issuer), wide) == NO_RULE


def forged(issuer: Issuer, header: dict[str, Any], signature: bytes | None = None) -> str:
    payload = good(issuer).split(".")[1]
    start = f"{encoded(header)}.{payload}"
    return f"{start}.{encoded(signature or b'')}"


def keyed_hash(issuer: Issuer, header: dict[str, Any], secret: bytes) -> str:
    start = f"{encoded(header)}.{good(issuer).split('.')[1]}"
    return f"{start}.{encoded(hmac.digest(secret, start.encode(), 'sha256'))}"


def with_payload(issuer: Issuer, payload: dict[str, Any]) -> str:
    header, _, signature = good(issuer).split(".")
    return f"{header}.{encoded(payload)}.{signature}"


FORGERIES: dict[str, Callable[[Issuer], str]] = {
    "no algorithm": lambda i: forged(i, {"alg": "none", "kid": "one"}),
    "None": lambda i: forged(i, {"alg": "None", "kid": "one"}),
    "no alg": lambda i: forged(i, {"kid": "one"}),
    "alg null": lambda i: forged(i, {"alg": None, "kid": "one"}),
    "alg a list": lambda i: forged(i, {"alg": ["RS256"], "kid": "one"}),
    "no signature": lambda i: forged(i, {"alg": "RS256", "kid": "one"}),
    "the public key as the secret of HS256": lambda i: keyed_hash(
        i, {"alg": "HS256", "kid": "one"}, public_pem(i.keys["one"])
    ),
    "HS256 that calls itself RS256": lambda i: keyed_hash(
        i, {"alg": "RS256", "kid": "one"}, public_pem(i.keys["one"])
    ),
    "the key in the token": lambda i: i.token(
        AUDIENCE, key=(own := new_key()), headers={"jwk": jwk(own, "one")}, **CLAIMS["github"]
    ),
    "the key at an address in the token": lambda i: i.token(
        AUDIENCE,
        key=new_key(),
        headers={"jku": "https://127.0.0.1:1/keys", "x5u": "https://127.0.0.1:1/"},
        **CLAIMS["github"],
    ),
    "a key that the issuer does not have": lambda i: i.token(
        AUDIENCE, key=new_key(), headers={"kid": "two"}, **CLAIMS["github"]
    ),
    "a path as kid": lambda i: i.token(
        AUDIENCE, headers={"kid": "../../etc/passwd"}, **CLAIMS["github"]
    ),
    "no kid": lambda i: i.token(AUDIENCE, headers={"kid": ""}, **CLAIMS["github"]),
    "a long kid": lambda i: i.token(AUDIENCE, headers={"kid": "k" * 300}, **CLAIMS["github"]),
    "a kid that looks the same": lambda i: i.token(
        AUDIENCE, headers={"kid": "\u043ene"}, **CLAIMS["github"]
    ),
    "a kid and more": lambda i: i.token(AUDIENCE, headers={"kid": "one\0"}, **CLAIMS["github"]),
    "kid a list": lambda i: forged(i, {"alg": "RS256", "kid": ["one"]}, b"x" * 256),
    "kid a number": lambda i: forged(i, {"alg": "RS256", "kid": 1}, b"x" * 256),
    "critical headers": lambda i: forged(i, {"alg": "RS256", "kid": "one", "crit": ["exp"]}),
    "b64": lambda i: forged(i, {"alg": "RS256", "kid": "one", "b64": False, "crit": ["b64"]}),
    "RS512": lambda i: jwt.PyJWS().encode(
        json.dumps({"iss": i.url}).encode(), i.keys["one"], "RS512", headers={"kid": "one"}
    ),
    "PS256": lambda i: jwt.PyJWS().encode(
        json.dumps({"iss": i.url}).encode(), i.keys["one"], "PS256", headers={"kid": "one"}
    ),
    "a foreign key for ES256": lambda i: i.token(
        AUDIENCE, key=new_key("ES256"), **CLAIMS["github"]
    ),
    "a foreign key for EdDSA": lambda i: i.token(
        AUDIENCE, key=new_key("EdDSA"), **CLAIMS["github"]
    ),
    "other claims": lambda i: with_payload(i, {"iss": i.url, "aud": AUDIENCE}),
    "a zero signature": lambda i: forged(i, {"alg": "RS256", "kid": "one"}, bytes(256)),
    "a long signature": lambda i: good(i) + "AAAA",
    "padding": lambda i: good(i) + "==",
    "four parts": lambda i: good(i) + ".x",
    "two parts": lambda i: good(i).rpartition(".")[0],
    "white space": lambda i: good(i).replace(".", ". ", 1),
    "not UTF-8": lambda i: f"{encoded(bytes([255, 254]))}.{encoded(b'{}')}.x",
    "a deep header": lambda i: f"{encoded(b'[' * 9000)}.{encoded(b'{}')}.x",
    "a list": lambda i: f"{encoded([])}.{encoded([])}.x",
    "a large number": lambda i: f"{encoded(b'9' * 9000)}.{encoded(b'{}')}.x",
    "nothing": lambda i: "",
    "a huge token": lambda i: good(i, padding="x" * 20000),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_no_forgery_gets_in(issuer: Issuer, forgery: str) -> None:
    reason = answer(FORGERIES[forgery](issuer), rule(issuer))
    assert reason.startswith(("the token", "this is not a token", "the issuer has no such key"))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_no_changed_byte_gets_in(issuer: Issuer, algorithm: str) -> None:
    randomly = random.Random(26)
    issuer.keys = {"one": new_key(algorithm)}
    token, to = good(issuer).encode(), known(issuer)
    assert answer(token, rule(issuer), to=to) == "main"
    for _ in range(400):
        place, byte = randomly.randrange(len(token)), randomly.randrange(256)
        changed = token[:place] + bytes([byte]) + token[place + 1 :]
        if changed != token:
            assert answer(changed, rule(issuer), to=to) != "main", (place, byte)
    for _ in range(100):
        assert answer(token[: randomly.randrange(len(token))], rule(issuer), to=to) != "main"
    # Some bits of the last character mean nothing to most decoders.
    for byte in b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_":
        changed = token[:-1] + bytes([byte])
        assert changed == token or answer(changed, rule(issuer), to=to) != "main"


def test_a_key_of_one_issuer_signs_for_no_other(issuer: Issuer, tmp_path: Path) -> None:
    with issuing(tmp_path) as other:
        other.keys = {"one": new_key()}
        both = {one.url: known(one) for one in (issuer, other)}
        token = other.token(AUDIENCE, **{**CLAIMS["github"], "iss": issuer.url}).encode()
        rules = [rule(issuer), rule(other, name="other")]
        with pytest.raises(Refused, match="is not valid"):
            asyncio.run(check(token, KEY.fingerprint, rules, both))


# Algorithms ---------------------------------------------------------------------------------------

OTHERS = ("none", "HS256", "HS384", "HS512", "RS384", "RS512", "PS256", "PS384", "ES512", "ES256K")


def signed(issuer: Issuer, header: dict[str, Any], key: PrivateKey) -> str:
    """A token with any header that the key has signed as it usually does."""
    start = f"{encoded({'kid': 'one', **header})}.{good(issuer).split('.')[1]}"
    signature = jwt.get_algorithm_by_name(algorithm_of(key)).sign(start.encode(), key)
    return f"{start}.{encoded(signature)}"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_issuer_signs_with_any_of_the_algorithms(issuer: Issuer, algorithm: str) -> None:
    key, other = new_key(algorithm), new_key(algorithm)
    issuer.keys = {"one": key}
    to = known(issuer)
    for left_out in ((), ("alg", "use")):
        public = jwk(key, "one")
        issuer.published = [{name: public[name] for name in public if name not in left_out}]
        asyncio.run(to.refresh(0))
        assert answer(good(issuer), rule(issuer), to=to) == "main"
    assert answer(signed(issuer, {"alg": algorithm}, key), rule(issuer), to=to) == "main"
    reason = answer(signed(issuer, {"alg": algorithm}, other), rule(issuer), to=to)
    assert reason == "the token is not valid"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_type_of_the_key_decides_on_the_algorithm(issuer: Issuer, algorithm: str) -> None:
    key = new_key(algorithm)
    issuer.keys = {"one": key}
    to = known(issuer)
    for other in (*ALGORITHMS, *OTHERS, algorithm.lower(), f"{algorithm} ", f"{algorithm}\0"):
        if other != algorithm:
            reason = answer(signed(issuer, {"alg": other}, key), rule(issuer), to=to)
            assert reason.startswith("the token is not signed with"), other
    # A key of another type that somebody else has, under the same name.
    for other in ALGORITHMS:
        if other != algorithm:
            for claimed in (other, algorithm):
                token = signed(issuer, {"alg": claimed}, new_key(other))
                reason = answer(token, rule(issuer), to=to)
                assert reason.startswith(("the token is not signed with", "the token is not valid"))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_no_public_key_is_the_secret_of_a_keyed_hash(issuer: Issuer, algorithm: str) -> None:
    key = new_key(algorithm)
    issuer.keys = {"one": key}
    to, public = known(issuer), jwk(key, "one")
    member = public.get("n") or public["x"]
    material = [
        public_pem(key),
        public_pem(key).strip(),
        Key.of(public).der,
        json.dumps(public).encode(),
        member.encode(),
        base64.urlsafe_b64decode(f"{member}=="),
        b"",
    ]
    for claimed in ("HS256", "HS384", "HS512", algorithm):
        for secret in material:
            token = keyed_hash(issuer, {"alg": claimed, "kid": "one"}, secret)
            assert answer(token, rule(issuer), to=to).startswith("the token is not")


P256 = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""The order of the curve P-256."""


def test_signatures_of_elliptic_curves_are_two_numbers_in_range(issuer: Issuer) -> None:
    key = new_key("ES256")
    issuer.keys = {"one": key}
    to = known(issuer)
    start, _, signature = good(issuer).rpartition(".")
    numbers = base64.urlsafe_b64decode(f"{signature}==")
    r, s = (int.from_bytes(numbers[part : part + 32]) for part in (0, 32))
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    wrong = [
        bytes(64),
        bytes(32) + numbers[32:],
        numbers[:32] + bytes(32),
        P256.to_bytes(32) * 2,
        numbers[:32] + (s + P256).to_bytes(33)[-32:],
        numbers[32:] + numbers[:32],
        key.sign(start.encode(), ec.ECDSA(hashes.SHA256())),  # in DER
        numbers[:-1],
        numbers + b"\0",
        bytes(32) + numbers,
        bytes(1) + numbers[:32] + bytes(1) + numbers[32:],
        numbers[:32],
        b"\1",
    ]
    for one in wrong:
        reason = answer(f"{start}.{encoded(one)}", rule(issuer), to=to)
        assert reason == "the token is not valid", one.hex()
    # Whoever has a signature can make this other one of the same token.
    twin = encoded(r.to_bytes(32) + (P256 - s).to_bytes(32))
    assert answer(f"{start}.{twin}", rule(issuer), to=to) == "main"


def test_a_token_with_two_signatures_is_still_one_token(issuer: Issuer, tmp_path: Path) -> None:
    enrolled = Enrolled(tmp_path)
    let_in(enrolled, issuer, token=b"a.b.one")
    with pytest.raises(Refused, match="used for another key"):
        let_in(enrolled, issuer, key=OTHER, token=b"a.b.two")


def test_numbers_of_a_key_may_lack_zeros_at_the_start(issuer: Issuer) -> None:
    scalars = range(1, 100_000)
    keys = (ec.derive_private_key(scalar, ec.SECP256R1()) for scalar in scalars)
    key = next(key for key in keys if key.public_key().public_numbers().x >> 248 == 0)
    issuer.keys = {"one": key}
    short = key.public_key().public_numbers().x.to_bytes(31)
    issuer.published = [{**jwk(key, "one"), "x": encoded(short)}]
    assert answer(good(issuer), rule(issuer)) == "main"


UNUSABLE: dict[str, tuple[str, dict[str, Any]]] = {
    "a point that is not on the curve": ("ES256", {"x": encoded(b"\1" * 32)}),
    "no point": ("ES256", {"x": "", "y": ""}),
    "a point of another curve": ("ES256", {"crv": "P-384"}),
    "another curve's name": ("ES256", {"crv": "secp256k1"}),
    "P-521": ("ES384", {"crv": "P-521"}),
    "no curve": ("ES256", {"crv": None}),
    "curve a list": ("ES256", {"crv": ["P-256"]}),
    "the other algorithm": ("ES256", {"alg": "ES384"}),
    "a keyed hash": ("ES384", {"alg": "HS256"}),
    "for encryption": ("ES256", {"use": "enc"}),
    "y is missing": ("ES256", {"y": None}),
    "x is too long": ("ES256", {"x": encoded(b"\1" * 33)}),
    "X25519": ("EdDSA", {"crv": "X25519"}),
    "Ed448": ("EdDSA", {"crv": "Ed448"}),
    "31 bytes": ("EdDSA", {"x": encoded(b"\1" * 31)}),
    "33 bytes": ("EdDSA", {"x": encoded(b"\1" * 33)}),
    "not base64": ("EdDSA", {"x": "!"}),
    "type of another key": ("EdDSA", {"kty": "EC"}),
    "a secret": ("EdDSA", {"kty": "oct", "k": "c2VjcmV0"}),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_unusable_keys_of_other_types_are_left_out(issuer: Issuer, kind: str) -> None:
    algorithm, changes = UNUSABLE[kind]
    issuer.keys = {"one": new_key(algorithm)}
    issuer.published = [{**jwk(issuer.keys["one"], "one"), **changes}]
    with pytest.raises(UnusableKey):
        Key.of(issuer.published[0])
    to = known(issuer)
    assert "cannot be had" in answer(good(issuer), rule(issuer), to=to)
    assert "no key for RS256 or ES256 or ES384 or EdDSA" in to.problem


def test_no_key_that_an_issuer_publishes_is_more_than_unusable() -> None:
    randomly = random.Random(26)
    members = ("kty", "crv", "alg", "use", "n", "e", "x", "y", "kid")
    texts = ("RSA", "EC", "OKP", "P-256", "P-384", "Ed25519", "RS256", "ES256", "sig", "AQAB")
    odd: tuple[Any, ...] = ("", "A", "_" * 43, "A" * 342, "\u00e4", None, True, 1, 1.5, [], {})
    values = (*texts, *odd, ["EC"])
    for _ in range(5000):
        with contextlib.suppress(UnusableKey):
            Key.of({name: randomly.choice(values) for name in members if randomly.random() < 0.9})


# The issuer's keys --------------------------------------------------------------------------------


def test_a_new_key_counts_at_once_and_a_withdrawn_one_after_a_while(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuers_module, "_UNKNOWN_KEY_SECONDS", 0)
    to = known(issuer)
    old = good(issuer)
    assert answer(old, rule(issuer), to=to) == "main"
    issuer.keys = {"two": new_key()}
    assert answer(old, rule(issuer), to=to) == "main"
    assert answer(good(issuer), rule(issuer), to=to) == "main"
    # The question about the new key has also shown that the old one is withdrawn.
    assert answer(old, rule(issuer), to=to) == "the issuer has no such key"


def test_a_withdrawn_key_is_found_within_five_minutes(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = known(issuer)
    old = good(issuer)
    assert answer(old, rule(issuer), to=to) == "main"
    issuer.published = [jwk(new_key(), "two")]
    start = time.monotonic()
    for passed, reason in ((299, "main"), (301, "the issuer has no such key")):
        monkeypatch.setattr(issuers_module.time, "monotonic", lambda now=start + passed: now)
        asyncio.run(to.refresh())
        assert answer(old, rule(issuer), to=to) == reason


def test_unknown_keys_do_not_make_the_issuer_busy(issuer: Issuer) -> None:
    to = known(issuer)
    issuer.asked.clear()
    for number in range(50):
        token = issuer.token(AUDIENCE, headers={"kid": f"k{number}"}, **CLAIMS["github"])
        assert answer(token, rule(issuer), to=to) == "the issuer has no such key"
    assert len(issuer.asked) == 2


def test_the_last_known_keys_count_for_a_day_while_the_issuer_is_away(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = known(issuer)
    asyncio.run(to.refresh())
    issuer.away = True
    asyncio.run(to.refresh(0))
    assert to.problem == ""
    assert answer(good(issuer), rule(issuer), to=to) == "main"
    passed = issuers_module.LAST_KNOWN_SECONDS + time.monotonic() + 1
    monkeypatch.setattr(issuers_module.time, "monotonic", lambda: passed)
    assert answer(good(issuer), rule(issuer), to=to).startswith("the issuer's keys cannot be had")
    assert "503" in to.problem


def test_an_issuer_that_was_away_at_the_start_is_asked_again_soon(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuers_module, "_UNKNOWN_KEY_SECONDS", 0)
    lines: list[str] = []
    to = Known(issuer.url, issuer.ca, lines.append)
    issuer.away = True
    asyncio.run(to.refresh())
    asyncio.run(to.refresh())
    assert "503" in to.problem
    issuer.away = False
    asyncio.run(to.refresh())
    assert to.problem == ""
    issuer.asked.clear()
    asyncio.run(to.refresh())
    assert issuer.asked == []
    assert [line.split(" ", 2)[2][:12] for line in lines] == ["gives no key", "1 keys"]


@pytest.mark.parametrize(
    ("configuration", "problem"),
    [
        ({"issuer": "https://elsewhere.example"}, "that of another issuer"),
        ({"jwks_uri": "http://127.0.0.1:1/keys"}, "not https"),
        ({"jwks_uri": "file:///etc/passwd"}, "not https"),
        ({"jwks_uri": None}, "not https"),
    ],
)
def test_a_wrong_configuration_gives_no_keys(
    issuer: Issuer, configuration: dict[str, Any], problem: str
) -> None:
    issuer.configuration = configuration
    to = known(issuer)
    assert answer(good(issuer), rule(issuer), to=to).startswith("the issuer's keys cannot be had")
    assert problem in to.problem


def test_an_issuer_with_a_certificate_of_another_ca_gives_no_keys(
    issuer: Issuer, tmp_path: Path
) -> None:
    with issuing(tmp_path) as other:
        for ca in (other.ca, ""):
            to = Known(issuer.url, ca, lambda line: None)
            assert "cannot be had" in answer(good(issuer), rule(issuer), to=to)
            assert "CERTIFICATE_VERIFY_FAILED" in to.problem


def test_redirects_are_not_followed(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Issuer, "answer", lambda *_: (302, {}))
    issuer.configuration = {"location": f"{issuer.url}/elsewhere"}
    issuer.asked.clear()
    to = known(issuer)
    assert "cannot be had" in answer(good(issuer), rule(issuer), to=to)
    assert issuer.asked == ["/.well-known/openid-configuration"]


@pytest.mark.parametrize("answer_of_issuer", [[], ["keys"], "x", {"keys": ["x"]}, {"keys": 1}, {}])
def test_nothing_that_an_issuer_answers_stops_the_verifier(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch, answer_of_issuer: Any
) -> None:
    to = known(issuer)
    usual = issuer.answer("/.well-known/openid-configuration", "")
    answers = {"/.well-known/openid-configuration": usual, "/keys": (200, answer_of_issuer)}
    monkeypatch.setattr(Issuer, "answer", lambda _, path, __: answers[path])
    assert "cannot be had" in answer(good(issuer), rule(issuer), to=to)
    monkeypatch.setattr(Issuer, "answer", lambda *_: (200, answer_of_issuer))
    asyncio.run(to.refresh(0))
    assert to.problem


@pytest.mark.parametrize(
    "changes",
    [
        {"kty": "oct", "k": "c2VjcmV0"},
        {"kty": "EC"},
        {"use": "enc"},
        {"alg": "HS256"},
        {"n": "AQAB"},
        {"n": "!"},
        {"n": None},
        {"n": "_" * 2000},
        {"e": "AQ"},
        {"e": "Ag"},
        {"e": "_" * 40},
    ],
)
def test_unusable_keys_of_an_issuer_are_left_out(issuer: Issuer, changes: dict[str, Any]) -> None:
    wrong = {**jwk(issuer.keys["one"], "one"), **changes}
    with pytest.raises(UnusableKey):
        Key.of(wrong)
    issuer.published = [wrong]
    to = known(issuer)
    assert "cannot be had" in answer(good(issuer), rule(issuer), to=to)
    assert "no key for RS256 or ES256" in to.problem


@pytest.mark.parametrize("bits", [2048, 3072, 4096])
def test_keys_of_usual_sizes_verify(bits: int) -> None:
    key = new_key(bits=bits)
    token = jwt.PyJWS().encode(b"{}", key, "RS256")
    message, _, signature = token.rpartition(".")
    mine, decoded = Key.of(jwk(key, "one")), base64.urlsafe_b64decode(signature + "==")
    assert mine.verify(message.encode(), decoded)
    assert not mine.verify(message.encode() + b"x", decoded)
    assert not mine.verify(message.encode(), decoded[1:])
    assert not Key("RS256", b"").verify(message.encode(), decoded)
    assert not Key.of(jwk(new_key(), "one")).verify(message.encode(), decoded)


# The keys that are let in -------------------------------------------------------------------------


def let_in(
    enrolled: Enrolled, issuer: Issuer, *, key: PublicKey = KEY, token: bytes = b"a.b.c"
) -> int:
    claims = {**CLAIMS["github"], "exp": time.time() + 300}
    return enrolled.add(key, token, rule(issuer, options="restrict,port-forwarding"), claims)


def test_a_key_is_listed_for_minutes_with_its_job(issuer: Issuer, tmp_path: Path) -> None:
    enrolled = Enrolled(tmp_path)
    wanted = rule(issuer, options="restrict,port-forwarding")
    until = let_in(enrolled, issuer)
    assert 0 < until - time.time() <= 900
    enrolled.write([wanted])
    expiry = time.strftime("%Y%m%d%H%M%SZ", time.gmtime(until))
    assert (tmp_path / "authorized_keys").read_text() == (
        f'restrict,port-forwarding,expiry-time="{expiry}" {KEY.line} main\n'
    )
    (file,) = (tmp_path / "keys").iterdir()
    assert file.name == KEY.fingerprint.replace("/", "_")
    assert file.read_text() == (
        f"{wanted.digest} repository=acme/app ref=refs/heads/main run=1658821493\n"
    )
    assert (tmp_path / "state.json").stat().st_mode & 0o077 == 0


def test_a_token_lets_in_one_key_even_after_a_restart(issuer: Issuer, tmp_path: Path) -> None:
    enrolled = Enrolled(tmp_path)
    let_in(enrolled, issuer)
    let_in(enrolled, issuer)
    enrolled.write([rule(issuer)])
    for later in (enrolled, Enrolled(tmp_path)):
        with pytest.raises(Refused, match="used for another key"):
            let_in(later, issuer, key=OTHER)
    assert "a.b.c" not in (tmp_path / "state.json").read_text()


def test_a_removed_rule_takes_its_keys_along(issuer: Issuer, tmp_path: Path) -> None:
    enrolled = Enrolled(tmp_path)
    wanted = rule(issuer, options="restrict,port-forwarding")
    let_in(enrolled, issuer)
    assert not enrolled.keep([wanted])
    assert enrolled.keep([rule(issuer, {"repository": "acme/app"})])
    enrolled.write([wanted])
    assert (tmp_path / "authorized_keys").read_text() == ""
    assert not [*(tmp_path / "keys").iterdir()]


def test_there_is_a_limit(issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrolled_module, "_MOST_KEYS", 1)
    enrolled = Enrolled(tmp_path)
    let_in(enrolled, issuer)
    with pytest.raises(Refused, match="too many keys"):
        let_in(enrolled, issuer, key=OTHER, token=b"d.e.f")
    # A key that cannot log in any more makes room.
    later = time.time() + enrolled_module.LOGIN_SECONDS + 1
    monkeypatch.setattr(enrolled_module.time, "time", lambda: later)
    let_in(enrolled, issuer, key=OTHER, token=b"d.e.f")
    enrolled.write([rule(issuer, options="restrict,port-forwarding")])
    assert OTHER.line in (tmp_path / "authorized_keys").read_text()
    assert KEY.line not in (tmp_path / "authorized_keys").read_text()


@pytest.mark.parametrize(
    "line",
    [
        "",
        "ssh-rsa AAAA",
        f"ssh-ed25519 {'A' * 67}",
        f"ssh-ed25519 {'A' * 68} comment",
        f"ssh-ed25519 {'A' * 68}\x00",
        f'command="sh" ssh-ed25519 {"A" * 68}',
        f"ssh-ed25519-cert-v01@openssh.com {'A' * 68}",
    ],
)
def test_only_a_plain_key_is_let_in(line: str) -> None:
    with pytest.raises(Refused):
        PublicKey.parse(line)


def test_what_a_log_line_says_of_a_job_is_one_harmless_word_each() -> None:
    claims = {"repository": "a b\n\x1b[2J", "ref": "refs/heads/ä=x", "run_id": "7" * 500}
    words = shown(claims).split(" ")
    assert words[0] == "repository=a%20b%0A%1B%5B2J"
    assert words[1] == "ref=refs/heads/%C3%A4%3Dx"
    assert words[2] == f"run={'7' * 200}"
    assert len(words) == 3


# The program --------------------------------------------------------------------------------------


async def asked(path: Path, request: bytes) -> str:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(request)
    writer.write_eof()
    reply = await reader.read()
    writer.close()
    return reply.decode()


def test_the_socket_answers_and_the_log_has_no_token(
    issuer: Issuer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules, path = tmp_path / "identities", tmp_path / "verifier.sock"
    (tmp_path / "volume").mkdir()

    def write(*given: Rule) -> None:
        rules.write_text(json.dumps([vars(one) for one in given]))

    async def exchange() -> list[str]:
        verifier = Verifier(rules, tmp_path / "volume")
        verifier.read_rules()
        await verifier.refresh()
        async with await asyncio.start_unix_server(verifier.answer, path):
            replies = [await asked(path, request) for request in requests[:-1]]
            write()
            return [*replies, await asked(path, requests[-1])]

    write(rule(issuer))
    tokens = [good(issuer), good(issuer, repository="acme/secret"), "garbage.of.somebody"]
    key = KEY.line.encode()
    requests = [b"ping\n", *(key + b"\n" + token.encode() for token in tokens)]
    requests += [b"", b"\n\n\n", b"x" * 50000, key + b"\n" + good(issuer).encode()]
    replies = asyncio.run(exchange())
    assert replies[0] == "ok\n"
    assert replies[1].startswith("accepted main 20")
    assert all(reply.startswith("refused ") for reply in replies[2:])
    assert "no rule is about" in replies[-1]
    log = capsys.readouterr().out
    job = "repository=acme/app ref=refs/heads/main run=1658821493"
    assert f"accepted name=main {job} key={KEY.fingerprint} until=" in log
    assert "refused key=" in log
    assert "repository=acme/secret" in log
    for token in tokens:
        assert not any(part in log for part in token.split(".") if len(part) > 6)


def test_the_program_needs_nothing_but_python(tmp_path: Path) -> None:
    assert archive() == archive()
    (tmp_path / "verifier.zip").write_bytes(archive())
    blocked = "import sys; sys.modules['cryptography'] = None; "
    program = f"{blocked}import jwt; from verifier.__main__ import main; print(jwt.__file__)"
    shown_file = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-c",
            f"import sys; sys.path.insert(0, sys.argv[1]); {program}",
            str(tmp_path / "verifier.zip"),
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert "verifier.zip" in shown_file
