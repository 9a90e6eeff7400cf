"""Large transfers between client and daemon, compared with what ssh itself carries."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from typing import IO

from bench.client import Client
from bench.distance import FAR
from bench.figures import Figure
from bench.images import Images
from bench.link import Link

CONTEXT, SAVE, LOAD = "Build context of random data", "docker save", "docker load"
RAW = "ssh itself"
_LARGE = "bench:large"
# The cipher that the gateway negotiates, so that the raw transfer uses the same.
CIPHER = "aes128-gcm@openssh.com"


def _random_file(path: Path, megabytes: int) -> None:
    with path.open("wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(1_000_000))


def _rate(client: Client, command: list[str], megabytes: int, **streams: int | IO[bytes]) -> float:
    start = time.monotonic()
    subprocess.run(
        command, env=client.environment, check=True, stderr=subprocess.DEVNULL, **streams
    )  # type: ignore[call-overload]
    return megabytes / (time.monotonic() - start)


def _raw(host: Client, command: str) -> list[str]:
    ssh = str(host.folder / "bin" / "ssh")
    return [ssh, "-S", "none", "-c", CIPHER, "host", command]


def away(group: str) -> str:
    """The group of a transfer to a builder at a distance."""
    return f"{group}, {FAR} ms away"


def at_a_distance(
    link: Link, images: Images, kit: Client, folder: Path, megabytes: int, rounds: int
) -> list[Figure]:
    """All transfers of a client behind this link, which has a delay and no limit of its rate."""
    rate, link.delay, link.rate = link.rate, FAR / 1000, 0
    figures = context(images, [kit], None, folder / "context", megabytes, rounds)
    figures += images_of([kit], None, folder / "images", megabytes, rounds)
    link.delay, link.rate = 0, rate
    return [replace(figure, group=away(figure.group)) for figure in figures]


def context(
    images: Images,
    clients: list[Client],
    host: Client | None,
    folder: Path,
    megabytes: int,
    rounds: int,
) -> list[Figure]:
    """A step that uses the whole context; each round has new data in a new file.

    With `host`, ssh itself carries the same data there.
    """
    folder.mkdir(parents=True)
    dockerfile = f"FROM {images.base}\nRUN --mount=type=bind,target=/context true\n"
    samples: dict[str, list[float]] = {client.path: [] for client in clients}
    for number in range(rounds):
        for client in clients:
            # A new folder for each build: BuildKit sends only what changed since the last one.
            place = folder / f"{number}-{clients.index(client)}"
            place.mkdir()
            (place / "Dockerfile").write_text(dockerfile)
            _random_file(place / "data", megabytes)
            samples[client.path].append(megabytes / client.build(place))
            if host and client is clients[-1]:
                with (place / "data").open("rb") as data:
                    rate = _rate(host, _raw(host, "cat >/dev/null"), megabytes, stdin=data)
                samples.setdefault(RAW, []).append(rate)
            shutil.rmtree(place)
    return [Figure(CONTEXT, path, "MB/s", tuple(rates)) for path, rates in samples.items()]


def images_of(
    clients: list[Client], host: Client | None, folder: Path, megabytes: int, rounds: int
) -> list[Figure]:
    """`docker load` from a file and `docker save` to /dev/null, of an image of random data.

    The image is imported, not built: the build cache would keep its layers, and `docker load`
    would then have little to do.
    """
    folder.mkdir()
    _random_file(folder / "data", megabytes)
    archive = folder / "image.tar"
    samples: dict[tuple[str, str], list[float]] = {}

    def add(group: str, path: str, rate: float) -> None:
        samples.setdefault((group, path), []).append(rate)

    with tarfile.open(folder / "root.tar", "w") as root:
        root.add(folder / "data", "data")
    clients[0].docker("import", str(folder / "root.tar"), _LARGE)
    clients[0].docker("save", "--output", str(archive), _LARGE)
    clients[0].docker("image", "rm", "--force", _LARGE)
    nowhere = subprocess.DEVNULL
    for _ in range(rounds):
        for client in clients:
            with archive.open("rb") as file:
                load = ["docker", "load", "--quiet"]
                add(LOAD, client.path, _rate(client, load, megabytes, stdin=file, stdout=nowhere))
            save = ["docker", "save", _LARGE]
            add(SAVE, client.path, _rate(client, save, megabytes, stdout=nowhere))
            client.docker("image", "rm", "--force", _LARGE)
        if host:
            with archive.open("rb") as file:
                add(LOAD, RAW, _rate(host, _raw(host, "cat >/dev/null"), megabytes, stdin=file))
            send = _raw(host, f"head -c {megabytes}000000 /dev/zero")
            add(SAVE, RAW, _rate(host, send, megabytes, stdout=nowhere))
    shutil.rmtree(folder)
    return [Figure(group, path, "MB/s", tuple(rates)) for (group, path), rates in samples.items()]
