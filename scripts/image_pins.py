"""Pin every image in the settings by the current digest of its tag, and show what changed.

Usage: image_pins.py [FOLDER]

Reads Pulumi.yaml and each Pulumi.STACK.yaml of the folder. An image NAME:TAG, with or without a
digest, is pulled by its tag and written back as NAME:TAG@sha256:...; for another version, change
the tag first. `docker buildx imagetools` finds digests without pulling, but neither the unpacked
size nor the packages, which are what changed behind a tag.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from scripts.packages import packages_in

_LINE = re.compile(
    r"^(?:  (?P<default>\w+Image):\n(?:    .*\n)*?    default: (?P<of_default>\S+)"
    r"|  docker-build-machine:(?P<set>\w+Image): (?P<of_set>\S+))$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Image:
    """A pulled image on this machine's Docker."""

    digest: str
    created: str
    size: int
    """Bytes, unpacked."""
    labels: dict[str, str]
    packages: dict[str, str]
    """Name to version, from the image's own package database."""


def references(text: str) -> dict[str, str]:
    """The image settings of a Pulumi.yaml or a stack's file, by name."""
    return {
        match["default"] or match["set"]: (match["of_default"] or match["of_set"]).strip("\"'")
        for match in _LINE.finditer(text)
    }


def _docker(*words: str) -> bytes:
    return subprocess.run(("docker", *words), check=True, capture_output=True).stdout


def look_at(reference: str) -> Image:
    """Pull the image. Raises subprocess.CalledProcessError if that fails."""
    _docker("pull", "--quiet", reference)
    found = json.loads(_docker("image", "inspect", reference))[0]
    name = re.split(r"[@]|:(?=[^/]*$)", reference)[0]
    digests = [digest.split("@")[1] for digest in found["RepoDigests"] if _same(digest, name)]
    # Engine 29 leaves out empty fields.
    config = found.get("Config") or {}
    return Image(
        digest=digests[0],
        created=found["Created"],
        size=found["Size"],
        labels=config.get("Labels") or {},
        packages=_packages(found["Id"]),
    )


def _same(digest: str, name: str) -> bool:
    """Whether a digest belongs to the name; Docker shortens the names of Docker Hub."""
    return digest.split("@")[0].removeprefix("docker.io/").removeprefix("library/") == (
        name.removeprefix("docker.io/").removeprefix("library/")
    )


def _packages(identifier: str) -> dict[str, str]:
    container = _docker("create", identifier, "none").decode().strip()
    try:
        return {package.name: package.version for package in packages_in(container)[1]}
    finally:
        _docker("rm", "--volumes", container)


def changes(old: Image, new: Image) -> list[str]:
    """What is different, one line each."""
    lines = [f"created {old.created[:19]} -> {new.created[:19]}"]
    lines.append(f"size {old.size / 1e6:.1f} MB -> {new.size / 1e6:.1f} MB")
    for what, before, after in (
        ("label", old.labels, new.labels),
        ("package", old.packages, new.packages),
    ):
        for name in sorted(before.keys() | after.keys()):
            if before.get(name) != after.get(name):
                lines.append(f"{what} {name} {before.get(name, '-')} -> {after.get(name, '-')}")
    return lines


def _update(setting: str, reference: str) -> str:
    """The reference with the current digest; prints what changed."""
    tagged, _, pinned = reference.partition("@")
    if ":" not in tagged.rsplit("/", 1)[-1]:
        print(f"{setting}: {reference} has no tag to follow; it stays as it is")
        return reference
    new = look_at(tagged)
    updated = f"{tagged}@{new.digest}"
    if updated == reference:
        print(f"{setting}: {tagged} is still {new.digest}")
        return reference
    print(f"{setting}: {tagged} {pinned or '(no digest)'} -> {new.digest}")
    if pinned:
        try:
            print("".join(f"    {line}\n" for line in changes(look_at(reference), new)), end="")
        except subprocess.CalledProcessError:
            print("    the old image can no longer be pulled, so there is nothing to compare with")
    else:
        print(
            f"    {len(new.packages)} packages, {new.size / 1e6:.1f} MB, created {new.created[:19]}"
        )
    return updated


def write_reference(path: Path, old: str, new: str) -> None:
    """Replace one reference in a YAML file by another."""
    line = rf"(?<=: )([\"']?){re.escape(old)}\1$"
    path.write_text(re.sub(line, new, path.read_text(), flags=re.MULTILINE))


def main(folder: str = ".") -> int:
    """Update the files; returns 1 if an image cannot be pulled, whose reference then stays."""
    root, failed = Path(folder), 0
    for path in sorted(root.glob("Pulumi*.yaml")):
        for setting, reference in references(path.read_text()).items():
            try:
                updated = _update(setting, reference)
            except subprocess.CalledProcessError as error:
                reason = error.stderr.decode().strip().splitlines()[-1:]
                print(f"{setting}: {reference} cannot be pulled, it stays: {' '.join(reason)}")
                failed = 1
                continue
            if updated != reference:
                write_reference(path, reference, updated)
    return failed


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
