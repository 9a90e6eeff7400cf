"""python -m bench.large [--short]: builds of projects with many small files.

Measures the first build, and the next one after a change of one file: through the local socket,
with the kit, and with the kit over a distance; and what a Dockerfile's author can change.
"""

from __future__ import annotations

import argparse
import contextlib
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bench import distance
from bench.builder import Builder
from bench.client import Client, forget
from bench.figures import Figure
from bench.images import prepared
from bench.link import Link, serve
from bench.peers import load, network
from bench.targets import LOCAL

FILES, FILES_SHORT = (1_000, 10_000, 50_000), (1_000, 5_000)
_IN_A_FOLDER = 100
_FILE_BYTES = 1_000


@dataclass(frozen=True)
class Way:
    """How the dependencies of a project get into its image."""

    name: str
    """A suffix of the path in the report; empty for the usual way."""
    copy: str
    """The Dockerfile's line for the dependencies."""
    options: tuple[str, ...] = ()
    ignored: str = ""
    """The text of .dockerignore."""


USUAL = Way("", "COPY node_modules /app/node_modules")
OTHERS = (
    Way("COPY --link", "COPY --link node_modules /app/node_modules"),
    Way(
        "named context",
        "COPY --from=modules . /app/node_modules",
        ("--build-context", "modules=node_modules"),
        "node_modules",
    ),
    Way(".dockerignore, not copied", "", ignored="node_modules"),
)


def group(number: int, build: str) -> str:
    """The heading of a first or second build with this number of files."""
    return f"Project of {number} small files: {build}"


def files(
    base: str, local: Client, ours: list[Client], folder: Path, numbers: tuple[int, ...]
) -> Iterator[Figure]:
    """Builds in the usual way with each number of files, and in the other ways with the most.

    The other ways are measured with `ours` only: older daemons do not know all of them.
    """
    for number in numbers:
        for client in (local, *ours):
            yield from _builds(base, client, folder, number, USUAL)
    for way in OTHERS:
        for client in ours:
            yield from _builds(base, client, folder, numbers[-1], way)


def _builds(base: str, client: Client, folder: Path, number: int, way: Way) -> Iterator[Figure]:
    """A first and a second build; no layer and no file of it is in a cache before."""
    project = folder / secrets.token_hex(4)
    _write(project, number)
    lines = (f"FROM {base}", "WORKDIR /app", way.copy, "COPY src /app/src")
    (project / "Dockerfile").write_text("".join(f"{line}\n" for line in lines))
    (project / ".dockerignore").write_text(f"{way.ignored}\n")
    options = [o.replace("modules=", f"modules={project}/") for o in way.options]
    path = f"{client.path}, {way.name}" if way.name else client.path
    for build in ("first build", "one file changed"):
        (project / "src" / "main.js").write_text(secrets.token_hex(8))
        yield Figure(group(number, build), path, "s", (client.build(project, *options),))
    shutil.rmtree(project)


def _write(project: Path, number: int) -> None:
    (project / "src").mkdir(parents=True)
    token = secrets.token_hex(8)
    for n in range(number):
        place = project / "node_modules" / f"package-{n // _IN_A_FOLDER}"
        if n % _IN_A_FOLDER == 0:
            place.mkdir(parents=True)
        (place / f"{n}.js").write_text(f"{token} {n}\n".ljust(_FILE_BYTES, "."))


@contextmanager
def away(link: Link, kit: Client) -> Iterator[Client]:
    """The kit behind this link, which has a delay within the block."""
    link.delay = distance.FAR / 1000
    yield replace(kit, path=f"{kit.path}, {distance.FAR} ms away")
    link.delay = 0


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.large", description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer files")
    options = parser.parse_args()
    with prepared() as (images, folder), contextlib.ExitStack() as stack:
        builder = Builder.create(images, folder / "stack", stack.enter_context(network()))
        stack.callback(builder.stack.destroy)
        builder.stack.up()
        local = Client.create(LOCAL, "unix:///var/run/docker.sock", folder / "local")
        kit = stack.enter_context(builder.clients(folder / "near"))[0]
        load(kit, images.base)
        stack.callback(forget, local)
        link = Link(builder.address, builder.port, rate=distance.RATE)
        port = stack.enter_context(serve(link, builder.address))
        behind = stack.enter_context(builder.clients(folder / "far", port))[0]
        ours = [kit, stack.enter_context(away(link, behind))]
        numbers = FILES_SHORT if options.short else FILES
        for figure in files(images.base, local, ours, folder, numbers):
            print(f"{figure.group} | {figure.path}: {figure.median:.2f} s", flush=True)


if __name__ == "__main__":
    main()
