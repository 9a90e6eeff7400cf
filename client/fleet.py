"""One buildx builder with a native node on each host of the stack, for multi-platform builds."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess

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
    commands = lines(stack, options.config)
    if not options.create:
        for words in commands:
            print(shlex.join(words))
        return 0
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
