"""Write this machine's stack configuration: committed settings, its own settings, key and images.

Usage: stack_config.py COMMITTED LOCAL PUBLIC_KEY_FILE DAEMON_IMAGE GATEWAY_IMAGE GUARD_IMAGE
"""

import getpass
import re
import sys
from pathlib import Path

import yaml

_PROJECT = "docker-build-machine"


def merged(
    committed: dict, local: dict, name: str, public_key: str, images: dict[str, str]
) -> dict:
    """The committed settings, overridden by this machine's, with a first key and the images."""
    config = {**committed.get("config", {}), **local.get("config", {})}
    config.setdefault(f"{_PROJECT}:keys", [{"name": name, "publicKey": public_key}])
    config |= {f"{_PROJECT}:{setting}": image for setting, image in images.items()}
    return {**local, "config": config}


def main(committed: str, local: str, key_file: str, daemon: str, gateway: str, guard: str) -> None:
    """Merge the files; the local file keeps its encryption salt."""
    target = Path(local)
    before = yaml.safe_load(target.read_text()) if target.exists() else {}
    name = re.sub(r"[^a-zA-Z0-9._-]", "-", getpass.getuser())
    images = {"daemonImage": daemon, "gatewayImage": gateway, "guardImage": guard}
    settings = merged(
        yaml.safe_load(Path(committed).read_text()),
        before or {},
        name,
        Path(key_file).read_text().strip(),
        images,
    )
    if settings != before:
        target.write_text(yaml.safe_dump(settings, sort_keys=False))


if __name__ == "__main__":
    main(*sys.argv[1:])
