"""The examples: generated SDK, type check, preview on the engine; two of them are brought up."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import runpy
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pulumi
import pytest
import yaml

from tests.engine import tree
from tests.engine.conftest import (
    DAEMON_IMAGE,
    GATEWAY_IMAGE,
    PING,
    ROOT,
    free_port,
    make_key,
    passed,
    run,
)
from tests.engine.hosts import agent_with
from tests.unit.conftest import KEY, PRIVATE_KEY

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

    def __init__(self, name: str, folder: Path, path: str) -> None:
        self.folder = folder / name
        self.env = {**ENV, "PATH": path, "PULUMI_BACKEND_URL": f"file://{folder}"}
        shutil.copytree(EXAMPLES / name, self.folder)
        self.replace("Pulumi.yaml", ": ../../package\n", f": {ROOT}/package\n")
        self.sdk = self.folder / "sdks" / "docker-build-machine"

    def replace(self, file: str, old: str, new: str) -> None:
        text = (self.folder / file).read_text()
        assert old in text
        (self.folder / file).write_text(text.replace(old, new))

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

    def init(self, **config: str) -> None:
        """A stack of its own."""
        self.run("pulumi", "--non-interactive", "stack", "init", "example")
        for name, value in {"publicKey": make_key(self.folder / "ada"), **config}.items():
            self.run("pulumi", "config", "set", name, value)

    def pulumi(self, *words: str) -> str:
        return self.run("pulumi", "--non-interactive", *words)


def declares_a_builder(example: Example) -> bool:
    """Whether a preview of a new stack plans the builder of all the examples."""
    example.init()
    steps = json.loads(example.pulumi("preview", "--json"))["steps"]
    assert {step["op"] for step in steps} == {"create"}
    inputs = {step["urn"].split("::")[-1]: step["newState"].get("inputs") for step in steps}
    assert inputs["builder"]["privateNetworks"] == "block"
    assert inputs["builder"]["cacheSize"] == "20GB"
    assert inputs["builder"]["keys"][0]["until"] == "2030-12-31"
    return "builder-readiness" in inputs


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, path: str) -> Path:
    """A folder with packages that only the examples in Python import.

    In the tests' own environment a provider's package would make every `pulumi up` of this program
    fetch its plugin.
    """
    example = Example("python", tmp_path_factory.mktemp("sdk"), path)
    example.generate("python")
    site = example.folder / "site"
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    wanted = (EXAMPLES / "hetzner" / "requirements.txt").read_text().split()
    clouds = [line for line in wanted if line.startswith(("pulumi-hcloud=", "pulumi-tls="))]
    assert len(clouds) == 2
    example.run(*pip, "--no-deps", "--target", str(site), str(example.sdk), *clouds)
    return site


@pytest.fixture
def new_example(tmp_path: Path, path: str, site: Path) -> Callable[[str], Example]:
    """Copies examples in Python; their types fit the SDK."""

    def new(name: str) -> Example:
        example = Example(name, tmp_path, path)
        example.env["PYTHONPATH"] = str(site)
        mypy = ("mypy", "--strict", "--follow-imports=silent", "__main__.py")
        example.run(*mypy, MYPYPATH=str(site))
        return example

    return new


NewExample = Callable[[str], Example]


def test_python(new_example: NewExample) -> None:
    example = new_example("python")
    assert declares_a_builder(example)


def node_modules(example: Example) -> Path:
    """The npm packages of the example, installed once for these versions."""
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
    assert declares_a_builder(example)


def test_go(tmp_path: Path, path: str) -> None:
    example = Example("go", tmp_path, path)
    example.generate("go")
    example.run("go", "mod", "tidy")
    example.run("go", "vet", ".")
    assert declares_a_builder(example)


class Cloud(pulumi.runtime.Mocks):
    """Hetzner Cloud with one server, and a provider of keys."""

    def __init__(self) -> None:
        self.inputs: dict[str, Any] = {}

    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str, dict[str, Any]]:
        self.inputs[args.name] = args.inputs
        report = {
            "server": {"ipv4Address": "192.0.2.7"},
            "host-key": {"privateKeyOpenssh": PRIVATE_KEY, "publicKeyOpenssh": f"{KEY}\n"},
        }
        return f"{args.name}-id", {**args.inputs, **report.get(args.name, {})}

    def call(self, args: pulumi.runtime.MockCallArgs) -> Any:
        raise AssertionError(args.token)


@pytest.fixture
def event_loop() -> Iterator[None]:
    """The thread's own loop, which Pulumi's decorator needs and an earlier asyncio.run removes."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()


