"""The table of known holes in images, and what warns of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import pulumi
import pytest
import yaml

from components.advisories import (
    CHECKED,
    COMPONENTS,
    MOST_AGE,
    Advisory,
    holes,
    numbers,
    release_of,
    warnings,
)
from scripts import image_audit
from tests.unit.conftest import ROOT, Run
from tests.unit.test_fleet import HOSTS

DIGEST = "@sha256:" + "0123456789abcdef" * 4
DEFAULTS = {
    name: about["default"]
    for name, about in yaml.safe_load((ROOT / "Pulumi.yaml").read_text())["config"].items()
    if name in COMPONENTS
}


def test_no_default_has_a_known_hole() -> None:
    """Whoever adds an advisory to the table has to raise the default as well."""
    assert set(DEFAULTS) == set(COMPONENTS)
    for setting, reference in DEFAULTS.items():
        assert release_of(setting, reference), f"nothing is known of the default of {setting}"
        assert holes(setting, reference) == [], setting


def test_the_table_is_in_order() -> None:
    for component in COMPONENTS.values():
        for advisory in component.advisories:
            assert re.fullmatch(r"((CVE-\d{4}-\d{4,6}|GHSA(-\w{4}){3}) ?)+", advisory.ids)
            # A check from before the newest entry would not have seen it.
            assert advisory.published <= CHECKED
            assert list(advisory.fixed) == sorted(advisory.fixed, key=numbers)
            assert advisory.means[-1] != "."
        ids = " ".join(advisory.ids for advisory in component.advisories).split()
        assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("setting", "reference", "release"),
    [
        ("daemonImage", "docker:29.9.3-dind-rootless", "29.9.3"),
        ("daemonImage", f"docker:29.9.3-dind-rootless{DIGEST}", "29.9.3"),
        ("daemonImage", "localhost:5000/mirror/docker:27.1-dind-rootless", "27.1"),
        ("daemonImage", "docker:29-dind-rootless", None),
        ("daemonImage", "docker:dind-rootless", None),
        ("daemonImage", f"docker{DIGEST}", None),
        ("daemonImage", "acme/our-docker:1.0", None),
        ("gatewayImage", "lscr.io/linuxserver/openssh-server:9.9_p1-r2-ls195", "9.9_p1"),
        ("gatewayImage", "localhost/openssh-server:10.6p1", "10.6p1"),
        ("gatewayImage", "linuxserver/openssh-server:amd64-latest", None),
        ("buildkitImage", "moby/buildkit:v0.34.2-rootless", "0.34.2"),
        ("buildkitImage", "moby/buildkit:buildx-stable-1", None),
        ("registryImage", "registry:2.8.3", "2.8.3"),
    ],
)
def test_the_release_is_the_one_that_the_tag_names(
    setting: str, reference: str, release: str | None
) -> None:
    assert release_of(setting, reference) == release
    if release is None:
        assert holes(setting, reference) == []
        assert list(warnings({setting: reference})) == []


@pytest.mark.parametrize(
    ("release", "affected", "fix"),
    [
        ("24.0.8", True, "24.0.9"),
        ("24.0.9", False, ""),
        ("24.0.10", False, ""),
        ("25.0.1", True, "25.0.2"),
        ("25.0.2", False, ""),
        ("29.0.0", False, ""),
        ("23.0.9", True, "24.0.9"),
    ],
)
def test_a_branch_has_a_fix_of_its_own(release: str, affected: bool, fix: str) -> None:
    advisory = Advisory("CVE-2024-1", ("24.0.9", "25.0.2"), date(2024, 1, 31), "something")
    assert advisory.affects(numbers(release)) == affected
    if affected:
        assert advisory.fix_for(numbers(release)) == fix


def test_the_numbers_of_openssh_count_its_patches() -> None:
    assert numbers("9.9_p1") < numbers("9.9p2") < numbers("10.3_p1")


def test_a_warning_names_the_advisories_and_the_first_release_without_them() -> None:
    (warning,) = warnings({"buildkitImage": "moby/buildkit:v0.28.0", "daemonImage": "docker:99.0"})
    assert "buildkitImage = moby/buildkit:v0.28.0" in warning
    assert "CVE-2026-33747 CVE-2026-33748 (until 0.28.1)" in warning
    assert "CVE-2025-31133" not in warning
    assert "BuildKit 0.34.2 has none of them" in warning


@pytest.mark.parametrize(
    ("settings", "setting", "advisory"),
    [
        ({"daemonImage": "docker:27.1.1-dind-rootless"}, "daemonImage", "CVE-2025-31133"),
        ({"gatewayImage": "a/openssh-server:9.7_p1-r4-ls1"}, "gatewayImage", "CVE-2024-6387"),
        (
            {"host": None, "hosts": HOSTS[:1], "buildkitImage": "moby/buildkit:v0.28.1"},
            "buildkitImage",
            "CVE-2026-15788",
        ),
        (
            {"registry": {"name": "10.0.0.5"}, "registryImage": "registry:3.0.0"},
            "registryImage",
            "CVE-2026-33540",
        ),
    ],
)
def test_a_preview_and_an_update_warn_of_an_image(
    run_program: Callable[..., Run],
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, object],
    setting: str,
    advisory: str,
) -> None:
    warned: list[str] = []
    monkeypatch.setattr(pulumi.log, "warn", lambda text, *_, **__: warned.append(text))
    run_program()
    assert warned == []
    run_program(**settings)
    assert [setting in text and advisory in text for text in warned] == [True]


def audit(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = image_audit.main(str(folder))
    return code, capsys.readouterr().out


def test_the_audit_lists_the_holes_in_each_stacks_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_audit, "staleness", lambda _: "")
    (tmp_path / "Pulumi.yaml").write_text((ROOT / "Pulumi.yaml").read_text())
    code, output = audit(tmp_path, capsys)
    assert code == 0, output
    assert f"known holes as of {CHECKED}" in output
    assert all(f"{setting} = {reference}" in output for setting, reference in DEFAULTS.items())

    (tmp_path / "Pulumi.web.yaml").write_text(
        "config:\n  docker-build-machine:daemonImage: docker:24.0.9-dind-rootless\n"
    )
    code, output = audit(tmp_path, capsys)
    assert code == 1
    assert "    CVE-2024-23650 CVE-2024-23651" in output
    assert "CVE-2024-21626" not in output
    assert "next: give daemonImage a newer image in Pulumi.web.yaml" in output

    (tmp_path / "Pulumi.web.yaml").write_text(
        f"config:\n  docker-build-machine:daemonImage: docker{DIGEST}\n"
    )
    code, output = audit(tmp_path, capsys)
    assert code == 0
    assert "unknown, because it names no release of Docker Engine" in output


def test_an_old_table_is_a_warning_and_with_fresh_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert image_audit.staleness(CHECKED + MOST_AGE) == ""
    assert "for 91 days" in image_audit.staleness(CHECKED + MOST_AGE + timedelta(days=1))
    monkeypatch.setattr(image_audit, "staleness", lambda _: "OLD TABLE")
    monkeypatch.delenv("FRESH", raising=False)
    assert audit(tmp_path, capsys)[0] == 0
    monkeypatch.setenv("FRESH", "yes")
    code, output = audit(tmp_path, capsys)
    assert (code, output.splitlines()[-1]) == (1, "OLD TABLE")
