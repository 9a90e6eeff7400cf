"""The private network of one builder."""

import pulumi
import pulumi_docker as docker

from components.identity import Identity


def private_network(
    identity: Identity, *, containers_talk: bool, opts: pulumi.ResourceOptions
) -> docker.Network:
    """A bridge of the builder's own, on which the daemon has its way out (images, packages).

    `containers_talk` lets its containers reach each other over TCP. That is another network, so
    that the daemon can be drained before it moves there.
    """
    role = "tls-network" if containers_talk else "network"
    return _bridge(identity, role, {"enable_icc": containers_talk}, opts)


def entrance(identity: Identity, *, opts: pulumi.ResourceOptions) -> docker.Network:
    """A bridge for the gateway alone: connections come in by a published port, none goes out.

    Docker has no bridge that publishes ports and has no way out (`internal` does neither). Without
    masquerading, what is sent out keeps an address to which no answer comes.
    """
    return _bridge(identity, "entrance", {"enable_icc": False, "enable_ip_masquerade": False}, opts)


def _bridge(
    identity: Identity, role: str, options: dict[str, bool], opts: pulumi.ResourceOptions
) -> docker.Network:
    return docker.Network(
        f"{identity.name}-{role}",
        name=identity.physical(role),
        driver="bridge",
        options={
            f"com.docker.network.bridge.{name}": str(value).lower()
            for name, value in options.items()
        },
        labels=[docker.NetworkLabelArgs(label=k, value=v) for k, v in identity.labels.items()],
        # Docker has no two networks of one name.
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(delete_before_replace=True)),
    )
