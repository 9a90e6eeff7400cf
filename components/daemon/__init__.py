"""The rootless Docker daemon: one container, its configuration and its transport."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pulumi
import pulumi_command as command
import pulumi_docker as docker

from components.cache import Cache, CachePolicy
from components.daemon.isolation import Isolation
from components.daemon.limits import Limits
from components.daemon.rootless import MTU, Rootless
from components.host_facts import HostFacts, while_unknown_keep
from components.layout import (
    DAEMON_ALIAS,
    DAEMON_CONFIG,
    DAEMON_SOCKET,
    DATA_DIRECTORY,
    IMAGE_STORE_VARIABLE,
)
from components.registry_access import RegistryAccess
from components.scope import LOG_ROTATION, Scope, memory, mount, on_network, upload
from components.settings import Settings
from components.transport import Transport

# For pid files and similar; empty after every start.
_STATE_DIRECTORY = "/run/xdg"
# A rootless dockerd reads docker/certs.d here. Builds could write to its default, in the user's
# home.
_CONFIG_HOME = "/etc/docker-build-machine"
# Configuration of the docker CLI that the health check and scripts run in the daemon's container.
# The CLI runs plugins from this folder, and builds could write to the default one. This folder
# belongs to root and is empty, as are buildx's lists of builders in it; where buildx must write, no
# file names a program or a host.
_CLIENT_DIRECTORY = "/etc/docker-build-machine/client"
_OF_USER = "mode=0700,uid=1000,gid=1000"
_BUILDX_DIRECTORIES = {
    "instances": "mode=0755",
    "defaults": "mode=0755",
    "activity": _OF_USER,
    "refs": _OF_USER,
}
# In daemon.json, by image store. The driver has its name, so that no daemon falls back to another
# one where the kernel lacks it.
_IMAGE_STORES: dict[str, dict[str, object]] = {
    "containerd": {"features": {"containerd-snapshotter": True}, "storage-driver": "overlayfs"},
    "overlay2": {"storage-driver": "overlay2"},
}
# What is run again and again must not ask for the daemon's version: a rootless daemon then opens a
# connection to RootlessKit and never closes it, 50 kB for each (docker/docker-py#3251).
_QUERY = ("docker", "container", "ls", "--quiet")
_ISOLATION_LABEL = "docker-build-machine.isolation"
_STOP_SECONDS = 30
_MIB = 1024 * 1024


def daemon_json(settings: Settings, policy: CachePolicy, image_store: str, mirror: str) -> str:
    """The daemon's configuration file, with this host:port as Docker Hub's mirror where it is one.

    It names the image store, because its default depends on the release and on what is on the disk.
    """
    configuration: dict[str, object] = {
        "builder": {
            "gc": policy.garbage_collection(),
            # A record is removed when it is beyond both limits. It is in the cache volume.
            "history": {
                "maxAge": f"{settings.history_age.seconds}s",
                "maxEntries": settings.history_builds,
            },
        },
        "log-driver": "json-file",
        "log-opts": LOG_ROTATION,
        "mtu": MTU,
        **_IMAGE_STORES[image_store],
    }
    if settings.insecure_registries:
        configuration["insecure-registries"] = list(settings.insecure_registries)
    if mirror:
        configuration["registry-mirrors"] = [f"https://{mirror}"]
    return json.dumps(configuration, indent=2, sort_keys=True) + "\n"


def _cpus(text: str) -> str:
    """The number in the provider's form: at least one decimal, no trailing zeros after it."""
    return str(float(text))


