"""The original design as a Pulumi program: mutual TLS on TCP 2376, certificates in a shared volume.

Its init script is repaired: as published, it writes a file that sshd does not read.
"""

import pulumi
import pulumi_docker as docker

config = pulumi.Config()
provider = docker.Provider("host", host="unix:///var/run/docker.sock")
opts = pulumi.ResourceOptions(provider=provider)
names = {
    role: f"bench-original-{role}" for role in ("network", "certificates", "cache", "daemon", "ssh")
}
network = docker.Network("network", name=names["network"], opts=opts)
certificates = docker.Volume("certificates", name=names["certificates"], opts=opts)
cache = docker.Volume("cache", name=names["cache"], opts=opts)
daemon_image, ssh_image = (
    docker.RemoteImage(f"{role}-image", name=config.require(role), keep_locally=True, opts=opts)
    for role in ("daemon", "ssh")
)
daemon = docker.Container(
    "daemon",
    name=names["daemon"],
    image=daemon_image.image_id,
    privileged=True,
    envs=["DOCKER_TLS_CERTDIR=/certs"],
    networks_advanced=[{"name": network.name, "aliases": ["docker"]}],
    volumes=[
        {"volume_name": certificates.name, "container_path": "/certs"},
        {"volume_name": cache.name, "container_path": "/var/lib/docker"},
    ],
    opts=opts,
)
INIT = """\
echo "SetEnv DOCKER_HOST=tcp://docker:2376 DOCKER_CERT_PATH=/certs/client DOCKER_TLS_VERIFY=1" \
>>/config/sshd/sshd_config
"""
ssh = docker.Container(
    "ssh",
    name=names["ssh"],
    image=ssh_image.image_id,
    envs=[
        "USER_NAME=builder",
        "PUID=1000",
        "PGID=1000",
        f"PUBLIC_KEY={config.require('publicKey')}",
    ],
    networks_advanced=[{"name": network.name}],
    ports=[
        {"internal": 2222, "external": config.require_int("port"), "ip": config.require("address")}
    ],
    volumes=[{"volume_name": certificates.name, "container_path": "/certs", "read_only": True}],
    uploads=[{"file": "/custom-cont-init.d/init", "content": INIT}],
    opts=pulumi.ResourceOptions(provider=provider, depends_on=[daemon]),
)
