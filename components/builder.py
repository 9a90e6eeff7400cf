"""The builder as one component: network, volumes, daemon, gateway, and what clients need."""

# No postponed annotations here: the SDK's analyzer reads them to make the package's schema.
from pathlib import Path
from typing import Any

import pulumi
import pulumi_command as command
import pulumi_docker as docker

from components.advisories import warnings
from components.arguments import BuilderArgs
from components.cache import Cache
from components.daemon import Daemon
from components.docker_host import DockerHost
from components.gateway import declare_gateway
from components.gateway.access import Access
from components.gateway.client import known_hosts_lines, ssh_config
from components.gateway.host_key import HostKey
from components.guard import declare_guard
from components.host import Preflight
from components.janitor import declare_janitor
from components.layout import DAEMON_SOCKET, DATA_DIRECTORY, GATEWAY_USER
from components.metrics import declare_metrics
from components.registry_access import RegistryAccess, without_client
from components.scope import HEALTH, Scope, without_dependencies
from components.settings import Given, Settings
from components.transport import Transport
from components.verifier import Verifier

_DAEMON_SECONDS = 300
_READY_SECONDS = 120
_REPORTS_MIB = 8
# The provider's name in states of version 0.1.
_PROVIDER_ALIASES = {"builder": [pulumi.Alias(name="host", parent=pulumi.ROOT_STACK_RESOURCE)]}


