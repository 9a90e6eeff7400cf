"""The packages of an image, read from its package database: Alpine's or Debian's."""

from __future__ import annotations

from dataclasses import dataclass

PACKAGE_DATABASES = {"/lib/apk/db/installed": "apk", "/var/lib/dpkg/status": "deb"}
"""The path of each distribution's database, and the type of its package URLs (purl-spec)."""


@dataclass(frozen=True)
class Package:
    name: str
    version: str
    license: str
    """The text in the database; Debian's has none."""


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
