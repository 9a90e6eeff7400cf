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
    """
    return docker.Network(
        f"{identity.name}-network",
        name=identity.physical("network"),
        driver="bridge",
        options={"com.docker.network.bridge.enable_icc": str(containers_talk).lower()},
        labels=[docker.NetworkLabelArgs(label=k, value=v) for k, v in identity.labels.items()],
        opts=opts,
    )