class DockerBuilder(pulumi.ComponentResource):
    """A rootless Docker daemon that clients reach only through SSH.

    Outputs resolve once the builder can build.
    """

    ssh_destination: pulumi.Output[str]
    """user@host of the gateway; the port is in `docker_host` and `ssh_config`."""
    docker_host: pulumi.Output[str]
    """Value for DOCKER_HOST; the client only needs `known_hosts` for it."""
    ssh_alias: pulumi.Output[str]
    """Host name that `ssh_config` defines: DOCKER_HOST=ssh://<alias> shares connections."""
    ssh_config: pulumi.Output[str]
    """A block for the client's ~/.ssh/config, with the pinned host key."""
    known_hosts: pulumi.Output[str]
    """Lines for the client's known_hosts, one for each generation of the host key."""

    def __init__(
        self,
        name: str,
        args: BuilderArgs,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """Declare a builder with the settings of Pulumi.yaml, in camelCase or in snake_case.

        Raises ValueError that names every wrong setting, before any resource is declared. host,
        hostKey, sshHost and the keys' publicKey may be Outputs; these are checked before anything
        is created on the host. The settings are the component's inputs, so a preview shows their
        changes. Everything on the host is created after the resources of `opts.depends_on`, and
        deleted before them.
        """
        arguments, client = without_client(args)
        given = Given.of(Settings, arguments)
        settings = given.known
        opts, before = without_dependencies(opts)
        super().__init__("docker-build-machine:index:DockerBuilder", name, given.arguments, opts)
        self._warn_of_expired(settings)
        self._warn_of_holes(settings)
        scope = Scope.of(
            name,
            given.complete.apply(lambda settings: DockerHost(settings.host, settings.host_key)),
            None if isinstance(given.arguments["host"], pulumi.Output) else settings.host,
            self,
        ).provided(*_PROVIDER_ALIASES.get(name, []))
        host_keys = [
            HostKey.declare(
                scope, number, keep=settings.keep_cache and number == settings.host_keys[0]
            )
            for number in settings.host_keys
        ]
        self._ready = self._declare_on_host(
            scope,
            given,
            host_keys,
            before=before,
            registry=RegistryAccess.of(client) if client is not None else None,
        )
        self._export(scope, given, host_keys)

    def _warn_of_expired(self, settings: Settings) -> None:
        kinds = (("key", "keys", settings.keys), ("identity", "identities", settings.identities))
        for kind, setting, entries in kinds:
            for entry in entries:
                if entry.has_expired:
                    pulumi.log.warn(
                        f"the {kind} {entry.name} is left out because its last day (until = "
                        f"{entry.until}) has passed; next: remove it from {setting}, or give it a "
                        "later day",
                        resource=self,
                    )

    def _warn_of_holes(self, settings: Settings) -> None:
        images = {"daemonImage": settings.daemon_image, "gatewayImage": settings.gateway_image}
        for warning in warnings(images):
            pulumi.log.warn(warning, resource=self)

    def _declare_on_host(
        self,
        scope: Scope,
        given: Given[Settings],
        host_keys: list[HostKey],
        *,
        before: Any,
        registry: RegistryAccess | None,
    ) -> command.local.Command:
        """Declare everything on the host, in order; return the check that a build works."""
        settings = given.known
        preflight = Preflight.declare(scope.having(depends_on=before), settings)
        checked = scope.after(preflight.checked)
        daemon_image = checked.image("daemon-image", settings.daemon_image)
        gateway_image = checked.image("gateway-image", settings.gateway_image)
        transport = (
            Transport.over_tls(checked, image=daemon_image)
            if settings.transport == "tls"
            else Transport.over_socket(checked)
        )
        cache = Cache.declare(checked, settings, image=daemon_image, facts=preflight.facts)
        daemon = Daemon.declare(
            checked,
            settings,
            image=daemon_image,
            facts=preflight.facts,
            cache=cache,
            transport=transport,
            registry=registry,
        )
        with_daemon = scope.after(daemon.container)
        reports = (
            checked.volume_in_memory("reports", mib=_REPORTS_MIB) if settings.metrics else None
        )
        janitor = declare_janitor(
            with_daemon,
            settings,
            image=daemon_image,
            cache=cache,
            transport=transport,
            reports=reports,
        )
        access = Access.declare(checked, given, image=gateway_image)
        beside: list[docker.Container] = []
        parts = ["gateway", "janitor"]
        if settings.has_build_keys or settings.active_identities or reports:
            guard_image = checked.image("guard-image", settings.guard_image)
        if settings.has_build_keys:
            parts.append("guard")
            beside.append(
                declare_guard(with_daemon, image=guard_image, transport=transport, reports=reports)
            )
        verifier: Verifier | None = None
        if settings.active_identities:
            verifier = Verifier.declare(
                checked.after(access.installed),
                image=guard_image,
                access=access.volume,
                network=transport.network,
                reports=reports,
            )
            parts.append("verifier")
            beside.append(verifier.container)
        gateway = declare_gateway(
            # Its builds have ended before it is replaced; the keys exist before the first login.
            scope.after(daemon.drain, access.installed),
            settings,
            image=gateway_image,
            facts=preflight.facts,
            access=access.volume,
            identities=verifier.volume if verifier else None,
            transport=transport,
            host_keys=host_keys,
            reports=reports,
        )
        if reports:
            beside += declare_metrics(
                with_daemon.after(access.installed),
                settings,
                image=guard_image,
                cache=cache,
                transport=transport,
                access=access.volume,
                reports=reports,
                parts=parts,
                host_keys={
                    number: key.created
                    for number, key in zip(settings.host_keys, host_keys, strict=True)
                },
            )
        return scope.script(
            "readiness",
            HEALTH + (Path(__file__).parent / "readiness.sh").read_text(),
            [
                DAEMON_SOCKET,
                DATA_DIRECTORY,
                access.sha256,
                str(_DAEMON_SECONDS),
                str(_READY_SECONDS),
                daemon.container.name,
                gateway.name,
                janitor.name,
                *(container.name for container in beside),
            ],
            triggers=[
                daemon.drain.id,
                daemon.container.id,
                gateway.id,
                access.installed.id,
                janitor.id,
                *(container.id for container in beside),
            ],
        )

    def _export(self, scope: Scope, given: Given[Settings], host_keys: list[HostKey]) -> None:
        alias, port = scope.prefix, given.known.ssh_port

        def entry(parts: list[Any]) -> dict[str, Any]:
            server, *public_keys = parts
            destination = f"{GATEWAY_USER}@{server}"
            return {
                "platforms": list(given.known.platforms),
                "sshDestination": destination,
                "dockerHost": f"ssh://{destination}:{port}",
                "sshAlias": alias,
                "sshConfig": ssh_config(alias, server, port, public_keys),
                "knownHosts": known_hosts_lines(server, port, public_keys),
            }

        # Known before the builder is ready, even while its host is down. It has no class
        # annotation, so it is not an output of the component.
        self.entry = pulumi.Output.all(
            given.complete.apply(lambda settings: settings.ssh_name),
            *(key.public_key for key in host_keys),
        ).apply(entry)

        def when_ready(name: str) -> pulumi.Output[str]:
            return pulumi.Output.all(self.entry, self._ready.stdout).apply(
                lambda e: str(e[0][name])
            )

        self.ssh_destination = when_ready("sshDestination")
        self.docker_host = when_ready("dockerHost")
        self.ssh_alias = when_ready("sshAlias")
        self.ssh_config = self.entry.apply(lambda entry: str(entry["sshConfig"]))
        self.known_hosts = self.entry.apply(lambda entry: str(entry["knownHosts"]))
        self.register_outputs(
            {
                "sshDestination": self.ssh_destination,
                "dockerHost": self.docker_host,
                "sshAlias": self.ssh_alias,
                "sshConfig": self.ssh_config,
                "knownHosts": self.known_hosts,
            }
        )
