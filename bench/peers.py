"""What one would build on otherwise, really run beside the builder."""

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
    """A container that is gone after the block, with its volumes."""
    run("docker", "run", "--detach", "--name", f"{PREFIX}{name}", *options)
    try:
        yield f"{PREFIX}{name}"
    finally:
        run("docker", "rm", "--force", "--volumes", f"{PREFIX}{name}")


@contextmanager
def network() -> Iterator[str]:
    """A bridge whose address on this machine containers reach, those in a daemon's container too.

    There the address of Docker's own bridge is the inner daemon's.
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
    """A registry at this address; what stands before an image's name in it."""
    listen = f"{address}:{free_port()}"
    with _container(
        "registry", "--network", "host", "--env", f"REGISTRY_HTTP_ADDR={listen}", images.registry
    ):
        yield f"{listen}/"


def insecure(registry: str) -> str:
    """dockerd's option for a registry without TLS."""
    return f"--insecure-registry={registry.rstrip('/')}"


def fill(registry: str, client: Client, *names: str) -> None:
    """Put images that the client's daemon has into the registry."""
    for name in names:
        client.docker("tag", name, f"{registry}{name}")
        client.docker("push", "--quiet", f"{registry}{name}")
        client.docker("image", "rm", f"{registry}{name}")


@contextmanager
def rootless(
    images: Images, folder: Path, *daemon: str, name: str = "rootless"
) -> Iterator[Client]:
    """A rootless daemon with its image's defaults, reached by its socket."""
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
    """A plain sshd, where who logs in gets a shell: what ssh itself carries is measured there."""
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

    On the rootful daemon of a confined machine a privileged container of root may not start.
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
        # buildx at times waits for ever for the first answer through ssh; asked again it comes.
        wait_for(client, "docker", "buildx", "inspect", "--bootstrap", name, seconds=180)
        yield Client(BUILDX, client.host, client.folder, builder=name, bases=registry)
    finally:
        client.docker("buildx", "rm", "--force", name)


def load(client: Client, *names: str) -> None:
    """Bring images of this machine into a daemon that cannot pull them."""
    archive = client.folder / "images.tar"
    run("docker", "save", "--output", str(archive), *names)
    client.docker("load", "--input", str(archive))
    archive.unlink()


@contextmanager
def original(images: Images, folder: Path, address: str) -> Iterator[tuple[Stack, list[Client]]]:
    """The original design, deployed once, by plain ssh and by a shared connection."""
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
    """Bring the docker CLI into a container, which the original design installs at each start."""
    run("docker", "cp", shutil.which("docker") or "", f"{name}:/usr/local/bin/docker")


def close(client: Client, name: str) -> None:
    """End the shared connection to a host, where nobody's long silence has."""
    with contextlib.suppress(RuntimeError):
        run(str(client.folder / "bin" / "ssh"), "-O", "exit", name)


def wait_for(client: Client, *command: str, seconds: int = 60) -> None:
    """Until its daemon answers, or the command ends well. Raises RuntimeError when it does not."""
    end = time.monotonic() + seconds
    while True:
        try:
            # timeout(1) ends what the command started too, such as docker's plugins.
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
