"""Keys, ports and ssh configuration of clients."""

from __future__ import annotations

import secrets
import socket
from contextlib import suppress
from pathlib import Path

from bench.client import run


def make_key(path: Path) -> str:
    """Make a new ed25519 key pair at `path`, replacing an older one; returns the public key."""
    path.unlink(missing_ok=True)
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", str(path))
    return Path(f"{path}.pub").read_text().strip()


def free_port() -> int:
    """A free TCP port of 127.0.0.1 that Linux does not give to outgoing connections.

    Those get ports from 32768 on (net.ipv4.ip_local_port_range), and could take the port before a
    container listens there.
    """
    while True:
        port = secrets.choice(range(10_000, 32_768))
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def ssh_block(
    alias: str,
    user: str,
    address: str,
    port: int,
    folder: Path,
    known_hosts: str = "",
    *,
    shared: bool,
) -> str:
    """A Host block for `folder/key`; without known hosts, ssh accepts any host key.

    `shared` adds a plain ControlMaster; nothing else is configured.
    """
    known = folder / "known_hosts"
    known.write_text(known_hosts)
    lines = [
        f"Host {alias}",
        f"HostName {address}",
        f"User {user}",
        f"Port {port}",
        f"IdentityFile {folder}/key",
        f"UserKnownHostsFile {known if known_hosts else '/dev/null'}",
        f"StrictHostKeyChecking {'yes' if known_hosts else 'no'}",
        "LogLevel ERROR",
    ]
    if shared:
        lines += ["ControlMaster auto", f"ControlPath {folder}/%C", "ControlPersist 10m"]
    return "\n".join(lines) + "\n"