@dataclass(frozen=True)
class Daemon:
    """The daemon's resources that the rest of the builder depends on."""

    container: docker.Container
    drain: command.local.Command
    """Drains the old container before a new one replaces it."""

    @classmethod
    def declare(
        cls,
        scope: Scope,
        settings: Settings,
        *,
        image: docker.RemoteImage,
        facts: pulumi.Output[HostFacts],
        cache: Cache,
        transport: Transport,
        registry: RegistryAccess | None,
    ) -> Daemon:
        """Declare the daemon's container, with the checks and steps before it starts."""
        limits, rootless = Limits.of(settings), Rootless.read()
        isolation = Isolation.declare(
            scope,
            settings,
            facts=facts,
            image=image,
            limits=limits,
            rootless=rootless,
            registry=registry,
        )
        scope = scope.after(*transport.ready, *isolation.checked)
        mirror: pulumi.Input[str] = registry.mirror if registry else ""
        config = pulumi.Output.all(cache.policy, cache.image_store, mirror).apply(
            lambda parts: daemon_json(settings, *parts)
        )
        words = [*transport.dockerd, f"--config-file={DAEMON_CONFIG}"]
        cpus = _cpus(settings.cpus) if settings.cpus else None
        # Changes of these replace the container; memory is changed in place.
        replacing: list[pulumi.Input[str]] = [image.image_id, config, " ".join(words), cpus or ""]
        # For dockerd.sh.
        traces = [f"BUILDER_TRACES={settings.traces}"] if settings.traces else []
        if traces:
            traces.append(f"BUILDER_TRACES_FROM={scope.physical('daemon')}")
        drain = scope.having(
            aliases=[pulumi.Alias(name=f"{scope.name}-changeover")],
            transforms=while_unknown_keep(facts, f"triggers[{len(replacing)}]").transforms,
        ).script(
            "drain",
            (Path(__file__).parent / "drain.sh").read_text(),
            [
                scope.physical("daemon"),
                scope.physical("gateway"),
                DAEMON_SOCKET,
                str(settings.drain_time.seconds),
            ],
            triggers=[
                *replacing,
                isolation.label,
                limits.label,
                rootless.label,
                *([registry.fingerprint] if registry else []),
                *traces,
            ],
            only_triggered=True,
        )
        container = (
            scope.after(drain)
            .having(
                # The provider would see a change at every update; the label changes in their place.
                ignore_changes=["securityOpts"],
                transforms=while_unknown_keep(facts, "labels", "devices").transforms,
            )
            .service(
                "daemon",
                image=image,
                health=[*isolation.egress.as_user, *_QUERY],
                stop_seconds=_STOP_SECONDS,
                labels={_ISOLATION_LABEL: isolation.label},
                command=words,
                envs=[
                    f"DOCKER_HOST=unix://{DAEMON_SOCKET}",
                    f"DOCKER_CONFIG={_CLIENT_DIRECTORY}",
                    "DOCKER_TLS_CERTDIR=/certs",
                    *rootless.envs,
                    f"XDG_RUNTIME_DIR={_STATE_DIRECTORY}",
                    cache.image_store.apply(lambda store: f"{IMAGE_STORE_VARIABLE}={store}"),
                    *([f"XDG_CONFIG_HOME={_CONFIG_HOME}"] if registry else []),
                    *isolation.egress.envs,
                    *traces,
                ],
                tmpfs={
                    _STATE_DIRECTORY: _OF_USER,
                    **{
                        f"{_CLIENT_DIRECTORY}/buildx/{name}": options
                        for name, options in _BUILDX_DIRECTORIES.items()
                    },
                },
                volumes=[
                    mount(cache.volume, DATA_DIRECTORY),
                    *transport.daemon_volumes,
                    *isolation.volumes,
                ],
                uploads=_between(
                    [
                        upload(DAEMON_CONFIG, config),
                        upload(f"{_CLIENT_DIRECTORY}/buildx/.lock", "for buildx\n"),
                        *rootless.uploads,
                        *limits.uploads,
                    ],
                    registry,
                    isolation.egress.uploads,
                ),
                cpus=cpus,
                **on_network(transport.network, DAEMON_ALIAS),
                **memory(settings.memory.bytes // _MIB or None),
                **isolation.inputs,
            )
        )
        if pulumi.runtime.is_dry_run():
            _show_notes(limits, facts, container)
        return cls(container, drain)


def _between(
    first: list[docker.ContainerUploadArgs],
    registry: RegistryAccess | None,
    last: list[docker.ContainerUploadArgs],
) -> pulumi.Input[list[docker.ContainerUploadArgs]]:
    """All uploads, with the registry's in the middle."""
    if registry is None:
        return [*first, *last]
    files = registry.uploads(f"{_CONFIG_HOME}/docker/certs.d")
    return files.apply(lambda files: [*first, *files, *last])


def _show_notes(
    limits: Limits, facts: pulumi.Output[HostFacts], container: docker.Container
) -> None:
    def show(facts: HostFacts) -> None:
        for note in limits.notes(facts):
            pulumi.log.info(note, resource=container)

    facts.apply(show)
