"""The name, labels and options that all resources of one component on its host share."""

from __future__ import annotations

import copy
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pulumi
import pulumi_command as command
import pulumi_docker as docker

from components.docker_host import DockerHost
from components.layout import OWNER_LABEL

HEALTH = (Path(__file__).parent / "health.sh").read_text()
"""Shell functions that wait for containers' health checks; append the script that uses them."""
RELEASES = (Path(__file__).parent / "releases.sh").read_text()
"""A shell function that compares releases; append the script that uses it."""
LOG_ROTATION = {"max-file": "3", "max-size": "10m"}
REPORTS_DIRECTORY = "/reports"
"""Where the volume is mounted in which parts report how they are, for the setting metrics."""
# Runs a health check and keeps its exit code in the file $0. One line, as health.sh needs it.
_REPORT = '"$@"; code=$?; echo "$code" >"$0.new" && mv "$0.new" "$0"; exit "$code"'


@dataclass(frozen=True)
class Scope:
    """One component in the stack and on its host; it declares resources there."""

    name: str
    """The component's name; its resources are called `<name>-<role>`."""
    owner: str
    """Value of the owner label: project, stack and component."""
    prefix: str
    """Start of the name of every container, volume and network on the host."""
    host: pulumi.Output[DockerHost]
    url: str | None
    """URL of the host; None while it is not known."""
    options: pulumi.ResourceOptions
    """Options of every resource that this scope declares."""

    @classmethod
    def of(
        cls, name: str, host: pulumi.Output[DockerHost], url: str | None, parent: pulumi.Resource
    ) -> Scope:
        """The scope of the component `parent` in the running stack, without a provider yet."""
        project, stack = pulumi.get_project(), pulumi.get_stack()
        return cls(
            name,
            f"{project}/{stack}/{name}",
            f"{stack}-{name}",
            host,
            url,
            pulumi.ResourceOptions(parent=parent),
        )

    def provided(self, *aliases: pulumi.Alias) -> Scope:
        """Declare a provider for the host; return the same scope with this provider."""
        provider = docker.Provider(
            f"{self.name}-host",
            host=self.host.apply(lambda host: host.url),
            ssh_opts=None
            if self.url and not DockerHost(self.url).is_remote
            else self.host.apply(lambda host: host.ssh_options if host.is_remote else []),
            opts=self.merged(aliases=list(aliases)),
        )
        return self.having(providers=[provider])

    def having(self, **options: Any) -> Scope:
        """The same scope with these resource options as well."""
        return replace(self, options=self.merged(**options))

    def after(self, *resources: pulumi.Resource) -> Scope:
        """The same scope, whose resources are created after these and deleted before them."""
        return self.having(depends_on=list(resources))

    def merged(self, **options: Any) -> pulumi.ResourceOptions:
        return pulumi.ResourceOptions.merge(self.options, pulumi.ResourceOptions(**options))

    def physical(self, role: str) -> str:
        """The name, on the Docker host, of the object with this role."""
        return f"{self.prefix}-{role}"

    @property
    def labels(self) -> dict[str, str]:
        """Labels of everything on the host. They never change, or volumes would be replaced."""
        return {OWNER_LABEL: self.owner}

    # Networks -------------------------------------------------------------------------------------

    def private_network(self, *, containers_talk: bool) -> docker.Network:
        """A bridge through which the daemon reaches images and packages.

        `containers_talk` lets its containers reach each other over TCP. The two kinds are different
        networks, so that the daemon can be drained before it moves from one to the other.
        """
        role = "tls-network" if containers_talk else "network"
        return self._bridge(role, {"enable_icc": containers_talk})

    def entrance(self) -> docker.Network:
        """A bridge for incoming connections to a published port, and no outgoing connections.

        Docker has no such bridge (`internal` has neither published ports nor a way out). Without
        masquerading, outgoing packets keep a source address that gets no answer.
        """
        return self._bridge("entrance", {"enable_icc": False, "enable_ip_masquerade": False})

    def _bridge(self, role: str, options: dict[str, bool]) -> docker.Network:
        return docker.Network(
            f"{self.name}-{role}",
            name=self.physical(role),
            driver="bridge",
            options={
                f"com.docker.network.bridge.{name}": str(value).lower()
                for name, value in options.items()
            },
            labels=[docker.NetworkLabelArgs(label=k, value=v) for k, v in self.labels.items()],
            # The names of networks are unique.
            opts=self.merged(delete_before_replace=True),
        )

    # Volumes and images ---------------------------------------------------------------------------

    def volume(self, role: str, *, driver_opts: dict[str, str] | None = None) -> docker.Volume:
        """A named volume that carries the owner's label."""
        return docker.Volume(
            f"{self.name}-{role}",
            name=self.physical(role),
            driver_opts=driver_opts,
            labels=[docker.VolumeLabelArgs(label=k, value=v) for k, v in self.labels.items()],
            # When a volume with this name exists, Docker returns it instead of making a new one;
            # the replacement would then be deleted with the old volume.
            opts=self.merged(delete_before_replace=True),
        )

    def volume_in_memory(self, role: str, *, mib: int) -> docker.Volume:
        """A volume of uid 1000 that is empty when no container with it runs."""
        options = f"uid=1000,gid=1000,mode=0755,size={mib}m"
        return self.volume(role, driver_opts={"type": "tmpfs", "device": "tmpfs", "o": options})

    def image(self, role: str, reference: str) -> docker.RemoteImage:
        """An image on the host; it stays there when the component is destroyed."""
        return docker.RemoteImage(
            f"{self.name}-{role}", name=reference, keep_locally=True, opts=self.options
        )

    # Containers -----------------------------------------------------------------------------------

    def service(
        self,
        role: str,
        *,
        image: docker.RemoteImage,
        health: list[str],
        stop_seconds: int,
        reports: docker.Volume | None = None,
        **inputs: Any,
    ) -> docker.Container:
        """A container that keeps running: with restarts, a health check and a time to stop.

        Its health check keeps each exit code in a file with the role's name in `reports`.
        """
        if reports is not None:
            health = ["sh", "-c", _REPORT, f"{REPORTS_DIRECTORY}/{role}", *health]
            inputs["volumes"] = [*inputs["volumes"], mount(reports, REPORTS_DIRECTORY)]
        # The provider would report an update of these but not change the container.
        scope = self.having(replace_on_changes=["healthcheck", "tmpfs"])
        return scope._container(
            role,
            image=image,
            healthcheck=docker.ContainerHealthcheckArgs(
                tests=["CMD", *health],
                interval="30s",
                timeout="15s",
                start_period="1m0s",
                retries=3,
            ),
            restart="unless-stopped",
            stop_timeout=stop_seconds,
            destroy_grace_seconds=stop_seconds,
            **inputs,
        )

    def one_shot(
        self,
        role: str,
        *,
        image: docker.RemoteImage,
        script: str,
        volumes: list[docker.ContainerVolumeArgs],
        uploads: list[docker.ContainerUploadArgs],
        envs: pulumi.Input[list[str]],
        capabilities: tuple[str, ...] = (),
    ) -> docker.Container:
        """A container that runs `script` once as root, without network.

        Root has only `capabilities`. When any input changes, the container is replaced and so runs
        again.
        """
        return self._container(
            role,
            image=image,
            entrypoints=["sh", "-euc", script],
            envs=envs,
            user="0:0",
            network_mode="none",
            volumes=volumes,
            uploads=uploads,
            attach=True,
            must_run=False,
            **confined(*capabilities),
        )

    def _container(
        self,
        role: str,
        *,
        image: docker.RemoteImage,
        labels: dict[str, pulumi.Input[str]] | None = None,
        **inputs: Any,
    ) -> docker.Container:
        return docker.Container(
            f"{self.name}-{role}",
            name=self.physical(role),
            image=though_failed(image.image_id),
            log_driver="json-file",
            log_opts=LOG_ROTATION,
            labels=[
                docker.ContainerLabelArgs(label=label, value=value)
                for label, value in {**self.labels, **(labels or {})}.items()
            ],
            # Names are unique. The provider deletes first by itself, `pulumi up --replace` does
            # not.
            opts=self.merged(delete_before_replace=True),
            **inputs,
        )

    # Scripts --------------------------------------------------------------------------------------

    def script(
        self,
        role: str,
        script: str,
        arguments: list[pulumi.Input[str]],
        *,
        data: Mapping[str, str] | None = None,
        triggers: list[pulumi.Input[str]] | None = None,
        only_triggered: bool = False,
    ) -> command.local.Command:
        """Run the text of a shell script on the host, and again whenever an argument changes.

        The script gets the values of `data`, which may be too long for arguments, in variables of
        these names.
        With `only_triggered` it runs again only when one of `triggers` changes.
        This is not a pulumi_command.remote.Command, which would need a private key of its own; ssh
        uses the same agent, configuration and pinned key as the provider.
        """
        return command.local.Command(
            f"{self.name}-{role}",
            create=pulumi.Output.all(self.host, *arguments).apply(
                lambda parts: parts[0].shell(*parts[1:])
            ),
            stdin="".join(f"{name}={shlex.quote(text)}\n" for name, text in (data or {}).items())
            + script,
            update=":" if only_triggered else None,
            triggers=triggers,
            logging=command.local.Logging.STDERR,
            opts=self.options,
        )


