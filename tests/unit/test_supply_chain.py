"""Images by digest, bills of materials and the audit: the parts that need no Docker."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from scripts.audit import verdict
from scripts.image_pins import Image, changes, references, write_reference
from scripts.packages import Package, packages_of
from tests.unit.conftest import ROOT

DIGEST = "sha256:" + "0123456789abcdef" * 4
ALPINE = """\
C:Q1abc=
P:musl
V:1.2.5-r10
L:MIT
F:lib

P:busybox
V:1.37.0-r18
L:GPL-2.0-only

"""
DEBIAN = """\
Package: libc6
Status: install ok installed
Version: 2.41-12
Description: a library
 with: a colon

Package: gone
Status: deinstall ok config-files
Version: 1

Package: adduser
Status: install ok installed
Version: 3.152
"""


def test_packages_of_both_kinds_of_image() -> None:
    assert packages_of("/lib/apk/db/installed", ALPINE) == [
        Package("busybox", "1.37.0-r18", "GPL-2.0-only"),
        Package("musl", "1.2.5-r10", "MIT"),
    ]
    assert packages_of("/var/lib/dpkg/status", DEBIAN) == [
        Package("adduser", "3.152", ""),
        Package("libc6", "2.41-12", ""),
    ]


def test_every_image_setting_is_found_in_the_schema_and_in_a_stacks_file() -> None:
    text = Path(ROOT, "Pulumi.yaml").read_text()
    schema = yaml.safe_load(text)["config"]
    assert references(text) == {
        name: about["default"] for name, about in schema.items() if name.endswith("Image")
    }
    stack = (
        "config:\n  docker-build-machine:sshPort: 2222\n  docker-build-machine:daemonImage: a:1\n"
    )
    assert references(stack) == {"daemonImage": "a:1"}


def test_a_digest_is_written_and_nothing_else_changes(tmp_path: Path) -> None:
    copy = tmp_path / "Pulumi.yaml"
    before = Path(ROOT, "Pulumi.yaml").read_text()
    copy.write_text(before)
    for old in references(before).values():
        new = f"{old.partition('@')[0]}@{DIGEST}"
        write_reference(copy, old, new)
        assert copy.read_text().count(new) == 1, old
        write_reference(copy, new, old)
    assert copy.read_text() == before


@pytest.mark.parametrize(
    ("old", "new", "output"),
    [
        (
            Image("d", "2026-01-01", 1000000, {}, {}),
            Image("e", "2026-02-01", 2000000, {}, {}),
            ["created 2026-01-01 -> 2026-02-01", "size 1.0 MB -> 2.0 MB"],
        ),
        (
            Image("d", "c", 0, {"v": "1"}, {"a": "1", "b": "1"}),
            Image("e", "c", 0, {"v": "2"}, {"b": "2", "c": "1"}),
            [
                "created c -> c",
                "size 0.0 MB -> 0.0 MB",
                "label v 1 -> 2",
                "package a 1 -> -",
                "package b 1 -> 2",
                "package c - -> 1",
            ],
        ),
    ],
)
def test_changed_packages_are_shown(old: Image, new: Image, output: list[str]) -> None:
    assert changes(old, new) == output


SKIPPED = {"name": "b", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("dependencies", "code", "output"),
    [
        ([SKIPPED], 0, "NOT AUDITED: the advisory service has none of the packages"),
        (
            [{"name": "a", "version": "1", "vulns": []}, SKIPPED],
            0,
            "1 packages audited, nothing known; not audited: b",
        ),
        (
            [{"name": "a", "version": "1", "vulns": [{"id": "X-1", "fix_versions": ["2"]}]}],
            1,
            "a 1: X-1, fixed in 2",
        ),
    ],
)
def test_the_audit_names_packages_it_could_not_check(
    dependencies: list[dict[str, object]], code: int, output: str
) -> None:
    got, lines = verdict({"dependencies": dependencies})
    assert (got, lines[0]) == (code, output)
