"""The builder as one component: network, volumes, daemon, gateway, and what clients need."""

# Annotations stay types here: the SDK's analyzer makes the package's schema of them.
import copy
from typing import TYPE_CHECKING, Any

import pulumi
import pulumi_docker as docker

from components.arguments import arguments_of
from components.daemon import (
    DATA_DIRECTORY,
    RUNTIME_DIRECTORY,
    SOCKET,
    SOCKET_NAME,
    STORAGE_DRIVER,
    Daemon,
)
from components.daemon.cache_policy import CachePolicy
from components.daemon.isolation import Isolation
from components.daemon.limits import Limits
from components.daemon.tls import Tls
from components.gateway import SOCKET_DIRECTORY, USER, Gateway
from components.gateway.access import Access
from components.gateway.client import known_hosts_lines, ssh_config
from components.gateway.host_key import HostKey
from components.guard import declare_guard
from components.host import DockerHost, HostFacts
from components.identity import Identity
from components.janitor import declare_janitor
from components.network import entrance, private_network
from components.registry.access import RegistryAccess
from components.settings import Settings
from components.volumes import cache_volume, volume

if TYPE_CHECKING:
    from collections.abc import Mapping

    BuilderArgs = Mapping[str, Any]
else:
    BuilderArgs = arguments_of(Settings)

_READY_SECONDS = 120
# Where states of version 0.1 have the provider.
_PROVIDER_ALIASES: dict[str, list[pulumi.Input[str | pulumi.Alias]]] = {
    "builder": [pulumi.Alias(name="host", parent=pulumi.ROOT_STACK_RESOURCE)]
}


