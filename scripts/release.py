"""Check that this commit can be released, and create its git tag.

Usage: release.py [--tag]

The version is in pyproject.toml; everything else must agree with it. It needs only Python and git.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

_VERSION = re.compile(r"\d+\.\d+\.\d+")
_SECTION = re.compile(r"^## \[([^\]]+)\](?: - (\d{4}-\d{2}-\d{2}))?$", re.MULTILINE)
_STATES = "tests/engine/states"
# Of the text at https://www.apache.org/licenses/LICENSE-2.0.txt.
_APACHE_2 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


def version_of(root: Path) -> str:
    """The version of this tree."""
    return str(tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"])


def sections(changelog: str) -> dict[str, tuple[str, str]]:
    """The date and the text of each section of CHANGELOG.md, by version, newest first."""
    found = list(_SECTION.finditer(changelog))
    ends = [match.start() for match in found[1:]] + [len(changelog)]
    return {
        match[1]: (match[2] or "", changelog[match.end() : end].strip())
        for match, end in zip(found, ends, strict=True)
    }


def problems(root: Path) -> list[str]:
    """What keeps this commit from being released, each with the next step."""
    version = version_of(root)
    return [
        *_version_problems(root, version),
        *_changelog_problems((root / "CHANGELOG.md").read_text(), version),
        *_file_problems(root),
        *_git_problems(root, version),
    ]


def _version_problems(root: Path, version: str) -> list[str]:
    if not _VERSION.fullmatch(version):
        return [f"version = {version!r} in pyproject.toml must be X.Y.Z; next: correct it"]
    return []


def _changelog_problems(changelog: str, version: str) -> list[str]:
    found = sections(changelog)
    if "Unreleased" not in found:
        return ["CHANGELOG.md has no section [Unreleased]; next: add an empty one at the top"]
    lines = []
    if found["Unreleased"][1]:
        lines.append(
            "CHANGELOG.md has entries under [Unreleased]; next: raise version in pyproject.toml "
            "and move them to a section of that version"
        )
    released = [name for name in found if name != "Unreleased"]
    if not released or released[0] != version:
        newest = released[0] if released else "none"
        lines.append(
            f"version is {version} and the newest section of CHANGELOG.md is {newest}; next: make "
            "them the same"
        )
    for name in released:
        date, text = found[name]
        if not date or not text:
            lines.append(f"the section [{name}] of CHANGELOG.md needs a date and entries")
    return lines


def _file_problems(root: Path) -> list[str]:
    lines = []
    text = (root / "LICENSE").read_bytes() if (root / "LICENSE").exists() else b""
    if hashlib.sha256(text).hexdigest() != _APACHE_2:
        lines.append("LICENSE is not the text of Apache-2.0; next: restore it")
    for release in sections((root / "CHANGELOG.md").read_text()):
        if release != "Unreleased" and not (root / _STATES / f"{release}.json.gz").exists():
            lines.append(
                f"{_STATES}/{release}.json.gz is missing, so no test shows that stacks of "
                f"{release} keep working; next: RECORD_STATE=yes scripts/test "
                "tests/engine/test_state.py"
            )
    return lines


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *words], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def _git_problems(root: Path, version: str) -> list[str]:
    lines = []
    if changed := _git(root, "status", "--porcelain"):
        lines.append(f"the tree has changes that are not committed; next: commit them:\n{changed}")
    tag = f"v{version}"
    if _git(root, "tag", "--list", tag) and _git(root, "tag", "--points-at", "HEAD", tag) != tag:
        lines.append(f"the tag {tag} is on another commit; next: raise version in pyproject.toml")
    return lines


def main(words: list[str] | None = None, root: Path | None = None) -> int:
    """Print what is missing, or the next step; returns the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/release", description=__doc__)
    parser.add_argument("--tag", action="store_true", help="create the tag if all checks pass")
    options = parser.parse_args(words)
    root = root or Path(__file__).resolve().parents[1]
    tag = f"v{version_of(root)}"
    found = problems(root)
    for line in found:
        print(f"error: {line}", file=sys.stderr)
    if found:
        return 1
    if _git(root, "tag", "--list", tag):
        print(f"{tag} is the tag of this commit; next: git push origin main {tag}")
    elif options.tag:
        _git(root, "tag", "--annotate", tag, "--message", f"Release {tag}")
        print(f"created the tag {tag}; next: git push origin main {tag}")
    else:
        print(f"this commit can be released as {tag}; next: make test, then scripts/release --tag")
    return 0


if __name__ == "__main__":
    sys.exit(main())
