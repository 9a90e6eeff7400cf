"""The order of the tests, and which modules run one after the other on the same worker."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

# Modules of engine tests that leave their builder as it is, so they share one.
COMMON_BUILDER = {
    "confinement",
    "crowd",
    "outside",
    "rootless",
    "speed",
    "ssh_clients",
    "state",
    "streams",
    "supply_chain",
}
# They take the longest, mostly waiting, so they begin while all workers have something to do.
FIRST = {"cache", "registry"}


def engine_module(nodeid: str) -> str:
    """The name of the test's module in tests/engine, without `test_`."""
    path = nodeid.partition(".py")[0]
    return path.removeprefix("tests/engine/test_") if path.startswith("tests/engine/") else ""


class Scheduling(LoadFileScheduling):
    """`--dist loadfile`, where several modules can count as one."""

    def _split_scope(self, nodeid: str) -> str:
        if engine_module(nodeid) in COMMON_BUILDER:
            return "common builder"
        return str(super()._split_scope(nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: engine_module(item.nodeid) not in FIRST)
