"""Write a new team's stack configuration: only its differences from the defaults in Pulumi.yaml.

Usage: team.py ROOT LOCAL NAME HOST HOST_KEY PUBLIC_KEY_FILE...
  LOCAL  folder with more stack configurations of this machine
  HOST   empty for this machine
"""

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import yaml

from components.docker_host import DockerHost
from components.ssh_key import PublicKey

_PROJECT = "docker-build-machine"
_NAME = re.compile(r"^[a-z][a-z0-9-]{0,39}$")
_LISTENING = "cat /proc/net/tcp /proc/net/tcp6 2>/dev/null; docker ps --format '{{.Ports}}'\n"


def listening(output: str) -> set[int]:
    """The listening TCP ports in /proc/net/tcp (proc(5): state 0A) and `docker ps`."""
    ports = {int(port) for port in re.findall(r":(\d+)->", output)}
    for line in output.splitlines():
        words = line.split()
        if len(words) > 3 and words[3] == "0A":
            ports.add(int(words[1].rpartition(":")[2], 16))
    return ports


def taken_ports(configs: Iterable[dict], host: str, default_host: str, default: int) -> set[int]:
    """The ports of the stacks on this host."""
    taken = set()
    for config in configs:
        settings = config.get("config") or {}
        if settings.get(f"{_PROJECT}:host", default_host) == host:
            taken.add(int(settings.get(f"{_PROJECT}:sshPort", default)))
    return taken


def main(root: str, local: str, name: str, host: str, host_key: str, *key_files: str) -> None:
    """Write Pulumi.<name>.yaml, unless it exists."""
    target = Path(root, f"Pulumi.{name}.yaml")
    if not _NAME.match(name):
        sys.exit(
            f"NAME = {name!r} must be 1 to 40 lowercase letters, digits and dashes, and start with "
            "a letter; next: make team NAME=web"
        )
    if target.exists():
        return
    defaults = yaml.safe_load(Path(root, "Pulumi.yaml").read_text())["config"]
    default_host, first = defaults["host"]["default"], int(defaults["sshPort"]["default"])
    if host.startswith("ssh://") and not host_key:
        sys.exit(
            f"HOST = {host} needs HOST_KEY, its public SSH host key; next: compare `ssh-keyscan -t "
            "ed25519` with what the host's owner tells you, then HOST_KEY='ssh-ed25519 AAAA...'"
        )
    host = host or default_host
    listing = subprocess.run(
        ["sh", "-c", DockerHost(host, host_key).shell()],
        input=_LISTENING,
        text=True,
        stdout=subprocess.PIPE,
        check=False,
    )
    if listing.returncode:
        sys.exit(f"HOST = {host} does not answer (the lines above say why)")
    files = {
        path.name: path for folder in (root, local) for path in Path(folder).glob("Pulumi.*.yaml")
    }
    configs = [yaml.safe_load(path.read_text()) or {} for path in files.values()]
    taken = taken_ports(configs, host, default_host, first) | listening(listing.stdout)
    settings: dict[str, object] = {}
    if host != default_host:
        settings |= {"host": host, "hostKey": host_key}
    settings["sshPort"] = next(port for port in range(first, 65536) if port not in taken)
    keys: dict[str, str] = {}
    for file in key_files:
        text = Path(file).read_text().strip()
        comment = (text.split() + [""] * 3)[2] or Path(file).stem
        owner = re.sub(r"[^a-zA-Z0-9._@-]", "-", comment)[:60]
        owner += f"-{len(keys) + 1}" if owner in keys else ""
        keys[owner] = str(PublicKey.parse(text))
    settings["keys"] = [{"name": owner, "publicKey": key} for owner, key in keys.items()]
    config = {f"{_PROJECT}:{setting}": value for setting, value in settings.items()}
    target.write_text(
        f"# The stack of team {name}: what differs from the defaults in Pulumi.yaml.\n"
        + yaml.safe_dump({"config": config}, sort_keys=False)
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
