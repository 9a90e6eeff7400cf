"""The registry's stand-in image keeps the contract of registry:3, point by point.

The contract is taken from distribution/distribution-library-image (a829ed8). Before you change the
default `registryImage`, read it again.
"""

from __future__ import annotations

import json

import yaml

from tests.engine.conftest import REGISTRY_IMAGE, ROOT, passed, run, run_in_image

# What store.sh and the health check run.
BUSYBOX = (
    "awk",
    "cat",
    "cut",
    "date",
    "du",
    "find",
    "grep",
    "head",
    "mkfifo",
    "mv",
    "rm",
    "sed",
    "sh",
    "sleep",
    "sort",
    "stat",
    "wc",
    "wget",
    "xargs",
)


def shell(script: str) -> str:
    return passed(run_in_image(REGISTRY_IMAGE, "-c", script, options=["--entrypoint=sh"]))


def test_the_images_configuration() -> None:
    image = json.loads(passed(run("docker", "image", "inspect", REGISTRY_IMAGE)))[0]["Config"]
    assert image["Entrypoint"] == ["/entrypoint.sh"]
    assert image["Cmd"] == ["/etc/distribution/config.yml"]
    assert set(image["Volumes"]) == {"/var/lib/registry"}
    assert "5000/tcp" in image["ExposedPorts"]
    assert image["User"] in ("", "root")
    assert "OTEL_TRACES_EXPORTER=none" in image["Env"]


def test_it_is_the_release_of_the_default_image() -> None:
    settings = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())["config"]
    release = settings["registryImage"]["default"].rpartition(":")[2]
    version = passed(run_in_image(REGISTRY_IMAGE, "--version"))
    assert version.split()[-1].removeprefix("v") == release


def test_the_scripts_run_busybox() -> None:
    found = shell(f'for name in {" ".join(BUSYBOX)}; do readlink -f "$(command -v $name)"; done')
    assert {path.rpartition("/")[2] for path in found.split()} == {"busybox"}
    assert shell("command -v registry") == "/bin/registry\n"


def test_the_entrypoint_passes_files_and_commands_to_the_registry() -> None:
    assert "Usage:" in passed(run_in_image(REGISTRY_IMAGE, "help"))
    assert run_in_image(REGISTRY_IMAGE, "echo", "run").stdout == "run\n"
    wrong = run_in_image(REGISTRY_IMAGE, "/missing.yml")
    assert "/missing.yml" in wrong.stdout + wrong.stderr
