"""The offline language host on the real engine."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from tests.engine.conftest import passed, run

_GRACE_SECONDS = 5
"""How long the engine waits for a plugin that it has asked to stop (pulumi's cmdutil/term.go)."""


def test_the_engine_does_not_wait_for_one_started_in_the_background(tmp_path: Path) -> None:
    """Without job control, background jobs and their children ignore SIGINT."""
    (tmp_path / "Pulumi.yaml").write_text("name: program\nruntime: python\n")
    (tmp_path / "__main__.py").write_text("")
    env = {"PULUMI_BACKEND_URL": f"file://{tmp_path}"}

    def seconds(disposition: signal.Handlers) -> float:
        before = signal.signal(signal.SIGINT, disposition)
        start = time.monotonic()
        try:
            passed(run("pulumi", "about", env=env, cwd=tmp_path, restore_signals=False))
        finally:
            signal.signal(signal.SIGINT, before)
        return time.monotonic() - start

    assert seconds(signal.SIG_IGN) < seconds(signal.SIG_DFL) + _GRACE_SECONDS - 1
