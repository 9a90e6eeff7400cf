"""The whole program, run on Pulumi mocks that record every resource and its options."""

from __future__ import annotations

import asyncio
import gc
import json
import runpy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pulumi
import pytest
from pulumi.runtime import rpc, set_mocks
from pulumi.runtime.mocks import MockMonitor
from pulumi.runtime.settings import get_root_resource, reset_options, set_root_resource
from pulumi.runtime.stack import run_in_stack

ROOT = Path(__file__).parents[2]
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA8mWEwgv2hCdQZQ3R4lVxxO1OVbpL5tzTDMVQGDzXmV"
OTHER_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKq2Nfqsv4lcJYdqS1iyIs7xPZl0xJgS4cVpS0bqUuLb"
PRIVATE_KEY = (
    "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaA==\n-----END OPENSSH PRIVATE KEY-----\n"
)
CERTIFICATES = "".join(
    f"-----BEGIN {kind}-----\n{what}\n-----END {kind}-----\n"
    for kind, what in [
        ("CERTIFICATE", "ca"),
        ("CERTIFICATE", "server"),
        ("PRIVATE KEY", "of server"),
        ("CERTIFICATE", "client"),
        ("PRIVATE KEY", "of client"),
    ]
)
LOOK = "docker=29.9.3\nkernel=6.12.1\narchitecture=x86_64\ntun=usable\n"
DISK = 100_000_000_000
# What the commands with these roles print on the mocks' host.
PRINTED = {
    "-host-key": f"{KEY}\n{PRIVATE_KEY}",
    "-cache-check": f"{DISK}\ncontainerd\n",
    "-certificates": CERTIFICATES,
}
CONFIG: dict[str, Any] = {
    "host": "unix:///var/run/docker.sock",
    "keys": [{"name": "ada", "publicKey": KEY + " ada@laptop"}],
    "daemonImage": "docker:29.9.3-dind-rootless",
    "gatewayImage": "lscr.io/linuxserver/openssh-server:10.3_p1-r2-ls243",
}


@dataclass(frozen=True)
class Registered:
    """One resource as the program registered it."""

    type: str
    name: str
    inputs: dict[str, Any]
    request: Any
    """The engine's RegisterResourceRequest: protect, parent, provider and so on."""


@dataclass
class Run:
    """The resources that one run of the program registered, and its exports."""

    resources: dict[str, Registered] = field(default_factory=dict)
    exports: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Registered:
        return self.resources[name]

    def of_type(self, ending: str) -> list[Registered]:
        return [r for r in self.resources.values() if r.type.endswith(ending)]


class _Mocks(pulumi.runtime.Mocks):
    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str, dict[str, Any]]:
        outputs = dict(args.inputs)
        if args.typ == "docker:index/remoteImage:RemoteImage":
            outputs["imageId"] = f"sha256:{args.name}"
        if args.typ == "command:local:Command":
            name = args.name.rstrip("-0123456789")
            output = [text for role, text in PRINTED.items() if name.endswith(role)]
            outputs["stdout"] = output[0] if output else "daemon 29.9.3"
        return f"{args.name}-id", outputs

    def call(self, args: pulumi.runtime.MockCallArgs) -> tuple[dict[str, Any], list[Any]]:
        assert args.token == "command:local:run", args.token
        return {**args.args, "stdout": LOOK, "stderr": ""}, []


class _RecordingMonitor(MockMonitor):
    def __init__(self, run: Run) -> None:
        super().__init__(_Mocks())
        self._run = run

    def RegisterResource(self, request: Any) -> Any:
        inputs = rpc.deserialize_properties(request.object)
        self._run.resources[request.name] = Registered(request.type, request.name, inputs, request)
        return super().RegisterResource(request)


def record(program: Callable[[], Any], result: Run, *, preview: bool = False) -> None:
    """Run a Pulumi program on mocks; the result has the registered resources even if it fails."""

    async def run() -> None:
        reset_options(preview=preview)
        set_mocks(
            _Mocks(),
            "docker-build-machine",
            "dev",
            preview=preview,
            monitor=_RecordingMonitor(result),
        )
        # Remove the mocks' root resource, so that run_in_stack can make the stack.
        set_root_resource(None)  # type: ignore[arg-type]
        await run_in_stack(program)
        stack = get_root_resource()
        assert stack is not None
        for name, value in stack.outputs.items():  # type: ignore[attr-defined]
            result.exports[name] = await pulumi.Output.from_input(value).future()

    asyncio.run(run())


def _run_main() -> None:
    runpy.run_path(str(ROOT / "__main__.py"))


@pytest.fixture
def run_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Run]:
    """Run __main__.py with CONFIG and the given settings; None removes a setting."""

    def run(*, preview: bool = False, **settings: Any) -> Run:
        config = {k: v for k, v in {**CONFIG, **settings}.items() if v is not None}
        text = {
            f"docker-build-machine:{name}": value if isinstance(value, str) else json.dumps(value)
            for name, value in config.items()
        }
        monkeypatch.setenv("PULUMI_CONFIG", json.dumps(text))
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.syspath_prepend(str(ROOT))
        # The program exempts what it has loaded from garbage collection; here that would keep all
        # that earlier runs have left, and asyncio.run looks through every task among it.
        monkeypatch.setattr(gc, "freeze", lambda: None)
        result = Run()
        record(_run_main, result, preview=preview)
        return result

    return run
