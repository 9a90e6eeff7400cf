"""The rootless Docker daemon: one container, its configuration and its transport."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pulumi
import pulumi_command as command
import pulumi_docker as docker

from components.container import LOG_ROTATION, service, though_failed, upload
from components.daemon.cache_policy import CachePolicy
from components.daemon.isolation import Isolation
from components.daemon.limits import Limits
from components.host import DockerHost, HostFacts, while_unknown_keep
from components.identity import Identity
from components.registry.access import RegistryAccess
from components.settings import Settings

# Where the rootless image keeps its data; /var/lib/docker is the root image's place.
DATA_DIRECTORY = "/home/rootless/.local/share/docker"
# A new volume mounted here takes the folder's mode 1777 from the image, so that uid 1000 can write.
RUNTIME_DIRECTORY = "/run/user"
SOCKET_NAME = "docker.sock"
SOCKET = f"{RUNTIME_DIRECTORY}/{SOCKET_NAME}"
NETWORK_ALIAS = "docker"
STORAGE_DRIVER = "overlay2"
# Of the rootless network, which asks the resolver and carries what has no uplink, and of the bridge
# that build steps are on. slirp4netns copies a packet at a time, and connections end in it, so that
# no packet of this size leaves the host: four times the throughput of 1500 (docs/speed.md). It is
# the one such driver in the official image.
_NETWORK_DRIVER = "slirp4netns"
_MTU = 65520
# Pid files and the like, gone with every start.
_STATE_DIRECTORY = "/run/xdg"
_CONFIG_FILE = "/etc/docker-build-machine/daemon.json"
# Where a rootless dockerd looks for docker/certs.d; builds can write to its default, the user's.
_CONFIG_HOME = "/etc/docker-build-machine"
# Of the docker CLI that health check and scripts run beside the daemon. Builds can write to the
# folder that it would use otherwise, and it runs plugins from there. This one is root's and empty,
# as are buildx's lists of builders in it; where that must write, nothing names a program or a host.
_CLIENT_DIRECTORY = "/etc/docker-build-machine/client"
_OF_USER = "mode=0700,uid=1000,gid=1000"
_BUILDX_DIRECTORIES = {
    "instances": "mode=0755",
    "defaults": "mode=0755",
    "activity": _OF_USER,
    "refs": _OF_USER,
}
_ISOLATION_LABEL = "docker-build-machine.isolation"
_STOP_SECONDS = 30
_MIB = 1024 * 1024


def daemon_json(
    settings: Settings, policy: CachePolicy, registry: RegistryAccess | None = None
) -> str:
    """The daemon's configuration file.

    The storage driver is named, so that no release changes it on its own (29 and newer would
    start a new disk with another one, moby#51654).
    """
    configuration: dict[str, object] = {
        "builder": {"gc": policy.garbage_collection()},
        "log-driver": "json-file",
        "log-opts": LOG_ROTATION,
        "mtu": _MTU,
        "storage-driver": STORAGE_DRIVER,
    }
    if settings.insecure_registries:
        configuration["insecure-registries"] = list(settings.insecure_registries)
    if registry:
        configuration["registry-mirrors"] = [f"https://{registry.mirror}"]
    return json.dumps(configuration, indent=2, sort_keys=True) + "\n"


def _cpus(text: str) -> str:
    """The form which the provider reads back: one decimal at least, no trailing zero."""
    return str(float(text))


@dataclass(frozen=True)
class Daemon:
    """What the rest of the builder needs of the daemon."""

    container: docker.Container
    drain: command.local.Command
    """Drains the old container before a new one takes its place."""

    @classmethod
    def declare(
        cls,
        identity: Identity,
        settings: Settings,
        policy: pulumi.Output[CachePolicy],
        *,
        host: DockerHost,
        image: docker.RemoteImage,
        network: docker.Network,
        cache: docker.Volume,
        transport_volumes: list[docker.ContainerVolumeArgs],
        isolation: Isolation,
        limits: Limits,
        facts: pulumi.Output[HostFacts],
        registry: RegistryAccess | None,
        opts: pulumi.ResourceOptions,
    ) -> Daemon:
        """Declare the daemon's container.

        With the socket transport the command names the socket, so that the image's entrypoint
        adds no TCP port; with TLS it starts with an option, so that the entrypoint adds its own.
        """
        config = policy.apply(lambda policy: daemon_json(settings, policy, registry))
        option = f"--config-file={_CONFIG_FILE}"
        words = (
            ["dockerd", f"--host=unix://{SOCKET}", option]
            if settings.transport == "socket"
            else [option]
        )
        cpus = _cpus(settings.cpus) if settings.cpus else None
        memory = settings.memory.bytes // _MIB or None
        # What replaces the container; memory is changed in place.
        replacing: list[pulumi.Input[str]] = [image.image_id, config, " ".join(words), cpus or ""]
        drain = host.run(
            f"{identity.name}-drain",
            "drain.sh",
            [
                identity.physical("daemon"),
                identity.physical("gateway"),
                SOCKET,
                str(settings.drain_time.seconds),
            ],
            triggers=[
                *replacing,
                isolation.label,
                limits.label,
                *([registry.generation] if registry else []),
            ],
            only_triggered=True,
            opts=pulumi.ResourceOptions.merge(
                pulumi.ResourceOptions.merge(
                    opts,
                    pulumi.ResourceOptions(
                        aliases=[pulumi.Alias(name=f"{identity.name}-changeover")]
                    ),
                ),
                while_unknown_keep(facts, f"triggers[{len(replacing)}]"),
            ),
        )
        container = service(
            identity,
            "daemon",
            image=image,
            health=[
                *isolation.egress.as_user,
                "docker",
                "version",
                "--format",
                "{{.Server.Version}}",
            ],
            stop_seconds=_STOP_SECONDS,
            labels={_ISOLATION_LABEL: isolation.label},
            opts=pulumi.ResourceOptions.merge(
                opts,
                pulumi.ResourceOptions(
                    depends_on=[drain],
                    # The label stands for them: the provider would see a change every time.
                    ignore_changes=["securityOpts"],
                    transforms=while_unknown_keep(facts, "labels").transforms,
                ),
            ),
            command=words,
            envs=[
                f"DOCKER_HOST=unix://{SOCKET}",
                f"DOCKER_CONFIG={_CLIENT_DIRECTORY}",
                "DOCKER_TLS_CERTDIR=/certs",
                f"DOCKERD_ROOTLESS_ROOTLESSKIT_NET={_NETWORK_DRIVER}",
                f"DOCKERD_ROOTLESS_ROOTLESSKIT_MTU={_MTU}",
                f"XDG_RUNTIME_DIR={_STATE_DIRECTORY}",
                *([f"XDG_CONFIG_HOME={_CONFIG_HOME}"] if registry else []),
                *isolation.egress.envs,
            ],
            tmpfs={
                _STATE_DIRECTORY: _OF_USER,
                **{
                    f"{_CLIENT_DIRECTORY}/buildx/{name}": options
                    for name, options in _BUILDX_DIRECTORIES.items()
                },
            },
            networks_advanced=[
                docker.ContainerNetworksAdvancedArgs(
                    name=though_failed(network.name), aliases=[NETWORK_ALIAS]
                )
            ],
            volumes=[
                docker.ContainerVolumeArgs(volume_name=cache.name, container_path=DATA_DIRECTORY),
                *transport_volumes,
                *isolation.volumes,
            ],
            uploads=[
                upload(_CONFIG_FILE, config),
                upload(f"{_CLIENT_DIRECTORY}/buildx/.lock", "for buildx\n"),
                *limits.uploads,
                *(registry.uploads(f"{_CONFIG_HOME}/docker/certs.d") if registry else []),
                *isolation.egress.uploads,
            ],
            memory=memory,
            memory_swap=memory,
            cpus=cpus,
            **isolation.inputs,
        )
        return cls(container, drain)
