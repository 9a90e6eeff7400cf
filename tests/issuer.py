"""An issuer of tokens like those of a CI: discovery, keys and tokens over HTTPS, with its own CA.

CIs issue tokens to their jobs by interfaces of their own, which no OpenID Connect server has. The
claims are those that each CI documents.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import secrets
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

SHA = "0f9a2b6c5d1e4f7a8b3c2d1e0f9a8b7c6d5e4f3a"
UUID = "6b1a4f0e-9d3c-4a57-8f21-0c7d5e2b9a14"

CLAIMS: dict[str, dict[str, Any]] = {
    "github": {
        "sub": "repo:acme@65/app@74:ref:refs/heads/main",
        "repository": "acme/app",
        "repository_owner": "acme",
        "repository_id": "74",
        "repository_owner_id": "65",
        "repository_visibility": "private",
        "ref": "refs/heads/main",
        "ref_type": "branch",
        "ref_protected": "true",
        "sha": SHA,
        "event_name": "push",
        "workflow": "image",
        "workflow_ref": "acme/app/.github/workflows/image.yml@refs/heads/main",
        "job_workflow_ref": "acme/app/.github/workflows/image.yml@refs/heads/main",
        "run_id": "1658821493",
        "run_number": "10",
        "run_attempt": "1",
        "runner_environment": "github-hosted",
        "actor": "ada",
        "actor_id": "12",
        "head_ref": "",
        "base_ref": "",
    },
    "gitlab": {
        "sub": "project_path:acme/app:ref_type:branch:ref:main",
        "namespace_id": "72",
        "namespace_path": "acme",
        "project_id": "20",
        "project_path": "acme/app",
        "job_namespace_id": "72",
        "job_namespace_path": "acme",
        "job_project_id": "20",
        "job_project_path": "acme/app",
        "user_id": "1",
        "user_login": "ada",
        "user_email": "ada@acme.example",
        "pipeline_id": "574",
        "pipeline_source": "push",
        "job_id": "302",
        "ref": "main",
        "ref_type": "branch",
        "ref_path": "refs/heads/main",
        "ref_protected": "true",
        "runner_id": 1,
        "runner_environment": "self-hosted",
        "sha": SHA,
        "project_visibility": "private",
    },
    "forgejo": {
        "sub": "repo:acme-65/app-74:ref:refs/heads/main",
        "repository": "acme/app",
        "repository_owner": "acme",
        "repository_id": "74",
        "repository_owner_id": "65",
        "ref": "refs/heads/main",
        "ref_type": "branch",
        "ref_protected": "true",
        "base_ref": "",
        "head_ref": "",
        "event_name": "push",
        "run_id": "31",
        "run_number": "7",
        "run_attempt": "1",
        "actor": "ada",
        "actor_id": "12",
        "workflow": "image.yml",
        "workflow_ref": "acme/app/.forgejo/workflows/image.yml@refs/heads/main",
        "sha": SHA,
    },
    "buildkite": {
        "sub": f"organization:acme:pipeline:app:ref:refs/heads/main:commit:{SHA}:step:image",
        "organization_slug": "acme",
        "organization_id": UUID,
        "pipeline_slug": "app",
        "pipeline_id": UUID,
        "build_number": 175,
        "build_branch": "main",
        "build_commit": SHA,
        "build_source": "webhook",
        "step_key": "image",
        "job_id": UUID,
        "agent_id": UUID,
        "runner_environment": "self-hosted",
    },
    "circleci": {
        "sub": f"org/{UUID}/project/{UUID}/user/{UUID}/vcs-origin/github.com/acme/app"
        "/vcs-ref/refs/heads/main",
        "oidc.circleci.com/project-id": UUID,
        "oidc.circleci.com/vcs-origin": "github.com/acme/app",
        "oidc.circleci.com/vcs-ref": "refs/heads/main",
        "oidc.circleci.com/context-ids": [UUID],
        "oidc.circleci.com/ssh-rerun": False,
    },
    "bitbucket": {
        "sub": f"{{{UUID}}}:{{{UUID}}}",
        "workspaceUuid": f"{{{UUID}}}",
        "repositoryUuid": f"{{{UUID}}}",
        "pipelineUuid": f"{{{UUID}}}",
        "stepUuid": f"{{{UUID}}}",
        "branchName": "main",
    },
}
"""What the token of a job on the branch main says, for each CI, without issuer, audience, times."""

RULES: dict[str, dict[str, str]] = {
    "github": {"repository": "acme/app", "ref": "refs/heads/main", "event_name": "push"},
    "gitlab": {"project_path": "acme/*", "ref_protected": "true"},
    "forgejo": {"repository_id": "74", "ref": "refs/heads/main", "event_name": "push"},
    "buildkite": {"organization_id": UUID, "pipeline_slug": "app", "build_number": "175"},
    "circleci": {
        "oidc.circleci.com/vcs-origin": "github.com/acme/*",
        "oidc.circleci.com/vcs-ref": "refs/heads/main",
        "oidc.circleci.com/ssh-rerun": "false",
    },
    "bitbucket": {"repositoryUuid": CLAIMS["bitbucket"]["repositoryUuid"], "branchName": "main"},
}
"""The claims of an identity that lets these jobs in."""


PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def new_key(algorithm: str = "RS256", bits: int = 2048) -> PrivateKey:
    """A key for the algorithm; `bits` is for RSA."""
    match algorithm:
        case "ES256":
            return ec.generate_private_key(ec.SECP256R1())
        case "ES384":
            return ec.generate_private_key(ec.SECP384R1())
        case "EdDSA":
            return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def algorithm_of(key: PrivateKey) -> str:
    """What an issuer with this key signs with."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return {"secp256r1": "ES256", "secp384r1": "ES384"}[key.curve.name]
    return "EdDSA" if isinstance(key, ed25519.Ed25519PrivateKey) else "RS256"


