"""Write what runs, and what the program itself is made of, as CycloneDX files.

Usage: sbom.py OWNER FOLDER: writes FOLDER/ROLE.cdx.json for each container with this owner label.

Packages are read from the running containers' databases (apk or dpkg). Files that an image has
without a package, such as copied binaries, are identified only by the image's digest; the versions
of the daemon's parts come from `docker version`.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tarfile
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from cyclonedx.model import Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

from scripts.packages import PACKAGE_DATABASES, Package, packages_of

OWNER_LABEL = "docker-build-machine.owner"


def _docker(*words: str) -> bytes:
    result = subprocess.run(("docker", *words), check=False, stdout=subprocess.PIPE)
    if result.returncode:
        sys.exit(f"error: docker {words[0]} failed (the lines above say why)")
    return result.stdout


def _read(container: str, path: str) -> str | None:
    """A file of a running container, read without running anything in it; None if it is missing."""
    copied = subprocess.run(
        ("docker", "cp", "--follow-link", f"{container}:{path}", "-"),
        check=False,
        capture_output=True,
    )
    if copied.returncode:
        message = copied.stderr.decode(errors="replace")
        if re.search("no such|could not find", message, re.IGNORECASE):
            return None
        sys.exit(f"error: {path} in {container} cannot be read: {message.strip()}")
    with tarfile.open(fileobj=io.BytesIO(copied.stdout)) as packed:
        file = packed.extractfile(packed.getmembers()[0])
        return file.read().decode() if file else None


def _libraries(container: str) -> list[Component]:
    release = _read(container, "/etc/os-release") or ""
    names = dict(line.split("=", 1) for line in release.splitlines() if "=" in line)
    system = names.get("ID", "linux").strip('"')
    for path, kind in PACKAGE_DATABASES.items():
        text = _read(container, path)
        if text:
            return [_library(package, kind, system) for package in packages_of(path, text)]
    return []


def _library(package: Package, kind: str, system: str) -> Component:
    url = PackageURL(kind, system, package.name, package.version)
    licenses = [Property(name="license", value=package.license)] if package.license else []
    return Component(
        name=package.name,
        version=package.version,
        purl=url,
        bom_ref=str(url),
        properties=licenses,
    )


def _engine(container: str) -> list[Component]:
    """dockerd and the programs that belong to it."""
    command = ("docker", "version", "--format", "{{json .Server.Components}}")
    result = _docker("exec", "--user", "1000:1000", container, *command)
    return [
        Component(
            name=part["Name"],
            version=part["Version"],
            type=ComponentType.APPLICATION,
            bom_ref=f"engine:{part['Name']}",
        )
        for part in json.loads(result)
    ]


def of_container(found: dict[str, Any]) -> Bom:
    """What one container runs; `found` is its `docker inspect`."""
    image = json.loads(_docker("image", "inspect", found["Image"]))[0]
    name, digests = found["Name"].lstrip("/"), image["RepoDigests"] or []
    bom = Bom()
    bom.metadata.component = Component(
        name=name,
        version=found["Image"],
        type=ComponentType.CONTAINER,
        bom_ref=name,
        properties=[
            Property(name="image", value=text) for text in [*(image["RepoTags"] or []), *digests]
        ],
    )
    for component in [*_libraries(name), *(_engine(name) if name.endswith("-daemon") else [])]:
        bom.components.add(component)
    return bom


def of_program() -> Bom:
    """The Python packages of this environment."""
    bom = Bom()
    bom.metadata.component = Component(
        name="docker-build-machine", type=ComponentType.APPLICATION, bom_ref="docker-build-machine"
    )
    for found in distributions():
        url = PackageURL("pypi", None, found.name.lower(), found.version)
        bom.components.add(
            Component(name=found.name, version=found.version, purl=url, bom_ref=str(url))
        )
    return bom


def as_json(bom: Bom) -> str:
    """The file's text, CycloneDX 1.6."""
    assert bom.metadata.component
    bom.register_dependency(bom.metadata.component, bom.components)
    return make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2)


def main(owner: str, folder: str) -> int:
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    running = _docker("ps", "--quiet", "--filter", f"label={OWNER_LABEL}={owner}").decode().split()
    if not running:
        print(f"error: nothing of {owner} runs here; next: make up", file=sys.stderr)
        return 1
    boms = {"program": of_program()}
    for found in json.loads(_docker("inspect", *running)):
        boms[found["Name"].rsplit("-", 1)[-1]] = of_container(found)
    for role, bom in sorted(boms.items()):
        path = out / f"{role}.cdx.json"
        path.write_text(as_json(bom))
        print(f"{path}: {len(bom.components)} components")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
