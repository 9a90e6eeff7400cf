"""The named volumes of one builder."""

import pulumi
import pulumi_docker as docker

from components.identity import Identity


def volume(
    identity: Identity,
    role: str,
    *,
    driver_opts: dict[str, str] | None = None,
    opts: pulumi.ResourceOptions,
) -> docker.Volume:
    """A named volume that carries the owner's label."""
    return docker.Volume(
        f"{identity.name}-{role}",
        name=identity.physical(role),
        driver_opts=driver_opts,
        labels=[docker.VolumeLabelArgs(label=k, value=v) for k, v in identity.labels.items()],
        # Docker takes an existing name for the volume itself: the new one would go with the old.
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(delete_before_replace=True)),
    )


def cache_volume(identity: Identity, *, keep: bool, opts: pulumi.ResourceOptions) -> docker.Volume:
    """The volume with images, layers and cache mounts.

    Protected and retained when `keep`: no update, rename or destroy takes it away.
    """
    keeping = pulumi.ResourceOptions(protect=keep, retain_on_delete=keep)
    return volume(identity, "cache", opts=pulumi.ResourceOptions.merge(opts, keeping))
