"""Parts of components/ import only parts of a lower layer, never a sibling."""

from __future__ import annotations

import ast

from tests.unit.conftest import ROOT

FLOORS = (
    {"layout", "ssh_key", "arguments", "advisories"},
    {"settings", "docker_host", "host_facts", "archive"},
    {"scope"},
    {"transport", "cache", "registry_access"},
    {"host", "daemon", "gateway", "guard", "verifier", "janitor", "registry", "metrics"},
    {"builder"},
    {"fleet"},
)


def imports() -> dict[str, set[str]]:
    """The parts that each part of components/ imports, without itself."""
    found: dict[str, set[str]] = {}
    folder = ROOT / "components"
    for file in folder.rglob("*.py"):
        part = file.relative_to(folder).parts[0].removesuffix(".py")
        if part == "__init__":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and not node.level:
                words = (node.module or "").split(".")
                if words[0] == "components":
                    assert len(words) > 1, f"{file} imports the whole of components"
                    found.setdefault(part, set()).add(words[1])
        found.setdefault(part, set()).discard(part)
    return found


def test_every_part_imports_only_from_lower_floors() -> None:
    floor = {part: number for number, parts in enumerate(FLOORS) for part in parts}
    for part, others in imports().items():
        for other in others:
            assert floor[other] < floor[part], f"{part} imports {other}"
