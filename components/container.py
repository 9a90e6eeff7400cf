"""What the builder's containers have in common."""

from typing import Any

import pulumi
import pulumi_docker as docker

from components.identity import Identity

LOG_ROTATION = {"max-file": "3", "max-size": "10m"}


def upload(
    path: str, content: pulumi.Input[str], permissions: str = "0644"
) -> docker.ContainerUploadArgs:
    """A file that the provider puts into the container before it starts, owned by root."""
    return docker.ContainerUploadArgs(file=path, content=content, permissions=permissions)


def though_failed(output: pulumi.Output[str]) -> pulumi.Output[str]:
    """The output, with some value in an update in which its resource has failed.

    A required input without a value would fail the provider's check, and that ends the update of
    all other hosts too; with one the engine passes over what depends on the failed resource.
    """
    if pulumi.runtime.is_dry_run():
        return output
    return output.apply(
        lambda value: value if isinstance(value, str) else "failed", run_with_unknowns=True
    )


def confined(*capabilities: str) -> dict[str, Any]:
    """Inputs of a container whose processes have these capabilities, and never gain others."""
    return {
        "capabilities": docker.ContainerCapabilitiesArgs(
            adds=[f"CAP_{name}" for name in capabilities], drops=["ALL"]
        ),
        "security_opts": ["no-new-privileges:true"],
    }


def _container(
    identity: Identity,
    role: str,
    *,
    image: docker.RemoteImage,
    labels: dict[str, pulumi.Input[str]] | None = None,
    opts: pulumi.ResourceOptions,
    **inputs: Any,
) -> docker.Container:
    return docker.Container(
        f"{identity.name}-{role}",
        name=identity.physical(role),
        image=though_failed(image.image_id),
        log_driver="json-file",
        log_opts=LOG_ROTATION,
        labels=[
            docker.ContainerLabelArgs(label=label, value=value)
            for label, value in {**identity.labels, **(labels or {})}.items()
        ],
        # Docker has no two of one name. The provider knows, `pulumi up --replace` does not.
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(delete_before_replace=True)),
        **inputs,
    )


def service(
    identity: Identity,
    role: str,
    *,
    image: docker.RemoteImage,
    health: list[str],
    stop_seconds: int,
    opts: pulumi.ResourceOptions,
    **inputs: Any,
) -> docker.Container:
    """A container that runs on: it restarts, tells its health, and stops within `stop_seconds`."""
    return _container(
        identity,
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
        opts=pulumi.ResourceOptions.merge(
            opts,
            # The provider would call these updated and leave the container as it is.
            pulumi.ResourceOptions(replace_on_changes=["healthcheck", "tmpfs"]),
        ),
        **inputs,
    )


def one_shot(
    identity: Identity,
    role: str,
    *,
    image: docker.RemoteImage,
    script: str,
    volumes: list[docker.ContainerVolumeArgs],
    uploads: list[docker.ContainerUploadArgs],
    envs: list[str],
    capabilities: tuple[str, ...] = (),
    opts: pulumi.ResourceOptions,
) -> docker.Container:
    """A container that runs `script` once as root, without network, and ends.

    Root has `capabilities` alone.
    It is replaced, and so runs again, when anything about it changes.
    """
    return _container(
        identity,
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
        opts=opts,
        **confined(*capabilities),
    )
