"""The stand-in plugins on the real engine: what they refuse, replace, update and do not change."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from tests.engine.conftest import BASE_IMAGE, ROOT, Result, passed, run

PREAMBLE = "import pulumi, pulumi_docker as docker, pulumi_command as command\n"


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the stand-ins."""
    folder = tmp_path_factory.mktemp("plugins")
    passed(run(str(ROOT / "offline" / "plugins" / "install"), str(folder)))
    return folder


@pytest.fixture
def up(tmp_path: Path, plugins: Path) -> Iterator[Callable[[str], Result]]:
    """Run `pulumi up` for a program's text on the stand-ins; destroy the stack afterwards."""
    (tmp_path / "backend").mkdir()
    (tmp_path / "Pulumi.yaml").write_text("name: plugins\nruntime: python\n")
    env = {
        "PATH": f"{plugins}:{os.environ['PATH']}",
        "PULUMI_BACKEND_URL": f"file://{tmp_path}/backend",
        "PULUMI_CONFIG_PASSPHRASE": "only for tests",
    }

    def pulumi(*arguments: str) -> Result:
        return run("pulumi", "--non-interactive", *arguments, env=env, cwd=tmp_path)

    passed(pulumi("stack", "init", "test"))

    def up(program: str, *options: str) -> Result:
        (tmp_path / "__main__.py").write_text(PREAMBLE + program)
        return pulumi("up", "--yes", "--skip-preview", *options)

    yield up
    passed(pulumi("destroy", "--yes", "--skip-preview"))


def test_a_plugin_ends_after_its_engine_has_gone(plugins: Path) -> None:
    """Like official ones: an engine that is killed cannot end its plugins."""
    engine = grpc.server(ThreadPoolExecutor(1))
    address = f"127.0.0.1:{engine.add_insecure_port('127.0.0.1:0')}"
    engine.start()
    with ExitStack() as stack:
        stack.callback(engine.stop, None)
        started = []
        for name in ("docker", "command"):
            plugin = [str(plugins / f"pulumi-resource-{name}"), address]
            started.append(stack.enter_context(subprocess.Popen(plugin, stdout=subprocess.PIPE)))
            stack.callback(started[-1].kill)
        for process in started:
            assert process.stdout is not None
            assert int(process.stdout.readline()) > 0
        with pytest.raises(subprocess.TimeoutExpired):
            started[0].wait(5)
        assert started[1].poll() is None
        engine.stop(None)
        assert [process.wait(30) for process in started] == [0, 0]


def test_an_uncovered_type_is_refused_by_name(up: Callable[..., Result]) -> None:
    result = up("docker.Tag('t', source_image='a', target_image='b')")
    assert result.returncode != 0
    assert "docker:index/tag:Tag is not covered by this stand-in plugin" in result.stdout


def test_an_unknown_input_is_refused_by_name(up: Callable[..., Result]) -> None:
    result = up("docker.Network('n', ipv6=True)")
    assert result.returncode != 0
    assert "ipv6 is not an input of docker:index/network:Network" in result.stdout


def test_a_failing_command_shows_its_output(up: Callable[..., Result]) -> None:
    result = up("command.local.Command('c', create='echo broken >&2; exit 3')")
    assert result.returncode != 0
    assert "exit status 3" in result.stdout
    assert "broken" in result.stdout
    assert "Traceback" not in result.stdout


def test_a_command_has_no_defaults_and_its_earlier_output(up: Callable[..., Result]) -> None:
    """pulumi-command 1.2.1 takes a missing addPreviousOutputInEnv for true and leaves it out."""
    passed(up("command.local.Command('c', create='echo one')"))
    output = passed(
        up(
            "c = command.local.Command('c', create='echo after $PULUMI_COMMAND_STDOUT')\n"
            "pulumi.export('both', pulumi.Output.format("
            "'{0}, {1}', c.stdout, c.add_previous_output_in_env.apply(str)))"
        )
    )
    assert "after one, None" in output


def test_containers_settle_replace_and_update_as_upstream_does(up: Callable[..., Result]) -> None:
    name = f"plugins-{secrets.token_hex(3)}"

    def program(**changes: str) -> str:
        inputs = {
            "name": repr(name),
            "image": repr(BASE_IMAGE),
            "command": "['sleep', '600']",
            "envs": "['A=1', 'B=2']",
            "uploads": "[docker.ContainerUploadArgs(file='/etc/up', content='loaded')]",
            "network_mode": "'none'",
            **changes,
        }
        text = ", ".join(f"{key}={value}" for key, value in inputs.items())
        return f"docker.Container('c', {text})"

    assert "2 created" in passed(up(program()))
    assert passed(run("docker", "exec", name, "cat", "/etc/up")) == "loaded"
    # A set in another order is equal.
    assert "2 unchanged" in passed(up(program(envs="['B=2', 'A=1']"), "--expect-no-changes"))
    identity = passed(run("docker", "inspect", "--format", "{{.Id}}", name))
    assert "1 updated" in passed(up(program(restart="'always'")))
    assert passed(run("docker", "inspect", "--format", "{{.Id}}", name)) == identity
    assert "+-1 replaced" in passed(up(program(restart="'always'", envs="['A=2']")))
    assert passed(run("docker", "inspect", "--format", "{{.Id}}", name)) != identity
    # The program must avoid this: the provider never reads the value back, so it always replaces.
    trap = program(security_opts="['systempaths=unconfined']")
    passed(up(trap))
    assert "+-1 replaced" in passed(up(trap))


def test_a_container_that_cannot_start_leaves_nothing(up: Callable[..., Result]) -> None:
    name = f"plugins-{secrets.token_hex(3)}"
    result = up(
        f"docker.Container('c', name={name!r}, image={BASE_IMAGE!r}, command=['/no/such/program'])"
    )
    assert result.returncode != 0
    assert "Unable to start container" in result.stdout
    assert run("docker", "inspect", name).returncode != 0
