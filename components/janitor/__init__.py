"""The janitor: one container that removes what builds and jobs leave in the daemon."""

from __future__ import annotations

from pathlib import Path

import pulumi_docker as docker

from components.cache import Cache
from components.scope import REPORTS_DIRECTORY, Scope, confined, mount, on_network
from components.settings import Settings
from components.transport import Transport

_DATA_DIRECTORY = "/data"
# janitor.sh has the same path.
_WORK_DIRECTORY = "/run/janitor"
_STOP_SECONDS = 10
# janitor.sh touches `alive` at each pass of its loop and writes to `unhealthy` why its last rounds
# failed.
_HEALTH = (
    f"cd {_WORK_DIRECTORY} && "
    '{ test -n "$(find alive -mmin -10)" || { echo "no round for 10 minutes"; false; }; } && '
    "tail -n 3 unhealthy && test ! -s unhealthy"
)


def declare_janitor(
    scope: Scope,
    settings: Settings,
    *,
    image: docker.RemoteImage,
    cache: Cache,
    transport: Transport,
    reports: docker.Volume | None,
) -> docker.Container:
    """Declare the janitor's container.

    It is an ordinary client of the daemon. It has the cache volume read-only, to measure the free
    space.
    """
    return scope.service(
        "janitor",
        image=image,
        health=["sh", "-c", _HEALTH],
        stop_seconds=_STOP_SECONDS,
        # Docker cannot upload files into a container with a read-only root.
        entrypoints=["sh", "-c", (Path(__file__).parent / "janitor.sh").read_text(), "janitor"],
        read_only=True,
        envs=cache.policy.apply(
            lambda policy: [
                f"JANITOR_LEFTOVER_SECONDS={settings.leftover_age.seconds}",
                f"JANITOR_IMAGE_SECONDS={settings.image_age.seconds}",
                f"JANITOR_MIN_FREE={policy.min_free}",
                f"JANITOR_RESERVED={policy.reserved}",
                "JANITOR_KEEP=" + "\n".join(settings.keep_images),
                # `docker builder prune` is a command of buildx, which needs a writable folder.
                f"DOCKER_CONFIG={_WORK_DIRECTORY}/docker",
                *transport.docker_client,
                *([f"JANITOR_TOTALS={REPORTS_DIRECTORY}/removals"] if reports else []),
            ]
        ),
        tmpfs={_WORK_DIRECTORY: "mode=0700,uid=1000,gid=1000"},
        volumes=[mount(cache.volume, _DATA_DIRECTORY, read_only=True), *transport.client_volumes],
        reports=reports,
        **on_network(transport.client_network),
        **confined(),
    )
