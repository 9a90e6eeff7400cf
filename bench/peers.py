"""The alternatives to the builder, run beside it."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.client import Client, run
from bench.images import Images
from bench.keys import free_port, make_key, ssh_block
from bench.stack import Stack

PREFIX = "bench-"
ROOTLESS, BUILDX = "rootless, local socket", "buildx docker-container"
ORIGINAL, ORIGINAL_SHARED = "original design, plain ssh", "original design, shared connection"


@contextmanager
def _container(name: str, *options: str) -> Iterator[str]:
    """A container that is removed after the block, with its volumes."""
    run("docker", "run", "--detach", "--name", f"{PREFIX}{name}", *options)
    try:
        yield f"{PREFIX}{name}"
    finally:
        run("docker", "rm", "--force", "--volumes", f"{PREFIX}{name}")


@contextmanager
def network() -> Iterator[str]:
    """A bridge network; its address on this machine, which containers reach.

    Containers inside a daemon's container reach it too; the address of Docker's own bridge would
    be the inner daemon's there.
    """
    name = f"{PREFIX}network"
    run("docker", "network", "create", name)
    try:
        form = "{{(index .IPAM.Config 0).Gateway}}"
        yield run("docker", "network", "inspect", name, "--format", form).stdout.strip()
    finally:
        run("docker", "network", "rm", name)


@contextmanager
def registry(images: Images, address: str) -> Iterator[str]:
    """A registry at this address; the prefix of the names of its images."""
    listen = f"{address}:{free_port()}"
    with _container(
        "registry", "--network", "host", "--env", f"REGISTRY_HTTP_ADDR={listen}", images.registry
    ):
        yield f"{listen}/"


def insecure(registry: str) -> str:
    """dockerd's option for a registry without TLS."""
    return f"--insecure-registry={registry.rstrip('/')}"


def fill(registry: str, client: Client, *names: str) -> None:
    """Push images of the client's daemon to the registry."""
    for name in names:
        client.docker("tag", name, f"{registry}{name}")
        client.docker("push", "--quiet", f"{registry}{name}")
        client.docker("image", "rm", f"{registry}{name}")


@contextmanager
def rootless(
    images: Images, folder: Path, *daemon: str, name: str = "rootless"
) -> Iterator[Client]:
    """A rootless daemon with its image's defaults, reached through its socket."""
    sockets = folder / "sockets"
    sockets.mkdir(parents=True)
    sockets.chmod(0o1777)
    with _container(
        name,
        "--privileged",
        "--volume",
        f"{sockets}:/sockets",
        "--env",
        "DOCKER_TLS_CERTDIR=",
        images.daemon,
        "dockerd",
        "--host=unix:///sockets/docker.sock",
        *daemon,
    ):
        client = Client.create(ROOTLESS, f"unix://{sockets}/docker.sock", folder / "client")
        wait_for(client)
        yield client


@contextmanager
def ssh_host(images: Images, folder: Path, address: str) -> Iterator[Client]:
    """A plain sshd with a shell, to measure what ssh itself carries."""
    folder.mkdir()
    port, public = free_port(), make_key(folder / "key")
    host_key = make_key(folder / "host")
    (folder / "authorized_keys").write_text(f"{public}\n")
    start = (
        "mkdir -p /run/sshd /root/.ssh && "
        "cp /given/authorized_keys /root/.ssh/ && cp /given/host /etc/ssh/key && "
        "chown -R 0:0 /root/.ssh && chmod 0600 /etc/ssh/key /root/.ssh/authorized_keys && "
        f"exec /usr/sbin/sshd.pam -D -e -f /dev/null -h /etc/ssh/key -p {port} "
        f"-o ListenAddress={address} -o PidFile=none"
    )
    with _container(
        "host",
        "--network",
        "host",
        "--user",
        "0:0",
        "--volume",
        f"{folder}:/given:ro",
        "--entrypoint",
        "sh",
        images.gateway,
        "-euc",
        start,
    ):
        known = f"[{address}]:{port} {host_key}\n"
        config = ssh_block("host", "root", address, port, folder, known, shared=False)
        client = Client.create("host", "", folder / "client", config)
        wait_for(client, "ssh", "host", "true")
        yield client


@contextmanager
def buildx(images: Images, client: Client, registry: str) -> Iterator[Client]:
    """buildx with a BuildKit of its own, driver docker-container, in the client's daemon.

    It runs in the builder because a confined machine's rootful daemon may not start a
    privileged container of root.
    """
    name = f"{PREFIX}buildx"
    load(client, images.buildkit)
    config = client.folder / "buildkitd.toml"
    config.write_text(f'[registry."{registry.rstrip("/")}"]\n  http = true\n')
    client.docker(
        "buildx",
        "create",
        "--name",
        name,
        "--driver",
        "docker-container",
        "--config",
        str(config),
        "--driver-opt",
        f"image={images.buildkit}",
    )
    try:
        # buildx sometimes waits forever for the first answer over ssh; a second try gets one.
        wait_for(client, "docker", "buildx", "inspect", "--bootstrap", name, seconds=180)
        yield Client(BUILDX, client.host, client.folder, builder=name, bases=registry)
    finally:
        client.docker("buildx", "rm", "--force", name)


def load(client: Client, *names: str) -> None:
    """Copy images of this machine into a daemon that cannot pull them."""
    archive = client.folder / "images.tar"
    run("docker", "save", "--output", str(archive), *names)
    client.docker("load", "--input", str(archive))
    archive.unlink()


@contextmanager
def original(images: Images, folder: Path, address: str) -> Iterator[tuple[Stack, list[Client]]]:
    """The original design, deployed once, with two clients: plain ssh and a shared connection."""
    folder.mkdir()
    port = free_port()
    stack = Stack.create(
        Path(__file__).parent / "original",
        folder,
        daemon=images.daemon,
        ssh=images.gateway,
        address=address,
        port=port,
        publicKey=make_key(folder / "key"),
    )
    try:
        yield (
            stack,
            [
                Client.create(
                    path,
                    "ssh://original",
                    folder / path.replace(" ", "-"),
                    ssh_block("original", "builder", address, port, folder, shared=shared),
                )
                for path, shared in ((ORIGINAL, False), (ORIGINAL_SHARED, True))
            ],
        )
    finally:
        stack.destroy()


def give_cli(name: str) -> None:
    """Copy the docker CLI into a container; the original design installs it at each start."""
    run("docker", "cp", shutil.which("docker") or "", f"{name}:/usr/local/bin/docker")


def close(client: Client, name: str) -> None:
    """End the shared connection to a host if it is still open."""
    with contextlib.suppress(RuntimeError):
        run(str(client.folder / "bin" / "ssh"), "-O", "exit", name)


def wait_for(client: Client, *command: str, seconds: int = 60) -> None:
    """Wait until the daemon answers or the command succeeds; RuntimeError after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        try:
            # timeout(1) also ends what the command started, such as docker's plugins.
            run(
                "timeout",
                "-s",
                "KILL",
                "20",
                *(command or ("docker", "version")),
                env=client.environment,
            )
            return
        except RuntimeError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