class DockerBuilder(pulumi.ComponentResource):
    """A rootless Docker daemon that clients reach through SSH alone.

    Outputs are known when the builder can build.
    """

    ssh_destination: pulumi.Output[str]
    """user@host of the gateway; the port is in `docker_host` and `ssh_config`."""
    docker_host: pulumi.Output[str]
    """Value for DOCKER_HOST that needs `known_hosts` alone on the client."""
    ssh_alias: pulumi.Output[str]
    """Host name that `ssh_config` defines: DOCKER_HOST=ssh://<alias> shares connections."""
    ssh_config: pulumi.Output[str]
    """A block for the client's ~/.ssh/config, the pinned host key included."""
    known_hosts: pulumi.Output[str]
    """Lines for the client's known_hosts, one for each generation of the host key."""

    def __init__(
        self,
        name: str,
        args: BuilderArgs,
        opts: pulumi.ResourceOptions | None = None,
        registry: RegistryAccess | None = None,
    ) -> None:
        """Declare a builder by the settings of Pulumi.yaml, in camelCase or in snake_case.

        They are plain values, checked before anything is declared; ValueError names every one
        that is wrong. As the component's inputs they are what a preview compares. Its daemon uses
        the stack's `registry` where there is one. Everything on the host comes after what
        `opts.depends_on` names, and goes before it.
        """
        settings = Settings.of(args)
        opts = copy.copy(opts or pulumi.ResourceOptions())
        # Of the component itself it would hold up the host keys, and with them every export.
        before, opts.depends_on = opts.depends_on, None
        super().__init__("docker-build-machine:index:DockerBuilder", name, settings.arguments, opts)
        for key in settings.keys:
            if key.has_expired:
                pulumi.log.warn(
                    f"the key {key.name} is left out, for its last day (until = {key.until}) has "
                    "passed; next: remove it from keys, or give it a later day",
                    resource=self,
                )
        identity = Identity.of(name)
        host = DockerHost.from_settings(settings)
        provider = host.provider(
            f"{name}-host",
            pulumi.ResourceOptions(parent=self, aliases=_PROVIDER_ALIASES.get(name)),
        )

        def after(*resources: pulumi.Resource) -> pulumi.ResourceOptions:
            return pulumi.ResourceOptions(
                parent=self, providers=[provider], depends_on=list(resources)
            )

        child = after()

        preflight = host.preflight(
            f"{name}-preflight",
            [
                identity.owner,
                identity.prefix,
                settings.ssh_address,
                str(settings.ssh_port),
                ",".join(settings.platforms),
                str(settings.prepare).lower(),
            ],
            opts=pulumi.ResourceOptions.merge(child, pulumi.ResourceOptions(depends_on=before)),
        )
        checked = after(preflight.checked)

        presented = settings.host_keys[0]
        keys = [
            HostKey.declare(identity, n, keep=settings.keep_cache and n == presented, opts=child)
            for n in settings.host_keys
        ]
        daemon_image, gateway_image = (
            docker.RemoteImage(f"{name}-{role}-image", name=ref, keep_locally=True, opts=checked)
            for role, ref in (
                ("daemon", settings.daemon_image),
                ("gateway", settings.gateway_image),
            )
        )
        tls = (
            Tls.declare(identity, image=daemon_image, opts=checked)
            if settings.transport == "tls"
            else None
        )
        network = private_network(identity, containers_talk=tls is not None, opts=checked)
        # Over the shared socket the gateway and the janitor need no network to the daemon.
        gateway_network = network if tls else entrance(identity, opts=checked)
        cache = cache_volume(identity, keep=settings.keep_cache, opts=checked)
        cache_check = host.run(
            f"{name}-cache-check",
            "cache.sh",
            [
                cache.name,
                DATA_DIRECTORY,
                daemon_image.image_id,
                settings.daemon_image,
                STORAGE_DRIVER,
            ],
            opts=pulumi.ResourceOptions.merge(
                child, pulumi.ResourceOptions(aliases=[pulumi.Alias(name=f"{name}-disk")])
            ),
        )
        policy = cache_check.stdout.apply(lambda size: CachePolicy.of(settings, int(size)))
        access_volume = volume(identity, "access", opts=checked)

        if tls:
            daemon_volumes, gateway_volumes = tls.daemon_volumes(), tls.gateway_volumes()
            docker_client = tls.docker_client()
            before_daemon: list[pulumi.Resource] = [preflight.checked, tls.certificates]
        else:
            runtime = volume(identity, "runtime", opts=checked)
            daemon_volumes = [
                docker.ContainerVolumeArgs(
                    volume_name=runtime.name, container_path=RUNTIME_DIRECTORY
                )
            ]
            gateway_volumes = [
                docker.ContainerVolumeArgs(
                    volume_name=runtime.name, container_path=SOCKET_DIRECTORY, read_only=True
                )
            ]
            docker_client = [f"DOCKER_HOST=unix://{SOCKET_DIRECTORY}/{SOCKET_NAME}"]
            before_daemon = [preflight.checked]

        limits = Limits.of(settings)

        def tell(facts: HostFacts) -> None:
            for note in limits.notes(facts):
                pulumi.log.info(note, resource=preflight.checked)

        if pulumi.runtime.is_dry_run():
            preflight.facts.apply(tell)
        isolation = Isolation.declare(
            identity,
            settings,
            host=host,
            facts=preflight.facts,
            image=daemon_image,
            limits=limits,
            registry=registry,
            opts=checked,
        )
        daemon = Daemon.declare(
            identity,
            settings,
            policy,
            host=host,
            image=daemon_image,
            network=network,
            cache=cache,
            transport_volumes=daemon_volumes,
            isolation=isolation,
            facts=preflight.facts,
            limits=limits,
            registry=registry,
            opts=after(*before_daemon, *isolation.checked),
        )
        janitor = declare_janitor(
            identity,
            settings,
            policy,
            image=daemon_image,
            network=network if tls else None,
            cache=cache,
            docker_client=docker_client,
            transport_volumes=gateway_volumes,
            opts=after(daemon.container),
        )
        access = Access.declare(
            identity,
            settings.active_keys,
            settings.revoked,
            image=gateway_image,
            volume=access_volume,
            opts=checked,
        )
        gateway = Gateway.declare(
            identity,
            settings,
            image=gateway_image,
            network=gateway_network,
            access=access_volume,
            transport_volumes=gateway_volumes,
            host_keys=keys,
            host=preflight.facts,
            # The builds that it carries have ended; the keys exist before the first login.
            opts=after(daemon.drain, access.installed),
        )
        guard = None
        if settings.has_build_keys:
            guard_image = docker.RemoteImage(
                f"{name}-guard-image",
                name=settings.guard_image,
                keep_locally=True,
                opts=checked,
            )
            guard = declare_guard(
                identity, image=guard_image, runtime=daemon_volumes, opts=after(daemon.container)
            )
        ready = host.run(
            f"{name}-readiness",
            "readiness.sh",
            [
                daemon.container.name,
                gateway.container.name,
                access.sha256,
                SOCKET,
                DATA_DIRECTORY,
                str(_READY_SECONDS),
                guard.name if guard else "",
                janitor.name,
            ],
            triggers=[
                daemon.drain.id,
                daemon.container.id,
                gateway.container.id,
                access.installed.id,
                janitor.id,
                *([guard.id] if guard else []),
            ],
            opts=child,
        )

        def when_ready(value: pulumi.Input[str]) -> pulumi.Output[str]:
            return pulumi.Output.all(value, ready.stdout).apply(lambda pair: str(pair[0]))

        public_keys = pulumi.Output.all(*[key.public_key for key in keys])
        server, port = settings.ssh_name, settings.ssh_port
        self.ssh_destination = when_ready(f"{USER}@{server}")
        self.docker_host = when_ready(f"ssh://{USER}@{server}:{port}")
        self.ssh_alias = when_ready(identity.prefix)
        self.ssh_config = public_keys.apply(
            lambda keys: ssh_config(identity.prefix, server, port, keys)
        )
        self.known_hosts = public_keys.apply(lambda keys: known_hosts_lines(server, port, keys))
        # Known before the builder is ready, and while its host is down: no class annotation, so
        # no output of the component.
        self.entry = public_keys.apply(
            lambda keys: {
                "platforms": list(settings.platforms),
                "sshDestination": f"{USER}@{server}",
                "dockerHost": f"ssh://{USER}@{server}:{port}",
                "sshAlias": identity.prefix,
                "sshConfig": ssh_config(identity.prefix, server, port, keys),
                "knownHosts": known_hosts_lines(server, port, keys),
            }
        )
        self.register_outputs(
            {
                "sshDestination": self.ssh_destination,
                "dockerHost": self.docker_host,
                "sshAlias": self.ssh_alias,
                "sshConfig": self.ssh_config,
                "knownHosts": self.known_hosts,
            }
        )
