"""The packages in a container, read from its own package database: Alpine's or Debian's."""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
from dataclasses import dataclass

PACKAGE_DATABASES = {"/lib/apk/db/installed": "apk", "/var/lib/dpkg/status": "deb"}
"""The path of each distribution's database, and the type of its package URLs (purl-spec)."""


@dataclass(frozen=True)
class Package:
    name: str
    version: str
    license: str
    """The text in the database; Debian's has none."""


def read(container: str, path: str) -> str | None:
    """A file of a container, running or not; None when there is none.

    Raises subprocess.CalledProcessError when docker fails for another reason.
    """
    copied = subprocess.run(
        ("docker", "cp", "--follow-link", f"{container}:{path}", "-"),
        check=False,
        capture_output=True,
    )
    if copied.returncode:
        if re.search(rb"no such|could not find", copied.stderr, re.IGNORECASE):
            return None
        copied.check_returncode()
    with tarfile.open(fileobj=io.BytesIO(copied.stdout)) as packed:
        file = packed.extractfile(packed.getmembers()[0])
        return file.read().decode() if file else None


def packages_in(container: str) -> tuple[str, list[Package]]:
    """The type of the package URLs, and the packages; both empty without a known database."""
    for path, kind in PACKAGE_DATABASES.items():
        text = read(container, path)
        if text:
            return kind, packages_of(path, text)
    return "", []


def packages_of(path: str, text: str) -> list[Package]:
    """The installed packages in the text of the database at this path, sorted by name."""
    if PACKAGE_DATABASES[path] == "apk":
        names = ("P", "V", "L")
        entries = [
            dict(line.split(":", 1) for line in entry.splitlines() if line[1:2] == ":")
            for entry in text.split("\n\n")
        ]
    else:
        names = ("Package", "Version", "License")
        entries = [
            dict(line.split(": ", 1) for line in entry.splitlines() if ": " in line[:40])
            for entry in text.split("\n\n")
        ]
        entries = [entry for entry in entries if "ok installed" in entry.get("Status", "")]
    found = [
        Package(*(entry.get(name, "") for name in names)) for entry in entries if names[0] in entry
    ]
    return sorted(found, key=lambda package: package.name)
