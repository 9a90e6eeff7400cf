"""Many clients at once: how many are refused, and how long all of them take together."""

from __future__ import annotations

import time

from bench.client import LABEL, Client
from bench.figures import Figure
from bench.workloads import Workload

CLIENTS, BUILDS = 200, 32
VERSIONS = f"{CLIENTS} times docker version at once"
AT_ONCE = f"{BUILDS} builds at once, each with its own change"


def _together(client: Client, commands: list[list[str]]) -> tuple[int, float]:
    """How many commands failed, and the seconds until the last one ended."""
    start = time.monotonic()
    processes = [client.start(*command) for command in commands]
    errors = [process.communicate(timeout=600)[1] for process in processes]
    failed = sum(process.returncode != 0 for process in processes)
    if failed:
        print(f"    {client.path}: {failed} failed, for example: {max(errors, key=len)[-300:]}")
    return failed, time.monotonic() - start


def versions(clients: list[Client]) -> list[Figure]:
    figures = []
    for client in clients:
        failed, seconds = _together(client, [["version"]] * CLIENTS)
        figures += [
            Figure(f"{VERSIONS}: failed", client.path, "", (failed,)),
            Figure(VERSIONS, client.path, "s", (seconds,)),
        ]
    return figures


def builds(workload: Workload, clients: list[Client], rounds: int) -> list[Figure]:
    """Each build has its own value of a build argument that the last step uses."""
    failures: dict[str, float] = {client.path: 0 for client in clients}
    samples: dict[str, list[float]] = {client.path: [] for client in clients}
    dockerfile = workload.folder / "Dockerfile"
    for _ in range(rounds):
        workload.change("source")
        text = dockerfile.read_text()
        dockerfile.write_text(f"{text}ARG NUMBER\nRUN echo ${{NUMBER}} >number\n")
        build = ["build", "--quiet", *LABEL, *workload.options(), str(workload.folder)]
        for client in clients:
            commands = [
                [*build, "--build-arg", f"NUMBER={n}", "--tag", f"bench:{n}"] for n in range(BUILDS)
            ]
            failed, seconds = _together(client, commands)
            failures[client.path] += failed
            samples[client.path].append(seconds)
        dockerfile.write_text(text)
    return [
        *(Figure(f"{AT_ONCE}: failed", path, "", (n,)) for path, n in failures.items()),
        *(Figure(AT_ONCE, path, "s", tuple(times)) for path, times in samples.items()),
    ]
