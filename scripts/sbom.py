"""Write what runs, and what the program is made of, as CycloneDX files.

Usage: sbom.py OWNER FOLDER: writes FOLDER/ROLE.cdx.json for each container with this owner label.

Packages of containers are read from their own databases (apk or dpkg). Binaries that an image has
outside of its packages are covered by the image's digest alone; `docker version` names those of the
daemon.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from cyclonedx.model import Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

from scripts.packages import Package, packages_in, read

OWNER_LABEL = "docker-build-machine.owner"


def _docker(*words: str) -> bytes:
    return subprocess.run(("docker", *words), check=True, capture_output=True).stdout


def _libraries(container: str) -> list[Component]:
    release = read(container, "/etc/os-release") or ""
    names = dict(line.split("=", 1) for line in release.splitlines() if "=" in line)
    system = names.get("ID", "linux").strip('"')
    kind, packages = packages_in(container)
    return [_library(package, kind, system) for package in packages]


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


def write_program(path: Path) -> None:
    """The Python packages of this environment, by cyclonedx-bom."""
    project = Path(__file__).parents[1] / "pyproject.toml"
    command = (sys.executable, "-m", "cyclonedx_py", "environment", f"--pyproject={project}")
    written = subprocess.run(
        # Its validation takes ten times as long as all else, and a test does it.
        (*command, "--spec-version=1.6", "--no-validate", f"--output-file={path}"),
        check=False,
        capture_output=True,
        text=True,
    )
    if written.returncode:
        sys.exit(f"error: cyclonedx-py failed: {written.stderr.strip()}")


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
    boms = {}
    for found in json.loads(_docker("inspect", *running)):
        boms[found["Name"].rsplit("-", 1)[-1]] = of_container(found)
    for role, bom in sorted(boms.items()):
        path = out / f"{role}.cdx.json"
        path.write_text(as_json(bom))
        print(f"{path}: {len(bom.components)} components")
    program = out / "program.cdx.json"
    write_program(program)
    print(f"{program}: {len(json.loads(program.read_text())['components'])} components")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: {shlex.join(error.cmd)} failed: {error.stderr.decode().strip()}")