def jwk(key: PrivateKey, kid: str, **members: Any) -> dict[str, Any]:
    """The public half of the key as a JWK."""
    algorithm = algorithm_of(key)
    public: dict[str, Any] = jwt.get_algorithm_by_name(algorithm).to_jwk(
        key.public_key(), as_dict=True
    )
    public.pop("key_ops", None)
    return {**public, "kid": kid, "use": "sig", "alg": algorithm, **members}


def public_pem(key: PrivateKey) -> bytes:
    """The public half of the key as PEM."""
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


@dataclass
class Issuer:
    """An issuer at https://ADDRESS:PORT."""

    url: str
    ca: str
    """The certificate of its CA, in PEM."""
    keys: dict[str, PrivateKey] = field(default_factory=lambda: {"one": new_key()})
    """What it publishes and signs with, by kid; the last one signs."""
    configuration: dict[str, Any] = field(default_factory=dict)
    """What its configuration has besides or instead of the usual."""
    published: list[dict[str, Any]] | None = None
    """What it publishes instead of its keys."""
    away: bool = False
    """Whether it answers everything with 503."""
    asked: list[str] = field(default_factory=list)
    """The paths that were asked for."""
    claims: dict[str, Any] = field(default_factory=lambda: CLAIMS["github"])
    """Of the tokens that /token issues to whoever has the bearer token."""
    issued: list[str] = field(default_factory=list)
    """The tokens that it has issued."""
    bearer: str = field(default_factory=lambda: secrets.token_hex(16))

    def token(
        self,
        audience: str | list[str],
        *,
        key: PrivateKey | None = None,
        headers: dict[str, Any] | None = None,
        **claims: Any,
    ) -> str:
        """A token with these claims, signed with the last key; None removes a claim."""
        now = int(time.time())
        kid = [*self.keys][-1]
        payload = {
            "iss": self.url,
            "aud": audience,
            "iat": now,
            "nbf": now,
            "exp": now + 300,
            "jti": secrets.token_hex(8),
            **claims,
        }
        payload = {name: value for name, value in payload.items() if value is not None}
        key = key or self.keys[kid]
        token = jwt.PyJWS().encode(
            json.dumps(payload).encode(),
            key,
            algorithm_of(key),
            headers={"kid": kid, **(headers or {})},
        )
        self.issued.append(token)
        return token

    def answer(self, path: str, authorization: str) -> tuple[int, Any]:
        """Status and content for a request."""
        parts = urlsplit(path)
        if self.away:
            return 503, {}
        if parts.path == "/.well-known/openid-configuration":
            usual = {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}
            return 200, {**usual, **self.configuration}
        if parts.path == "/keys":
            usual_keys = [jwk(key, kid) for kid, key in self.keys.items()]
            return 200, {"keys": usual_keys if self.published is None else self.published}
        if parts.path == "/token" and authorization == f"bearer {self.bearer}":
            (audience,) = parse_qs(parts.query)["audience"]
            return 200, {"count": 1, "value": self.token(audience, **self.claims)}
        return 403, {}


@contextmanager
def issuing(folder: Path, address: str = "127.0.0.1") -> Iterator[Issuer]:
    """An issuer that listens at this address during the block."""
    ca, context = _certificates(folder, address)
    issuer: list[Issuer] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer[0].asked.append(self.path)
            status, content = issuer[0].answer(self.path, self.headers.get("Authorization", ""))
            body = json.dumps(content).encode()
            self.send_response(status)
            if location := issuer[0].configuration.get("location"):
                self.send_header("Location", location)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer((address, 0), Handler)
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True)
    issuer.append(Issuer(f"https://{address}:{server.server_address[1]}", ca))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield issuer[0]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _certificates(folder: Path, address: str) -> tuple[str, ssl.SSLContext]:
    """A new CA's certificate in PEM, and TLS with a certificate that it signed for the address."""
    now = datetime.datetime.now(datetime.UTC)
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])

    def signed(
        subject: x509.Name, public: ec.EllipticCurvePublicKey, *extensions: x509.ExtensionType
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=2))
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), False
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=True)
        return builder.sign(ca_key, hashes.SHA256())

    uses = dict.fromkeys(
        (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    # Python 3.13 refuses a CA without its uses.
    ca = signed(
        ca_name,
        ca_key.public_key(),
        x509.BasicConstraints(ca=True, path_length=None),
        x509.KeyUsage(key_cert_sign=True, **uses),
    )
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
    own = signed(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, address)]), key.public_key(), names
    )
    chain = folder / "issuer.pem"
    chain.write_bytes(
        own.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return ca.public_bytes(serialization.Encoding.PEM).decode(), context
