"""scripts/release on real clones of this tree: its checks, and the tag that it creates."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from scripts.release import sections, version_of
from tests.unit.conftest import ROOT

IDENTITY = ("-c", "user.name=test", "-c", "user.email=test@localhost")


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *IDENTITY, *words], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the tracked files of this tree as they are now."""
    folder = tmp_path_factory.mktemp("source")
    listed = git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in listed.split("\0")[:-1]:
        if (file := ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, folder / name)
    git(folder, "init", "--quiet", "--initial-branch", "main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "test")
    return folder


class Clone:
    """A clone of that repository."""

    def __init__(self, source: Path, folder: Path) -> None:
        self.folder = folder
        git(source, "clone", "--quiet", str(source), str(folder))
        git(folder, "config", "user.name", "test")
        git(folder, "config", "user.email", "test@localhost")

    def commit(self) -> None:
        git(self.folder, "add", "--all")
        git(self.folder, "commit", "--quiet", "--allow-empty", "--message", "test")

    def replace(self, name: str, old: str, new: str) -> None:
        path = self.folder / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    def prepare(self, version: str) -> None:
        """The steps that CONTRIBUTING.md requires before a release."""
        self.replace("pyproject.toml", f'version = "{version_of(ROOT)}"', f'version = "{version}"')
        self.replace(
            "CHANGELOG.md",
            "## [Unreleased]\n",
            f"## [Unreleased]\n\n## [{version}] - 2030-01-31\n\n- new\n",
        )
        states = self.folder / "tests" / "engine" / "states"
        (states / f"{version}.json.gz").write_bytes(next(states.glob("*.json.gz")).read_bytes())
        self.commit()

    def release(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.folder / "scripts" / "release"), *words],
            check=False,
            capture_output=True,
            text=True,
        )

    def refused(self) -> str:
        """The errors of a refused release; fails if the release succeeds."""
        done = self.release("--tag")
        assert done.returncode == 1, done.stdout
        assert not git(self.folder, "tag", "--list")
        return done.stderr


@pytest.fixture
def clone(source: Path, tmp_path: Path) -> Clone:
    return Clone(source, tmp_path / "clone")


@pytest.fixture
def prepared(clone: Clone) -> Clone:
    clone.prepare("9.8.7")
    return clone


def test_a_prepared_commit_gets_its_tag(prepared: Clone) -> None:
    checked = prepared.release()
    assert checked.returncode == 0, checked.stderr
    assert "can be released as v9.8.7" in checked.stdout
    assert not git(prepared.folder, "tag", "--list")
    tagged = prepared.release("--tag")
    assert tagged.returncode == 0, tagged.stderr
    assert git(prepared.folder, "describe") == "v9.8.7"
    assert git(prepared.folder, "cat-file", "-t", "v9.8.7") == "tag"
    again = prepared.release("--tag")
    assert again.returncode == 0, again.stderr
    assert "v9.8.7 is the tag of this commit" in again.stdout


def test_entries_that_are_not_in_a_section_are_refused(clone: Clone) -> None:
    clone.prepare("9.8.7")
    clone.replace("CHANGELOG.md", "## [Unreleased]\n", "## [Unreleased]\n\n- newer\n")
    clone.commit()
    assert "has entries under [Unreleased]" in clone.refused()


@pytest.mark.parametrize(
    ("name", "old", "new", "error"),
    [
        ("pyproject.toml", 'version = "9.8.7"', 'version = "9.8"', "must be X.Y.Z"),
        ("pyproject.toml", 'version = "9.8.7"', 'version = "9.9.0"', "newest section"),
        ("CHANGELOG.md", " - 2030-01-31", "", "[9.8.7] of CHANGELOG.md needs a date"),
        ("CHANGELOG.md", "## [Unreleased]", "## Unreleased", "no section [Unreleased]"),
        ("LICENSE", "Apache License", "License", "not the text of Apache-2.0"),
    ],
)
def test_files_must_agree(prepared: Clone, name: str, old: str, new: str, error: str) -> None:
    prepared.replace(name, old, new)
    prepared.commit()
    assert error in prepared.refused()


@pytest.mark.parametrize("release", ["9.8.7", "0.1.0"])
def test_each_release_needs_its_state(prepared: Clone, release: str) -> None:
    (prepared.folder / "tests" / "engine" / "states" / f"{release}.json.gz").unlink()
    prepared.commit()
    assert f"tests/engine/states/{release}.json.gz is missing" in prepared.refused()


def test_the_tree_must_be_clean(prepared: Clone) -> None:
    (prepared.folder / "forgotten").touch()
    refused = prepared.refused()
    assert "not committed" in refused
    assert "forgotten" in refused


def test_a_tag_stays_where_it_is(prepared: Clone) -> None:
    assert prepared.release("--tag").returncode == 0
    prepared.commit()
    refused = prepared.release("--tag")
    assert refused.returncode == 1
    assert "the tag v9.8.7 is on another commit" in refused.stderr
    assert git(prepared.folder, "describe") == "v9.8.7-1-g" + git(
        prepared.folder, "rev-parse", "--short", "HEAD"
    )


def test_the_sections_are_in_the_form_of_keep_a_changelog() -> None:
    found = sections((ROOT / "CHANGELOG.md").read_text())
    assert next(iter(found)) == "Unreleased"
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    for release, (_, text) in found.items():
        assert release == "Unreleased" or re.fullmatch(r"\d+\.\d+\.\d+", release)
        assert set(re.findall(r"^### (.*)$", text, re.MULTILINE)) <= kinds