@pytest.mark.usefixtures("event_loop")
def test_a_cloud_server_and_its_builder_in_one_program(
    new_example: NewExample, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = new_example("hetzner")
    monkeypatch.syspath_prepend(str(site))
    cloud = Cloud()
    pulumi.runtime.set_mocks(cloud, project="our-server")
    settings = {"serverType": "cpx31", "location": "nbg1", "operatorKey": KEY, "publicKey": KEY}
    pulumi.runtime.set_all_config({f"our-server:{name}": v for name, v in settings.items()})

    @pulumi.runtime.test
    def declare() -> None:
        runpy.run_path(str(example.folder / "__main__.py"))

    declare()
    builder = cloud.inputs["builder"]
    assert builder["host"] == "ssh://root@192.0.2.7"
    assert builder["hostKey"] == KEY
    first, _, user_data = cloud.inputs["server"]["userData"].partition("\n")
    assert first == "#cloud-config"
    assert json.loads(user_data)["ssh_keys"] == {"ed25519_private": PRIVATE_KEY}
    assert json.loads(user_data)["packages"] == ["docker.io"]
    assert cloud.inputs["installed"]["environment"] == {"ADDRESS": "192.0.2.7", "HOST_KEY": KEY}


def test_pulumi_package_add_and_install(tmp_path: Path, path: str) -> None:
    """From a clone in a folder: an address of git is one of a server with HTTPS."""
    clone, program = tmp_path / "clone", tmp_path / "program"
    tree.copy_to(clone)
    venv = clone / ".venv"
    passed(run(sys.executable, "-m", "venv", "--without-pip", str(venv)))
    (sites,) = venv.glob("lib/python*/site-packages")
    (sites / "tests.pth").write_text(sysconfig.get_path("purelib"))
    program.mkdir()
    (program / "main.go").write_text((EXAMPLES / "go" / "main.go").read_text())
    project = yaml.safe_load((EXAMPLES / "go" / "Pulumi.yaml").read_text())
    del project["packages"]
    (program / "Pulumi.yaml").write_text(yaml.safe_dump(project))
    sdk = "github.com/pulumi/pulumi/sdk/v3"
    version = re.search(rf"{sdk} (v\S+)", (EXAMPLES / "go" / "go.mod").read_text())
    assert version
    (program / "go.mod").write_text(f"module p\n\ngo 1.25\n\nrequire {sdk} {version[1]}\n")
    env = {**ENV, "PATH": path}
    for plugin, number in (("docker", "5.2.0"), ("command", "1.2.1")):
        if stand_in := shutil.which(f"pulumi-resource-{plugin}"):
            env["PULUMI_HOME"] = str(tmp_path / "home")
            words = ("pulumi", "plugin", "install", "resource", plugin, number, "--file", stand_in)
            passed(run(*words, env=env))
    add = ("pulumi", "--non-interactive", "package", "add", "../clone/package")
    passed(run(*add, cwd=program, env=env))
    project = yaml.safe_load((program / "Pulumi.yaml").read_text())
    assert project["packages"] == {"docker-build-machine": "../clone/package"}
    passed(run("go", "vet", ".", cwd=program, env=env))
    # Whoever clones the program has no sdks/.
    shutil.rmtree(program / "sdks")
    install = ("pulumi", "--non-interactive", "install")
    result = run(*install, cwd=program, env=env)
    # Pulumi ends language hosts, and takes one that has just ended by itself for an error.
    if "os: process already finished" in result.stdout + result.stderr:
        result = run(*install, cwd=program, env=env)
    passed(result)
    passed(run("go", "vet", ".", cwd=program, env=env))


# Examples that bring builders up ------------------------------------------------------------------


def test_a_machine_and_its_builder_in_one_program(tmp_path: Path, new_example: NewExample) -> None:
    example = new_example("machine")
    images = f'daemon_image="{DAEMON_IMAGE}", gateway_image="{GATEWAY_IMAGE}"'
    options = f'{images}, cache_size="5GB", keep_cache=False, ssh_port={free_port()}, '
    example.replace("__main__.py", "    keys=", f"    {options}keys=")
    operator = make_key(tmp_path / "operator")
    example.init(operatorKey=operator, port=str(free_port()))
    with agent_with(tmp_path / "operator", tmp_path) as agent:
        example.env["SSH_AUTH_SOCK"] = agent
        # Nothing of the machine is there, and all is planned.
        assert "builder-readiness" in example.pulumi("preview")
        try:
            example.pulumi("up", "--yes", "--skip-preview")
            config = tmp_path / "ssh_config"
            config.write_text(
                f"IdentityFile {example.folder}/ada\nIdentitiesOnly yes\n"
                + example.pulumi("stack", "output", "sshConfig")
            )
            ssh = ("ssh", "-F", str(config), "-S", "none", "example-builder")
            assert "200 OK" in passed(run(*ssh, input=PING))
        finally:
            example.pulumi("destroy", "--yes", "--skip-preview")
    assert not (example.folder / "sshd" / "pid").exists()


def test_a_builder_for_each_team_of_a_list(tmp_path: Path) -> None:
    teams: dict[str, Any] = {
        team: {
            "sshAddress": "127.0.0.1",
            "sshPort": free_port(),
            "keys": [{"name": "ada", "publicKey": make_key(tmp_path / team)}],
            "daemonImage": DAEMON_IMAGE,
            "gatewayImage": GATEWAY_IMAGE,
            "cacheSize": "5GB",
            "keepCache": False,
        }
        for team in ("web", "data")
    }
    (tmp_path / "teams.yaml").write_text(yaml.safe_dump(teams))
    (tmp_path / "backend").mkdir()
    env = {**ENV, "PULUMI_BACKEND_URL": f"file://{tmp_path}/backend"}
    example = (sys.executable, str(EXAMPLES / "teams.py"), str(tmp_path / "teams.yaml"))
    try:
        report = passed(run(*example, env=env))
        for team, other in (("web", "data"), ("data", "web")):
            port = teams[team]["sshPort"]
            assert f"{team}: DOCKER_HOST=ssh://builder@127.0.0.1:{port}\n" in report
            outputs = passed(
                run("pulumi", "stack", "output", "--json", "-s", team, cwd=tmp_path, env=env)
            )
            config = tmp_path / f"{team}.config"
            config.write_text(f"IdentitiesOnly yes\n{json.loads(outputs)['sshConfig']}")
            ssh = ("ssh", "-F", str(config), "-S", "none", "-o", "BatchMode=yes")
            builder = f"{team}-builder"
            assert "200 OK" in passed(run(*ssh, "-i", str(tmp_path / team), builder, input=PING))
            assert run(*ssh, "-i", str(tmp_path / other), builder, input=PING).returncode != 0
    finally:
        passed(run(*example, "destroy", env=env))
    left = "label=docker-build-machine.owner=teams/web/builder"
    assert not passed(run("docker", "ps", "--all", "--quiet", "--filter", left))
