"""Download the official Pulumi CLI: pulumi_cli.py VERSION FOLDER."""

import io
import platform
import sys
import tarfile
import urllib.request
from pathlib import Path

ARCHITECTURES = {"x86_64": "x64", "aarch64": "arm64"}


def main(version: str, folder: str) -> None:
    """Fetch the archive and put its binaries into the folder."""
    architecture = ARCHITECTURES[platform.machine()]
    name = f"pulumi-v{version}-linux-{architecture}.tar.gz"
    with urllib.request.urlopen(f"https://get.pulumi.com/releases/sdk/{name}") as response:
        downloaded = io.BytesIO(response.read())
    with tarfile.open(fileobj=downloaded) as archive:
        for member in archive.getmembers():
            content = archive.extractfile(member)
            if content is not None:
                target = Path(folder, Path(member.name).name)
                target.write_bytes(content.read())
                target.chmod(0o755)


if __name__ == "__main__":
    main(*sys.argv[1:])
