"""The words of `make` on a clone of this repository: the effect of STACK on each."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.engine.conftest import PROJECT, ROOT, Result, make_key, passed, run
from tests.engine.tree import copy_to


@dataclass(frozen=True)
class Clone:
    """The tree in its own folder, with the set-up of this one."""

    folder: Path

    @classmethod
    def create(cls, folder: Path) -> Clone:
        copy_to(folder)
        for linked in (".venv", ".state/bin"):
            (folder / linked).parent.mkdir(exist_ok=True)
            passed(run("cp", "-al", str(ROOT / linked), str(folder / linked)))
        # The installed packages are more than the words need.
        mark = folder / ".venv" / ".installed"
        mark.unlink()
        requirements = (folder / "requirements.txt").read_bytes()
        mark.write_text(f"{hashlib.sha256(requirements).hexdigest()}  -\n")
        return cls(folder)

    def make(self, *words: str) -> Result:
        """Run `make` without the environment of the test run."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PULUMI_", "TEST_"))}
        for inherited in ("STACK", "ROOT", "STATE", "CLIENT", "MAKEFLAGS", "MAKELEVEL"):
            kept.pop(inherited, None)
        return run(
            "env",
            "-i",
            *(f"{k}={v}" for k, v in kept.items()),
            "make",
            "--no-print-directory",
            *words,
            cwd=self.folder,
        )

    def containers(self, stack: str) -> list[str]:
        owner = f"label=docker-build-machine.owner={PROJECT}/{stack}/builder"
        return passed(run("docker", "ps", "--filter", owner, "--format", "{{.Names}}")).split()

    def has_cache(self, stack: str) -> bool:
        return run("docker", "volume", "inspect", f"{stack}-builder-cache").returncode == 0


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    return Clone.create(tmp_path_factory.mktemp("clone"))


@pytest.fixture(scope="module")
def teams(clone: Clone) -> Iterator[tuple[str, str]]:
    """Two stacks of this clone, whose builders have built something."""
    names = [f"make{secrets.token_hex(3)}" for _ in range(2)]
    try:
        for name in names:
            assert "The builder is ready." in passed(clone.make("team", f"NAME={name}"))
        yield names[0], names[1]
    finally:
        passed(clone.make("purge", "PURGE=yes"))


@pytest.mark.parametrize("word", ["images", "audit", "test", "trials", "bench"])
def test_a_command_for_no_single_stack_refuses_the_variable_stack(clone: Clone, word: str) -> None:
    refused = clone.make(word, "STACK=web")
    assert refused.returncode != 0
    assert "STACK = web: make " in refused.stderr
    assert "does not work on a single stack" in refused.stderr


@pytest.mark.parametrize(
    "word",
    [
        *("up", "preview", "drift", "kit", "ci", "status", "backup", "restore", "free"),
        *("down", "purge", "sbom"),
    ],
)
def test_an_unknown_stack_is_refused(clone: Clone, word: str) -> None:
    arguments = {
        "kit": ["KEY=ada"],
        "ci": ["KIND=github"],
        "backup": ["FILE=cache.tar"],
        "restore": ["FILE=README.md"],
        "purge": ["PURGE=yes"],
    }
    refused = clone.make(word, "STACK=nobody", *arguments.get(word, []))
    assert refused.returncode != 0
    assert "nobody" in refused.stdout + refused.stderr


def test_team_accepts_only_a_name(clone: Clone) -> None:
    refused = clone.make("team", "NAME=web", "STACK=api")
    assert refused.returncode != 0
    assert "make team takes the name of the new stack as NAME" in refused.stderr


def test_a_build_key_of_a_team_gets_a_guard_image(
    clone: Clone, teams: tuple[str, str], tmp_path: Path
) -> None:
    first, _ = teams
    file = clone.folder / f"Pulumi.{first}.yaml"
    settings = yaml.safe_load(file.read_text())
    ci = {"name": "ci", "publicKey": make_key(tmp_path / "ci"), "role": "build"}
    settings["config"][f"{PROJECT}:keys"].append(ci)
    file.write_text(yaml.safe_dump(settings))
    passed(clone.make("up", f"STACK={first}"))
    assert f"{first}-builder-guard" in clone.containers(first)


def test_ci_writes_files_that_need_no_key(
    clone: Clone, teams: tuple[str, str], tmp_path: Path
) -> None:
    first, _ = teams
    file = clone.folder / f"Pulumi.{first}.yaml"
    before = file.read_text()
    settings = yaml.safe_load(before)
    settings["config"][f"{PROJECT}:identities"] = [
        {
            "name": "main",
            "issuer": "https://token.actions.githubusercontent.com",
            "audience": "builder.example.com",
            "claims": {"repository": "acme/app"},
        }
    ]
    file.write_text(yaml.safe_dump(settings))
    words = ("ci", f"STACK={first}", "KIND=github", "IMAGE=registry.example/app")
    passed(clone.make(*words, f"OUT={tmp_path / 'key'}"))
    passed(clone.make(*words, f"OUT={tmp_path / 'token'}", "KEYLESS=yes"))
    file.write_text(before)
    workflow = ".github/workflows/image.yml"
    assert "secrets.BUILDER_KEY" in (tmp_path / "key" / workflow).read_text()
    assert "secrets.BUILDER_KEY" not in (tmp_path / "token" / workflow).read_text()
    assert "id-token: write" in (tmp_path / "token" / workflow).read_text()


def test_down_keeps_the_cache_and_says_so(clone: Clone, teams: tuple[str, str]) -> None:
    first, second = teams
    result = clone.make("down", f"STACK={first}")
    passed(result)
    assert f"The cache volume stays; make up STACK={first} uses it again" in result.stderr
    assert clone.containers(first) == []
    assert clone.has_cache(first)
    assert len(clone.containers(second)) == 3


def test_purge_of_one_stack_leaves_the_others(clone: Clone, teams: tuple[str, str]) -> None:
    first, second = teams
    passed(clone.make("up", f"STACK={first}"))
    passed(clone.make("purge", f"STACK={first}", "PURGE=yes"))
    assert clone.containers(first) == []
    assert not clone.has_cache(first)
    assert len(clone.containers(second)) == 3
    assert clone.has_cache(second)
    assert "encryptionsalt" not in (clone.folder / f"Pulumi.{first}.yaml").read_text()
    assert f"{second}-builder" in passed(clone.make("status", f"STACK={second}"))


def test_down_says_that_it_deletes_the_cache(clone: Clone, teams: tuple[str, str]) -> None:
    _, second = teams
    file = clone.folder / f"Pulumi.{second}.yaml"
    settings = yaml.safe_load(file.read_text())
    settings["config"][f"{PROJECT}:keepCache"] = False
    file.write_text(yaml.safe_dump(settings))
    passed(clone.make("up", f"STACK={second}"))
    result = clone.make("down", f"STACK={second}")
    passed(result)
    assert "keepCache was false, so the cache volume and the host key are gone too" in result.stderr
    assert not clone.has_cache(second)
