"""Who can log in: installs the authorized keys without a restart of the gateway."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import pulumi
import pulumi_docker as docker

from components.layout import (
    ACCESS_DIRECTORY,
    DAEMON_SOCKET_NAME,
    GATEWAY_SOCKETS,
    GUARD_SOCKET_NAME,
    SOCKET_VARIABLE,
)
from components.scope import Scope, mount, upload
from components.settings import AuthorizedKey, Given, Identity, Settings


@dataclass(frozen=True)
class Access:
    """The authorized keys and revocations on the host."""

    volume: docker.Volume
    installed: docker.Container
    sha256: pulumi.Output[str]
    """Of authorized_keys; the readiness check compares it with the installed file."""

    @classmethod
    def declare(cls, scope: Scope, given: Given[Settings], *, image: docker.RemoteImage) -> Access:
        """Declare the volume with the keys, and the container that writes the files into it.

        sshd reads the files at each login, so gateway and daemon keep running when keys change. The
        container's environment has the name and fingerprint of each key, so that a preview shows
        changes.
        """
        volume = scope.volume("access")
        files = given.complete.apply(_files)
        installed = scope.one_shot(
            "keys",
            image=image,
            script=(Path(__file__).parent / "access.sh").read_text(),
            envs=given.complete.apply(_summary),
            volumes=[mount(volume, ACCESS_DIRECTORY)],
            uploads=[upload(f"/new/{name}", files[name]) for name in _files(given.known)],
        )
        sha256 = files.apply(
            lambda files: hashlib.sha256(files["authorized_keys"].encode()).hexdigest()
        )
        return cls(volume, installed, sha256)


def _summary(settings: Settings) -> list[str]:
    """Keys, identities and revocations as environment variables."""
    return [
        *(f"{key.name}={_conditions(key)}" for key in settings.active_keys),
        *(f"{rule.name}={rule.conditions}" for rule in settings.active_identities),
        *(
            f"revoked-{number}={f'{entry.ca} {entry.line}'.strip()}"
            for number, entry in enumerate(settings.revoked, 1)
        ),
    ]


def _conditions(key: AuthorizedKey) -> str:
    """The fingerprint and conditions of a key, as a preview shows them."""
    conditions = {
        "certificates of": ",".join(key.principals),
        "from": ",".join(key.from_),
        "until": str(key.until or ""),
        "role": "" if key.role == "admin" else key.role,
    }
    words = [f"{name} {value}" for name, value in conditions.items() if value]
    return " ".join([key.public_key.fingerprint, *words])


def _options(role: str) -> list[str]:
    """Options of a line of authorized_keys that only allow the socket of the role.

    ForceCommand reads the environment variable; without it a session gets the guard's socket.
    """
    name = DAEMON_SOCKET_NAME if role == "admin" else GUARD_SOCKET_NAME
    options = [
        "restrict",
        "port-forwarding",
        f'permitopen="[{GATEWAY_SOCKETS}/{name}]:*"',
    ]
    if role == "admin":
        options.append(f'environment="{SOCKET_VARIABLE}={DAEMON_SOCKET_NAME}"')
    return options


def _line(key: AuthorizedKey) -> str:
    """The key's line of authorized_keys."""
    options = _options(key.role)
    if key.is_authority:
        options += ["cert-authority", f'principals="{",".join(key.principals)}"']
    if key.from_:
        options.append(f'from="{",".join(key.from_)}"')
    if key.until:
        options.append(f'expiry-time="{key.last_second}Z"')
    return f"{','.join(options)} {key.public_key} {key.name}"


def _rules(identities: tuple[Identity, ...]) -> str:
    """The rules of the verifier, each with the options of the lines that it writes."""
    rules = [{**rule.rule, "options": ",".join(_options(rule.role))} for rule in identities]
    return json.dumps(rules, indent=1, sort_keys=True) + "\n"


def _files(settings: Settings) -> dict[str, str]:
    """The files that access.sh installs for sshd, the session monitor and the verifier."""
    keys, revoked = sorted(settings.active_keys, key=lambda key: key.name), settings.revoked
    files = {"authorized_keys": "".join(f"{_line(key)}\n" for key in keys)}
    listed = [
        f"{'ca' if key.is_authority else 'key'} {key.public_key.fingerprint} {key.name} "
        f"{key.last_second or '-'} {','.join(key.from_) or '-'} {','.join(key.principals) or '-'} "
        f"{key.role}"
        for key in keys
    ]
    listed += [
        f"rule {rule.digest} {rule.name} {rule.last_second or '-'} - - {rule.role}"
        for rule in settings.active_identities
    ]
    if settings.identities:
        files["identities"] = _rules(settings.active_identities)
    hashes = [entry for entry in revoked if entry.fingerprint]
    listed += [f"revoked {entry.fingerprint}" for entry in hashes]
    if hashes:
        files["revoked/fingerprints"] = "".join(f"{entry.line}\n" for entry in hashes)
    for number, key in enumerate(keys, 1):
        signed = [entry for entry in revoked if entry.ca == key.name]
        if signed:
            files[f"revoked/{number}"] = "".join(f"{entry.line}\n" for entry in signed)
            files[f"revoked/{number}.pub"] = f"{key.public_key}\n"
        listed += [f"revoked {key.public_key.fingerprint} {entry.line}" for entry in signed]
    files["list"] = "".join(f"{line}\n" for line in listed)
    # The provider cannot upload empty files; in these files the line is a comment.
    return {name: content or "# no key is in force\n" for name, content in files.items()}
