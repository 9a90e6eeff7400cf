"""The metrics: two containers that serve the state of the builder to Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import pulumi
import pulumi_docker as docker

from components.archive import packed, python_program
from components.cache import Cache
from components.layout import ACCESS_DIRECTORY
from components.scope import REPORTS_DIRECTORY, Scope, confined, memory, mount, on_network
from components.settings import Settings
from components.transport import Transport

# prometheus_client, and h2 with what it needs.
LIBRARIES = ("prometheus_client", "h2", "hpack", "hyperframe")
_DATA_DIRECTORY = "/data"
_PORT = 9105
_STOP_SECONDS = 10
# The list of a large build cache is some megabytes of JSON.
_READER_MIB = 256
_PAGE_MIB = 64


def archive(*libraries: str) -> bytes:
    """The program and these libraries as a zip file."""
    folders = {name: Path(str(files(name))) for name in libraries}
    return packed({"metrics": Path(__file__).parent / "program", **folders})


def declare_metrics(
    scope: Scope,
    settings: Settings,
    *,
    image: docker.RemoteImage,
    cache: Cache,
    transport: Transport,
    access: docker.Volume,
    reports: docker.Volume,
    parts: list[str],
    host_keys: Mapping[int, pulumi.Output[int | None]],
) -> list[docker.Container]:
    """Declare the container that reads the builder, and the one that serves what was read.

    The first is a client of the daemon as the janitor is, and listens on no port. The second
    listens, and has nothing but the page that the first writes to `reports`. `parts` are the
    roles of the containers that report their health there. `host_keys` has when each generation
    was made, in seconds since 1970; the first is the one that is presented.
    """
    program = python_program("metrics", archive(*LIBRARIES))
    reader = scope.service(
        "metrics",
        image=image,
        health=["python3", "-m", "metrics", "check", REPORTS_DIRECTORY],
        stop_seconds=_STOP_SECONDS,
        entrypoints=["python3", "-m", "metrics", "read", REPORTS_DIRECTORY],
        volumes=[
            mount(reports, REPORTS_DIRECTORY),
            mount(cache.volume, _DATA_DIRECTORY, read_only=True),
            mount(access, ACCESS_DIRECTORY, read_only=True),
            *transport.client_volumes,
        ],
        **program
        | {
            "envs": pulumi.Output.all(cache.policy, cache.image_store, *host_keys.values()).apply(
                lambda known: [
                    *program["envs"],
                    f"METRICS_BUILDER={scope.prefix}",
                    f"METRICS_PARTS={' '.join(parts)}",
                    f"METRICS_HOST_KEYS={_words(host_keys, known[2:])}",
                    f"METRICS_CACHE_LIMIT={known[0].size}",
                    f"METRICS_IMAGE_STORE={known[1]}",
                    f"METRICS_DATA={_DATA_DIRECTORY}",
                    f"METRICS_ACCESS={ACCESS_DIRECTORY}",
                    *transport.docker_client,
                ]
            )
        },
        **on_network(transport.client_network),
        **memory(_READER_MIB),
        **confined(),
    )
    page = scope.service(
        "metrics-page",
        image=image,
        health=["python3", "-m", "metrics", "ping", str(_PORT)],
        stop_seconds=_STOP_SECONDS,
        entrypoints=["python3", "-m", "metrics", "serve", REPORTS_DIRECTORY, str(_PORT)],
        ports=[
            docker.ContainerPortArgs(
                internal=_PORT, external=settings.metrics.port, ip=settings.metrics.address
            )
        ],
        volumes=[mount(reports, REPORTS_DIRECTORY, read_only=True)],
        **python_program("metrics", archive()),
        # With TLS the gateway's network is the daemon's, from which builds would reach the page.
        **on_network(
            scope.entrance() if settings.transport == "tls" else transport.gateway_network
        ),
        **memory(_PAGE_MIB),
        **confined(),
    )
    return [reader, page]


def _words(generations: Iterable[int], created: Sequence[int | None]) -> str:
    """`GENERATION:SECONDS` for each host key in this order, with 0 where the time is unknown."""
    return " ".join(f"{n}:{at or 0}" for n, at in zip(generations, created, strict=True))
