"""The examples in Python, TypeScript and Go: generated SDK, type check, preview on the engine."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.engine.conftest import ROOT, make_key, passed, run

EXAMPLES = ROOT / "examples"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "docker-build-machine"
ENV = {
    "PULUMI_CONFIG_PASSPHRASE": "only for tests",
    # The plugins on PATH are none that the engine would count as installed.
    "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
    "GOTOOLCHAIN": "auto",
    "GOFLAGS": "-buildvcs=false",
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """PATH with a language host for each example."""
    if shutil.which("pulumi-language-go") and shutil.which("pulumi-language-nodejs"):
        return os.environ["PATH"]
    hosts = tmp_path_factory.mktemp("hosts")
    passed(run(str(ROOT / "offline" / "pulumi" / "languages" / "build"), str(hosts), seconds=900))
    return f"{hosts}:{os.environ['PATH']}"


class Example:
    """A copy of an example with the SDK that `pulumi package add` would generate."""

    def __init__(self, language: str, folder: Path, path: str) -> None:
        self.folder = folder / language
        self.env = {**ENV, "PATH": path, "PULUMI_BACKEND_URL": f"file://{folder}"}
        shutil.copytree(EXAMPLES / language, self.folder)
        project = self.folder / "Pulumi.yaml"
        text = project.read_text()
        assert "docker-build-machine: ../../package\n" in text
        project.write_text(text.replace("../../package", str(ROOT / "package")))
        self.sdk = self.folder / "sdks" / "docker-build-machine"

    def run(self, *command: str, **env: str) -> str:
        return passed(run(*command, cwd=self.folder, env={**self.env, **env}))

    def generate(self, language: str) -> None:
        """The SDK, by the CLI."""
        plugin = self.folder / "pulumi-resource-docker-build-machine"
        plugin.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{ROOT}/package" "$@"\n')
        plugin.chmod(0o755)
        schema = self.folder / "schema.json"
        schema.write_text(self.run("pulumi", "package", "get-schema", str(plugin)))
        generators = Path(self.env["PATH"].split(":")[0]) / "generators"
        out = self.folder / "sdks"
        words = ("pulumi", "package", "gen-sdk", str(schema), "--local", "--language", language)
        self.run(*words, "--out", str(out), PATH=f"{generators}:{self.env['PATH']}")
        (out / language).rename(self.sdk)

    def preview(self, **env: str) -> str:
        self.run("pulumi", "--non-interactive", "stack", "init", "example")
        self.run("pulumi", "config", "set", "publicKey", make_key(self.folder / "ada"))
        shown = self.run("pulumi", "--non-interactive", "preview", "--json", **env)
        steps = json.loads(shown)["steps"]
        assert {step["op"] for step in steps} == {"create"}
        (inputs,) = (s["newState"]["inputs"] for s in steps if s["urn"].endswith("::builder"))
        assert inputs["privateNetworks"] == "block"
        assert inputs["cacheSize"] == "20GB"
        assert inputs["keys"][0]["until"] == "2030-12-31"
        return shown


def test_python(tmp_path: Path, path: str) -> None:
    example = Example("python", tmp_path, path)
    example.generate("python")
    # Beside what the tests run with.
    site = tmp_path / "site"
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    example.run(*pip, "--no-deps", "--target", str(site), str(example.sdk))
    example.run("mypy", "--strict", "--follow-imports=silent", "__main__.py", MYPYPATH=str(site))
    assert "builder-readiness" in example.preview(PYTHONPATH=str(site))


def node_modules(example: Example) -> Path:
    """What the example needs of npm, installed once for these versions."""
    package = json.loads((example.folder / "package.json").read_text())
    del package["dependencies"]["@pulumi/docker-build-machine"]
    text = json.dumps(package)
    folder = CACHE / f"node-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        part = CACHE / f"{folder.name}.{os.getpid()}"
        part.mkdir()
        (part / "package.json").write_text(text)
        words = ("npm", "install", "--no-audit", "--no-fund", "--ignore-scripts")
        example.run(*words, "--prefix", str(part))
        part.rename(folder)
    return folder / "node_modules"


def test_typescript(tmp_path: Path, path: str) -> None:
    example = Example("typescript", tmp_path, path)
    example.generate("nodejs")
    # As npm would lay it out, with links into the cache.
    own = example.folder / "node_modules"
    (own / "@pulumi").mkdir(parents=True)
    for module in node_modules(example).iterdir():
        if module.name != "@pulumi":
            (own / module.name).symlink_to(module)
    for module in (node_modules(example) / "@pulumi").iterdir():
        (own / "@pulumi" / module.name).symlink_to(module)
    (own / "@pulumi" / "docker-build-machine").symlink_to(example.sdk)
    tsc = str(own / ".bin" / "tsc")
    example.run(tsc, "--project", str(example.sdk), "--types", "node")
    shutil.copy(example.sdk / "package.json", example.sdk / "bin")
    example.run(tsc, "--project", ".")
    assert "builder-readiness" in example.preview()


def test_go(tmp_path: Path, path: str) -> None:
    example = Example("go", tmp_path, path)
    example.generate("go")
    example.run("go", "mod", "tidy")
    example.run("go", "vet", ".")
    assert "builder-readiness" in example.preview()
