"""Make one buildx builder with a native node on each host, for builds for several platforms."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import tempfile
from pathlib import Path

from client.stack import Stack, StackError

_BOOTSTRAP_SECONDS = 60


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m client fleet`; it needs buildx 0.13 or newer."""
    parser.add_argument(
        "--create", action="store_true", help="run the commands instead of printing them"
    )
    parser.add_argument("--config", metavar="FILE", help="a buildkitd.toml for the nodes")


def create_commands(stack: Stack, config: str | None) -> list[list[str]]:
    """The `docker buildx create` commands, in order. Raises StackError if the stack has no hosts.

    `config` is the path of a buildkitd.toml.
    """
    text = str(stack.outputs.get("buildxCreate", ""))
    if not text:
        raise StackError("this stack has only one builder; next: set hosts and run pulumi up")
    extra = ["--buildkitd-config", config] if config else []
    return [[*words[:-1], *extra, words[-1]] for words in map(shlex.split, text.splitlines())]


def with_registry(stack: Stack, config: str | None, folder: Path) -> str | None:
    """The path of the nodes' buildkitd.toml: `config`, and the stack's registry if it has one.

    It is written into `folder`, as are the certificates that it names. buildx reads them when it
    makes a node, copies them into the node, and keeps them in a folder that only this user can
    read.
    """
    if "registryClient" not in stack.outputs:
        return config
    client = stack.secret("registryClient")
    for name in ("ca", "certificate", "key"):
        path = folder / name
        path.touch(mode=0o600)
        path.write_text(client[name])
    text = Path(config).read_text() + "\n" if config else ""
    # Registries of earlier releases have one mirror.
    mirrors = {"docker.io": client["mirror"], **client.get("mirrored", {})}
    for registry, mirror in mirrors.items():
        text += f'[registry."{registry}"]\n  mirrors = ["{mirror}"]\n'
    for server in (client["store"], *mirrors.values()):
        text += (
            f'[registry."{server}"]\n  ca = ["{folder}/ca"]\n'
            f'  [[registry."{server}".keypair]]\n'
            f'    key = "{folder}/key"\n    cert = "{folder}/certificate"\n'
        )
    path = folder / "buildkitd.toml"
    path.write_text(text)
    return str(path)


def run(stack: Stack, options: argparse.Namespace) -> int:
    """Print the commands, or make the builder and start its nodes.

    An older builder of that name is replaced; the caches of its nodes, volumes in the builders'
    daemons, stay.
    """
    if not options.create:
        for words in create_commands(stack, options.config):
            print(shlex.join(words))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        config = with_registry(stack, options.config, Path(folder))
        _create(create_commands(stack, config))
    return 0


def _create(commands: list[list[str]]) -> None:
    name = commands[0][commands[0].index("--name") + 1]
    buildx = ["docker", "buildx"]
    if subprocess.run([*buildx, "inspect", name], capture_output=True, check=False).returncode == 0:
        commands = [[*buildx, "rm", "--keep-state", name], *commands]
    for words in commands:
        _docker(words)
    start_nodes = [*buildx, "inspect", "--bootstrap", name]
    try:
        _docker(start_nodes, seconds=_BOOTSTRAP_SECONDS)
    except subprocess.TimeoutExpired:
        # buildx 0.13 sometimes waits forever for nodes that have just started; a second call works.
        _docker(start_nodes)
    print(f"docker buildx build --builder {name} --platform … --push .")


def _docker(words: list[str], seconds: float | None = None) -> None:
    """Run docker. Raises StackError if it fails, TimeoutExpired after so many seconds."""
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            code = process.wait(seconds)
        except BaseException:
            # The buildx plugin is a child of docker and would go on.
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if code:
        raise StackError(
            f"`{shlex.join(words)}` failed (the lines above say why); next: correct that and run "
            "this again"
        )
