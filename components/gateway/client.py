"""The SSH configuration of the gateway's clients."""

from __future__ import annotations

from components.layout import GATEWAY_USER


def known_hosts_lines(server: str, port: int, public_keys: list[str]) -> str:
    """Lines for known_hosts (sshd(8)); with a port other than 22 the name is [server]:port."""
    name = server if port == 22 else f"[{server}]:{port}"
    return "".join(f"{name} {key}\n" for key in public_keys)


def ssh_config(alias: str, server: str, port: int, public_keys: list[str]) -> str:
    """A block for ~/.ssh/config (ssh_config(5)): connection sharing and the pinned host key.

    KnownHostsCommand (OpenSSH 8.5) contains the key itself, so that no second file is needed.
    """
    known = "\\n".join(f"%H {key}" for key in public_keys)
    return f"""\
Host {alias}
  HostName {server}
  Port {port}
  User {GATEWAY_USER}
  StrictHostKeyChecking yes
  UserKnownHostsFile /dev/null
  GlobalKnownHostsFile /dev/null
  KnownHostsCommand /usr/bin/printf "{known}\\n"
  ControlMaster auto
  ControlPath ~/.ssh/%C
  ControlPersist 10m
  ServerAliveInterval 15
  ServerAliveCountMax 4
"""