def without_dependencies(
    opts: pulumi.ResourceOptions | None,
) -> tuple[pulumi.ResourceOptions, Any]:
    """A component's options without `depends_on`, and the resources that it named.

    Only resources on the host depend on those. The host keys, and the outputs that need no host,
    must not wait for them.
    """
    opts = copy.copy(opts or pulumi.ResourceOptions())
    before, opts.depends_on = opts.depends_on, None
    return opts, before


# Inputs of containers -----------------------------------------------------------------------------


def upload(
    path: pulumi.Input[str], content: pulumi.Input[str], permissions: str = "0644"
) -> docker.ContainerUploadArgs:
    """A file, owned by root, that the provider copies into the container before it starts."""
    return docker.ContainerUploadArgs(file=path, content=content, permissions=permissions)


def mount(
    volume: docker.Volume, path: str, *, read_only: bool | None = None
) -> docker.ContainerVolumeArgs:
    """Mount the volume at this path of a container."""
    return docker.ContainerVolumeArgs(
        volume_name=volume.name, container_path=path, read_only=read_only
    )


def on_network(network: docker.Network | None, *aliases: str) -> dict[str, Any]:
    """Inputs of a container on this network, with these names; without network for None."""
    if network is None:
        return {"network_mode": "none"}
    return {
        "networks_advanced": [
            docker.ContainerNetworksAdvancedArgs(
                name=though_failed(network.name), aliases=list(aliases) or None
            )
        ]
    }


def memory(mib: int | None) -> dict[str, Any]:
    """Inputs of a container with a limit of `mib` MiB and no swap; without a limit for None."""
    return {"memory": mib, "memory_swap": mib}


def confined(*capabilities: str) -> dict[str, Any]:
    """Inputs of a container whose processes have these capabilities and cannot gain others."""
    return {
        "capabilities": docker.ContainerCapabilitiesArgs(
            adds=[f"CAP_{name}" for name in capabilities], drops=["ALL"]
        ),
        "security_opts": ["no-new-privileges:true"],
    }


def though_failed(output: pulumi.Output[str]) -> pulumi.Output[str]:
    """The output, or a placeholder when its resource has failed in this update.

    A required input without a value fails the provider's check, which stops the update of all other
    hosts too. With a value, the engine skips only what depends on the failed resource.
    """
    if pulumi.runtime.is_dry_run():
        return output
    return output.apply(
        lambda value: value if isinstance(value, str) else "failed", run_with_unknowns=True
    )
