"""One buildx builder with a native node on each host of the stack, for multi-platform builds."""

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
    parser.add_argument("--create", action="store_true", help="run the lines instead of printing")
    parser.add_argument("--config", metavar="FILE", help="a buildkitd.toml for the nodes")


def lines(stack: Stack, config: str | None) -> list[list[str]]:
    """The command lines, in order. Raises StackError when the stack has no `hosts`."""
    text = str(stack.outputs.get("buildxCreate", ""))
    if not text:
        raise StackError("this stack has one builder alone; next: set hosts and run pulumi up")
    extra = ["--buildkitd-config", config] if config else []
    return [[*words[:-1], *extra, words[-1]] for words in map(shlex.split, text.splitlines())]


def with_registry(stack: Stack, config: str | None, folder: Path) -> str | None:
    """The buildkitd.toml of the nodes, with the stack's registry and its files in `folder`.

    buildx reads them as it makes a node, keeps them with its list of builders, where no other user
    can read them, and puts them into the node.
    """
    if "registryClient" not in stack.outputs:
        return config
    client = stack.secret("registryClient")
    for name in ("ca", "certificate", "key"):
        path = folder / name
        path.touch(mode=0o600)
        path.write_text(client[name])
    text = Path(config).read_text() + "\n" if config else ""
    text += f'[registry."docker.io"]\n  mirrors = ["{client["mirror"]}"]\n'
    for server in (client["store"], client["mirror"]):
        text += (
            f'[registry."{server}"]\n  ca = ["{folder}/ca"]\n'
            f'  [[registry."{server}".keypair]]\n'
            f'    key = "{folder}/key"\n    cert = "{folder}/certificate"\n'
        )
    path = folder / "buildkitd.toml"
    path.write_text(text)
    return str(path)


def _run(words: list[str], seconds: float | None = None) -> None:
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            code = process.wait(seconds)
        except BaseException:
            # The buildx plugin is a child of docker and would stay.
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if code:
        raise StackError(
            f"`{shlex.join(words)}` failed (the lines above say why); next: mend it and run this "
            "again"
        )


def run(stack: Stack, options: argparse.Namespace) -> int:
    """Print the lines, or make the builder and start its nodes; one that is there is made anew.

    The nodes' caches are volumes in the builders' daemons and stay.
    """
    if not options.create:
        for words in lines(stack, options.config):
            print(shlex.join(words))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        return _create(lines(stack, with_registry(stack, options.config, Path(folder))))


def _create(commands: list[list[str]]) -> int:
    name = commands[0][commands[0].index("--name") + 1]
    buildx = ["docker", "buildx"]
    if subprocess.run([*buildx, "inspect", name], capture_output=True, check=False).returncode == 0:
        commands = [[*buildx, "rm", "--keep-state", name], *commands]
    for words in commands:
        _run(words)
    bootstrap = [*buildx, "inspect", "--bootstrap", name]
    try:
        _run(bootstrap, seconds=_BOOTSTRAP_SECONDS)
    except subprocess.TimeoutExpired:
        # buildx 0.13 may wait for ever for nodes that have just started; asked again it does not.
        _run(bootstrap)
    print(f"docker buildx build --builder {name} --platform … --push .")
    return 0
