"""The private network of one builder."""

import pulumi
import pulumi_docker as docker

from components.identity import Identity


def private_network(
    identity: Identity, *, containers_talk: bool, opts: pulumi.ResourceOptions
) -> docker.Network:
    """A bridge of the builder's own.

    The daemon needs the way out (images, packages) and the gateway its published port.
    `containers_talk` lets them reach each other over TCP; over the shared socket they need not.
    That is another network, so that the daemon can be drained before it moves there.
    """
    role = "tls-network" if containers_talk else "network"
    return docker.Network(
        f"{identity.name}-{role}",
        name=identity.physical(role),
        driver="bridge",
        options={"com.docker.network.bridge.enable_icc": str(containers_talk).lower()},
        labels=[docker.NetworkLabelArgs(label=k, value=v) for k, v in identity.labels.items()],
        # Docker has no two networks of one name.
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(delete_before_replace=True)),
    )
