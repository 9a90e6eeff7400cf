"""Where the milliseconds of a new connection go: one ping of the daemon over plain ssh."""

from __future__ import annotations

import itertools
import subprocess
import time

from bench.builder import Builder
from bench.client import Client
from bench.figures import Figure
from bench.workloads import Workload

GROUP = "One ping over plain ssh, by its parts"
CONNECTIONS = "Connections of a warm build over plain ssh"
_PING = b"GET /_ping HTTP/1.0\r\n\r\n"
# What ssh -v prints at the end of each part, in this order.
_PARTS = (
    ("start of ssh, until it connects", b"Connecting to "),
    ("TCP, until the server's version", b"Remote protocol version"),
    ("key exchange", b"SSH2_MSG_NEWKEYS received"),
    ("login", b"Authenticated to "),
    ("session, until its process runs", b"Sending command|Entering interactive session"),
)
_LAST = "pipe and daemon, until the end of the answer"


def _ping(client: Client) -> list[float]:
    """Milliseconds of each part."""
    process = subprocess.Popen(
        [str(client.folder / "bin" / "ssh"), "-v", "-o", "LogLevel=DEBUG1", "gateway"],
        env=client.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    marks = [time.monotonic()]
    assert process.stdin
    assert process.stderr
    process.stdin.write(_PING)
    process.stdin.flush()
    waiting = [mark.split(b"|") for _, mark in _PARTS]
    for line in process.stderr:
        if waiting and any(mark in line for mark in waiting[0]):
            marks.append(time.monotonic())
            waiting.pop(0)
    process.wait()
    marks.append(time.monotonic())
    return [(after - before) * 1000 for before, after in itertools.pairwise(marks)]


def parts(client: Client, rounds: int) -> list[Figure]:
    samples = [_ping(client) for _ in range(rounds)]
    names = [name for name, _ in _PARTS] + [_LAST]
    return [
        Figure(GROUP, name, "ms", tuple(times))
        for name, times in zip(names, zip(*samples, strict=True), strict=True)
    ]


def connections(builder: Builder, client: Client, workload: Workload, rounds: int) -> list[Figure]:
    """How many connections one build opens, counted in the gateway's log."""
    counts = []
    for _ in range(rounds):
        before = builder.logins()
        client.build(workload.folder, *workload.options())
        time.sleep(1)
        counts.append(float(builder.logins() - before))
    return [Figure(CONNECTIONS, client.path, "", tuple(counts))]
