"""The client kit on a clean machine: setup, the forwarded socket, and complete removal."""

from __future__ import annotations

import itertools
import json
import os
import re
import secrets
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from bench.client import put_ssh
from tests.engine.conftest import (
    BASE_IMAGE,
    ROOT,
    Builder,
    free_port,
    passed,
    run,
    take_from_image,
    until,
)
from tests.engine.figures import LONG, record
from tests.engine.laptop import Laptop, write_kit

CONTEXT = "docker context ls --format '{{if .Current}}{{.Name}} {{.DockerEndpoint}}{{end}}'"
DOCKERFILE = f"FROM {BASE_IMAGE}\nRUN echo built >/built\n"
ROLES = ("daemon", "gateway", "janitor")
BUILD = "docker build --progress=plain - 2>&1"


@pytest.fixture(scope="module")
def kit(builder: Builder) -> Path:
    return write_kit(builder)


@pytest.fixture(scope="module")
def laptop(builder: Builder) -> Iterator[Laptop]:
    """A laptop with the kit installed."""
    with Laptop.with_kit(builder) as ready:
        yield ready


def current(laptop: Laptop) -> str:
    return passed(laptop.sh(CONTEXT)).strip()


def fast(laptop: Laptop) -> str:
    return f"{laptop.alias} unix:///home/rootless/.builder/{laptop.alias}/docker.sock"


def plain(laptop: Laptop) -> str:
    return f"{laptop.alias} ssh://{laptop.alias}"


def is_fast(laptop: Laptop) -> bool:
    return current(laptop) == fast(laptop) and laptop.sh("docker version").returncode == 0


def logins(builder: Builder) -> int:
    return sum(" login " in line for line in builder.audit())


def processes(laptop: Laptop, word: str) -> list[str]:
    """The pids on the laptop whose command line contains the word."""
    listed = passed(run("docker", "top", laptop.name, "-eo", "pid,args")).splitlines()
    return [line.split()[0] for line in listed if word in line]


@contextmanager
def ssh_config(laptop: Laptop, change: str) -> Iterator[None]:
    """Change the Host block with a sed script; no connection is open when the block begins."""
    end = f"~/.builder/builder off; ssh -O exit {laptop.alias}"
    laptop.sh(end)
    with laptop.edited("ssh_config", change):
        try:
            yield
        finally:
            laptop.sh(end)


def test_a_kit_holds_no_private_key_and_is_one_folder_or_one_tar(
    builder: Builder, kit: Path, tmp_path: Path
) -> None:
    files = {str(path.relative_to(kit)) for path in kit.rglob("*") if path.is_file()}
    folder = builder.alias
    assert files == {
        "README.md",
        "ahead.py",
        "builder",
        "connection.sh",
        "doctor.sh",
        "setup.sh",
        f"{folder}/key.pub",
        f"{folder}/known_hosts",
        f"{folder}/ssh_config",
    }
    assert not any("-----BEGIN" in (kit / file).read_text() for file in files)
    archive = write_kit(builder, out=tmp_path / "ada.tar")
    passed(run("tar", "-xf", str(archive), "-C", str(tmp_path)))
    assert all((kit / f).read_bytes() == (tmp_path / "ada" / f).read_bytes() for f in files)


def test_a_key_that_the_stack_does_not_have_gets_no_kit(builder: Builder) -> None:
    refused = builder.client("kit", "--key", "eve")
    assert refused.returncode == 1
    assert "--key eve: this stack has no such key; allowed: ada" in refused.stderr


def test_plain_ssh_works_after_install_alone(builder: Builder, laptop: Laptop) -> None:
    assert current(laptop).startswith("default ")
    passed(laptop.sh(f"DOCKER_HOST=ssh://{builder.alias} docker version"))
    passed(laptop.sh(f"docker --context {builder.alias} version"))


def test_on_forwards_the_socket_and_builds_use_it(builder: Builder, laptop: Laptop) -> None:
    assert passed(laptop.builder("on")) == ""
    assert current(laptop) == fast(laptop)
    passed(laptop.sh(BUILD, input=DOCKERFILE))
    before = logins(builder)
    assert "CACHED" in passed(laptop.sh(BUILD, input=DOCKERFILE))
    again = laptop.builder("on")
    assert "the socket is forwarded" in again.stderr
    assert logins(builder) == before, "the connection that lives is used again"
    assert f"Name:          {builder.alias}\nDriver:        docker\n" in passed(
        laptop.sh("docker buildx inspect")
    )
    assert until(lambda: len(processes(laptop, "builder watch")) == 1)


def test_key_exchange_is_a_fast_one(builder: Builder, laptop: Laptop) -> None:
    log = laptop.sh(f"ssh -v -S none -o BatchMode=yes {builder.alias} </dev/null").stderr
    assert "kex: algorithm: mlkem768x25519-sha256" in log or "kex: algorithm: curve25519" in log


def test_env_is_for_tools_that_know_no_context(builder: Builder, laptop: Laptop) -> None:
    script = (
        'eval "$(~/.builder/builder env 2>/dev/null)" && echo "$DOCKER_HOST" && docker info -f x'
    )
    assert passed(laptop.sh(script)).startswith(fast(laptop).split()[1])
    hidden = laptop.builder("on", before="DOCKER_HOST=unix:///elsewhere")
    expected = "DOCKER_HOST=unix:///elsewhere DOCKER_CONTEXT= in this shell override that"
    assert expected in hidden.stderr


def test_a_dropped_connection_is_restored(builder: Builder, laptop: Laptop) -> None:
    passed(laptop.builder("on"))
    before = logins(builder)
    passed(builder.inside("gateway", "pkill", "-f", "^sshd-session"))
    assert until(lambda: logins(builder) > before)
    assert until(lambda: is_fast(laptop), 10)


def test_during_a_restart_of_the_gateway_docker_uses_plain_ssh(
    builder: Builder, laptop: Laptop
) -> None:
    passed(laptop.builder("on"))
    passed(run("docker", "stop", builder.container("gateway")))
    assert until(lambda: current(laptop) == plain(laptop), 10)
    passed(run("docker", "start", builder.container("gateway")))
    assert until(lambda: is_fast(laptop), 30)
    assert len(processes(laptop, "builder watch")) == 1


def test_a_network_that_drops_all_packets_is_noticed(builder: Builder, laptop: Laptop) -> None:
    gateway = builder.container("gateway")
    with ssh_config(laptop, "s/ServerAliveInterval 10/ServerAliveInterval 1/"):
        passed(laptop.builder("on"))
        passed(run("docker", "pause", gateway))
        try:
            assert until(lambda: current(laptop) == plain(laptop), 30)
        finally:
            passed(run("docker", "unpause", gateway))
        assert until(lambda: is_fast(laptop), 30)


def test_on_works_after_a_crash(builder: Builder, laptop: Laptop) -> None:
    passed(laptop.builder("on"))
    for word in ("builder watch", "-fNT"):
        passed(run("kill", "-9", *processes(laptop, word)))
    assert laptop.sh("docker version").returncode != 0
    passed(laptop.builder("on"))
    assert is_fast(laptop)


def test_off_restores_the_context_and_a_running_build_succeeds(
    builder: Builder, laptop: Laptop
) -> None:
    passed(laptop.builder("on"))
    token = secrets.token_hex(4)
    dockerfile = f"FROM {BASE_IMAGE}\nRUN sleep 8; echo {token} >/slow\n"
    passed(laptop.sh("cat >~/slow", input=dockerfile))
    build = "(docker build - <~/slow >~/slow.log 2>&1; echo $? >~/slow.rc) &"
    passed(laptop.sh(f"rm -f ~/slow.rc; {build} :"))
    top = ("docker", "top", builder.container("daemon"), "-eo", "pid,args")
    assert until(lambda: token in run(*top).stdout)
    passed(laptop.builder("off"))
    assert current(laptop).startswith("default ")
    assert until(lambda: not processes(laptop, "builder watch"))
    assert until(lambda: laptop.sh("cat ~/slow.rc").stdout.strip(), 30)
    assert laptop.sh("cat ~/slow.rc").stdout.strip() == "0", laptop.sh("cat ~/slow.log").stdout
    assert laptop.sh("ls ~/.builder/*/docker.sock").returncode != 0


@contextmanager
def silent_host() -> Iterator[tuple[int, threading.Event]]:
    """A port that claims to be sshd and then is silent; the event is set when a client connects."""
    came, connections = threading.Event(), []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connections.append(server.accept()[0])
                    connections[-1].sendall(b"SSH-2.0-OpenSSH_9.9\r\n")
                    came.set()

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1], came
        server.shutdown(socket.SHUT_RDWR)
    for connection in connections:
        connection.close()


def test_off_ends_the_watch_when_the_host_is_gone(builder: Builder, laptop: Laptop) -> None:
    with silent_host() as (port, came):
        passed(laptop.builder("on"))
        # By default ssh would wait for three minutes.
        change = f"s/Port .*/Port {port}/; s/ServerAliveInterval 10/ServerAliveInterval 60/"
        with laptop.edited("ssh_config", change):
            passed(run("kill", *processes(laptop, "-fNT")))
            assert came.wait(30)
            passed(laptop.builder("off"))
            assert until(lambda: not processes(laptop, "builder watch"), 15)
            assert not processes(laptop, "-fNT")
    assert current(laptop).startswith("default ")


def test_on_says_why_docker_cannot_use_buildkit(builder: Builder, laptop: Laptop) -> None:
    output = laptop.builder("on", before="DOCKER_BUILDKIT=0").stderr
    assert "but DOCKER_BUILDKIT=0 turns BuildKit off in this shell" in output
    with laptop.without(*laptop.buildx_plugins()):
        output = laptop.builder("on").stderr
    assert (
        "cannot use BuildKit without buildx, which is missing; next: install docker-buildx"
        in output
    )
    assert "but " not in laptop.builder("on").stderr


def test_on_quotes_docker_when_it_gets_no_answer(builder: Builder, laptop: Laptop) -> None:
    passed(laptop.builder("off"))
    # A docker CLI with an API version that the daemon refuses.
    script = '#!/bin/sh\nDOCKER_API_VERSION=1.12 exec $(command -v docker) "\\$@"\n'
    passed(
        laptop.sh(f"mkdir -p ~/old; cat <<END >~/old/docker\n{script}END\nchmod 755 ~/old/docker")
    )
    failed = laptop.builder("on", before="PATH=~/old:$PATH")
    assert failed.returncode == 1
    assert "but docker gets no answer: Error response from daemon: client version" in failed.stderr
    passed(laptop.builder("on"))


def test_an_unused_connection_ends_and_leaves_plain_ssh(builder: Builder, laptop: Laptop) -> None:
    with ssh_config(laptop, "s/ControlPersist 2h/ControlPersist 3/"):
        passed(laptop.builder("on"))
        assert until(lambda: not processes(laptop, "builder watch"), 15)
        assert current(laptop) == plain(laptop)
        assert not processes(laptop, "-fNT")
        passed(laptop.sh("docker version"))


@pytest.mark.parametrize("missing", ["nothing", "timeout"], ids=["", "without timeout, as macOS"])
def test_the_kit_runs_with_busybox(
    builder: Builder, laptop: Laptop, tmp_path: Path, missing: str
) -> None:
    busybox = take_from_image(BASE_IMAGE, tmp_path / "busybox", "/bin/busybox")
    laptop.put(busybox, "/home/rootless/busybox")
    passed(
        laptop.sh(
            "rm -rf ~/tools; mkdir ~/tools; cd ~/tools; "
            "for tool in $(~/busybox --list); do ln -s ~/busybox $tool; done; "
            f"ln -sf $(which docker ssh ssh-add ssh-keygen) .; rm -f {missing}"
        )
    )
    for verb in ("on", "doctor", "off"):
        passed(laptop.sh(f"PATH=~/tools sh ~/.builder/builder {verb}"))
        assert (current(laptop) == fast(laptop)) == (verb != "off")


@contextmanager
def on_this_machine(builder: Builder, kit: Path, home: Path) -> Iterator[dict[str, str]]:
    """The kit for another home on this machine, which has Python; its environment."""
    env = {
        "HOME": str(home),
        "PATH": put_ssh(home / "bin", "-F", f"{home}/.ssh/config"),
        "DOCKER_CONFIG": str(home / ".docker"),
    }
    installed = str(home / ".builder" / "builder")
    passed(
        run("sh", str(kit / "builder"), "install", "--identity", f"{builder.folder}/ada", env=env)
    )
    try:
        yield env
    finally:
        passed(run("sh", installed, "uninstall", env=env))


def test_with_python_connections_are_open_ahead(
    builder: Builder, kit: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("h")
    own, behind = (home / ".builder" / builder.alias / f"{name}.sock" for name in ("docker", "ssh"))

    def verb(word: str) -> None:
        # The shared connection keeps standard error open.
        command = ("sh", str(home / ".builder" / "builder"), word)
        assert run(*command, env=env, stderr=subprocess.DEVNULL).returncode == 0

    def running() -> list[str]:
        return run("pgrep", "-f", f"{home}/.builder/ahead.py").stdout.split()

    def answers() -> bool:
        return run("docker", "version", env={**env, "DOCKER_HOST": f"unix://{own}"}).returncode == 0

    with on_this_machine(builder, kit, home) as env:
        verb("on")
        assert until(behind.exists)
        build = ("docker", "build", "--progress=plain", "-")
        passed(run(*build, env=env, input=DOCKERFILE))
        assert "CACHED" in run(*build, env=env, input=DOCKERFILE).stderr

        (home / "Dockerfile").write_text(f"FROM {BASE_IMAGE}\nRUN sleep 6; echo {home} >/slow\n")
        slow = subprocess.Popen(["docker", "build", home], env={**os.environ, **env})
        top = ("docker", "top", builder.container("daemon"), "-eo", "pid,args")
        assert until(lambda: f"echo {home}" in run(*top).stdout)
        first = running()
        verb("on")
        assert until(lambda: set(running()) - set(first)), "the new watch has its own"
        assert answers()
        assert slow.wait(30) == 0, "a build in flight ends well"
        assert until(lambda: len(running()) == 1)

        passed(run("kill", "-9", *running()))
        assert until(lambda: not behind.exists()), "the socket is ssh's again"
        assert answers()

        verb("on")
        assert until(behind.exists)
        first = running()
        passed(builder.inside("gateway", "pkill", "-f", "^sshd-session"))
        assert until(lambda: set(running()) - set(first), 30), "it comes back with the connection"
        assert until(lambda: behind.exists() and answers())

        verb("off")
        assert not own.exists()
        assert not behind.exists()
        assert until(lambda: not running())


def test_the_users_own_ssh_configuration_is_unchanged(builder: Builder, kit: Path) -> None:
    own = "Host *\n  Compression yes\n\t# no newline at the end"
    with Laptop.started(builder, "own") as laptop:
        laptop.put_key(builder)
        prepare = f"printf %s {shlex.quote(own)} >~/dotfiles && ln -s ~/dotfiles ~/.ssh/config"
        passed(laptop.sh(f"{prepare} && chmod 640 ~/dotfiles"))
        state = "ls -A ~; ls -l ~/.ssh; stat -Lc %a ~/.ssh/config; cat ~/.ssh/config"
        before = passed(laptop.sh(state))
        passed(laptop.install(kit))
        passed(laptop.install(kit))
        config = passed(laptop.sh("cat ~/.ssh/config"))
        assert config.endswith(own)
        assert config.count("Include ~/.builder/*/ssh_config\n") == 1
        passed(laptop.sh(f"ssh -G {builder.alias} | grep -q 'compression yes'"))
        passed(laptop.builder("on"))
        passed(laptop.builder("uninstall"))
        laptop.sh("rm -rf ~/kit ~/.docker")
        assert passed(laptop.sh(state)) == before
        assert until(lambda: not processes(laptop, "builder"))
        assert not processes(laptop, "ssh")


def test_the_key_is_found_by_its_fingerprint(builder: Builder, kit: Path) -> None:
    alias = builder.alias
    with Laptop.started(builder, "keys") as laptop:
        missing = laptop.install(kit)
        assert "the private key of SHA256:" in missing.stderr
        assert laptop.builder("on").returncode == 1
        laptop.sh("ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519")
        wrong = laptop.sh("sh ~/kit/builder install --identity ~/.ssh/id_ed25519")
        assert "is another key than the builder knows" in wrong.stderr
        laptop.put(builder.folder / "ada", "/home/rootless/elsewhere")
        # The key is only in the agent; ssh selects it there by the public key in the kit.
        agent = "eval $(ssh-agent -a ~/agent) >/dev/null; ssh-add -q ~/elsewhere; rm ~/elsewhere"
        passed(laptop.sh(agent))
        passed(laptop.builder("on", before="SSH_AUTH_SOCK=~/agent"))
        laptop.sh(f"ssh -O exit {alias}")
        laptop.put(builder.folder / "ada", "/home/rootless/.ssh/under another name")
        passed(laptop.install(kit))
        assert "under another name" in passed(laptop.sh(f"ssh -G {alias} | grep identityfile"))
        passed(laptop.sh(f"DOCKER_HOST=ssh://{alias} docker version"))


def test_the_status_shows_builds_and_logins(
    builder: Builder, laptop: Laptop, tmp_path: Path
) -> None:
    passed(laptop.builder("on"))
    token = secrets.token_hex(4)
    dockerfile = f"FROM {BASE_IMAGE}\nRUN echo {token}\nRUN echo again\n"
    for _ in range(2):
        passed(laptop.sh("docker build -", input=dockerfile))
    assert laptop.sh("docker build -", input=f"FROM {BASE_IMAGE}\nRUN false\n").returncode == 1
    passed(laptop.sh("rm -f ~/stranger*; ssh-keygen -q -t ed25519 -N '' -f ~/stranger"))
    laptop.sh(
        "ssh -F none -i ~/stranger -o BatchMode=yes -o IdentitiesOnly=yes "
        f"-o UserKnownHostsFile=~/.builder/{builder.alias}/known_hosts "
        f"-p {builder.settings['sshPort']} builder@127.0.0.1"
    )
    stranger = passed(laptop.sh("ssh-keygen -lf ~/stranger")).split()[1]
    assert until(lambda: any(stranger in line for line in builder.audit()))
    states = ("docker", "ps", "--filter", f"name=^{builder.alias}-", "--format", "{{.Status}}")
    # A health check that fell into the pause of an earlier test may have failed.
    assert until(lambda: passed(run(*states)).count("(healthy)") == len(ROLES), 60)
    shown = json.loads(passed(builder.client("status", "--json")))
    assert [(b["steps"], b["cached"], b["failed"]) for b in shown["builds"][-3:]] == [
        (2, 0, False),
        (2, 2, False),
        (1, 0, True),
    ]
    assert shown["running"] == 0
    assert shown["containers"] == dict.fromkeys(ROLES, "running (healthy)")
    assert shown["cache_cap"] == 5 * 10**9
    assert 0 < shown["disk_free"] < shown["disk"]
    [ada] = shown["keys"]
    assert ada["name"] == "ada"
    assert ada["connected"] == len(shown["connections"]) >= 1
    assert ada["last_login"] > "2026"
    assert (shown["refusals"][-1]["fingerprint"], shown["refusals"][-1]["name"]) == (stranger, "-")
    assert shown["host_keys"] == [{"generation": 1, "presented": True, "days": 0}]
    (tmp_path / "Dockerfile").write_text(f"FROM {BASE_IMAGE}\nRUN sleep 60\n")
    with builder.docker_process("build", str(tmp_path)):
        assert until(lambda: " 1 now; of the last " in passed(builder.client("status")))


def test_a_kit_lists_the_builds(builder: Builder, laptop: Laptop) -> None:
    passed(laptop.sh("docker build --tag listed:1 -", input=DOCKERFILE))
    [header, newest, *_] = passed(laptop.builder("builds")).splitlines()
    assert header.startswith("BUILD ID")
    listed = json.loads(passed(builder.client("builds", "--json", "--last", "1")))
    assert newest.split()[0] == listed[0]["ref"]
    with laptop.without(*laptop.buildx_plugins()):
        without = laptop.builder("builds")
    assert without.returncode == 1
    assert "here is no buildx; next: install docker-buildx-plugin" in without.stderr


def test_the_status_is_also_a_page_and_names_problems(builder: Builder, tmp_path: Path) -> None:
    target = tmp_path / "status.html"
    passed(builder.client("status", "--html", str(target)))
    assert f"<h1>{builder.alias}</h1>" in target.read_text()
    assert passed(builder.client("status", "--quiet")) == ""
    passed(run("docker", "stop", builder.container("janitor")))
    try:
        status = builder.client("status")
        quiet = builder.client("status", "--quiet")
    finally:
        passed(run("docker", "start", builder.container("janitor")))
    assert quiet.returncode == 1
    assert quiet.stdout.startswith(f"{builder.alias}: {builder.container('janitor')} is exited; ")
    assert len(quiet.stdout.splitlines()) == 1
    assert status.returncode == 1
    assert f"look at   {builder.container('janitor')} is exited; next: docker logs" in status.stdout


def test_the_metrics_count_builds(builder: Builder) -> None:
    address = f"127.0.0.1:{free_port()}"
    config = str(builder.folder / "config.yaml")
    words = ("metrics", "--stack", builder.stack, "--config-file", config)
    with subprocess.Popen(
        (sys.executable, "-m", "client", *words, "--listen", address, "--every", "1"),
        env={**os.environ, **builder.env},
        cwd=ROOT,
    ) as server:

        def value(metric: str) -> float:
            try:
                with urllib.request.urlopen(f"http://{address}/metrics") as answer:
                    text = answer.read().decode()
            except OSError:
                return -1
            found = re.search(rf"^{re.escape(metric)} (\S+)$", text, re.MULTILINE)
            return float(found[1]) if found else -1

        own = f'builder="{builder.alias}"'
        failed = f'builder_builds_total{{{own},result="failed"}}'
        try:
            assert until(lambda: value(f"builder_up{{{own}}}") == 1, 60)
            assert value(failed) == 0
            assert value(f'builder_part_up{{{own},part="gateway"}}') == 1
            assert value(f"builder_cache_limit_bytes{{{own}}}") == 5e9
            assert value(f"builder_disk_free_inodes{{{own}}}") > 0
            assert builder.docker("build", "-", input=f"FROM {BASE_IMAGE}\nRUN false\n").returncode
            assert until(lambda: value(failed) == 1, 60)
            assert value(f"builder_build_duration_seconds_count{{{own}}}") == 1
        finally:
            server.terminate()
    assert server.returncode == -signal.SIGTERM
    once = passed(builder.client("metrics"))
    assert f"{failed} " in once


@pytest.mark.skipif(not LONG, reason="it measures; test_speed.py guards the order of the ways")
def test_a_warm_build_is_hardly_slower_than_on_the_host(builder: Builder, laptop: Laptop) -> None:
    """Median times of five-step builds without changes, always with the same docker CLI."""
    count = 30
    steps = "".join(f"RUN echo {number} >/{number}\n" for number in range(4))
    dockerfile = f"FROM {BASE_IMAGE}\n{steps}"
    clock = "read seconds _ </proc/uptime; echo $seconds"
    build = f"for i in $(seq {count}); do {clock}; docker build -q - <~/warm >/dev/null; done"

    def seconds(inside: str, before: str = "", *options: str) -> float:
        script = f"cat >~/warm; docker build -q - <~/warm >/dev/null && {build}; {clock}"
        command = ("docker", "exec", "--interactive", *options, inside, "sh", "-c")
        times = [
            float(time)
            for time in passed(run(*command, f"{before}\n{script}", input=dockerfile)).split()
        ]
        return statistics.median(b - a for a, b in itertools.pairwise(times))

    passed(laptop.builder("on"))
    local = seconds(builder.container("daemon"), "", "--user", "1000:1000")
    fast_way = seconds(laptop.name)
    host = f"export DOCKER_HOST=ssh://{builder.alias}"
    shared = seconds(laptop.name, host)
    with ssh_config(laptop, "s/ControlMaster auto/ControlMaster no/; s/ControlPath/#&/"):
        unshared = seconds(laptop.name, host)
    record(
        "warm builds of five steps: milliseconds, median",
        count,
        on_the_spot=round(local * 1000),
        builder_on=round(fast_way * 1000),
        ssh_over_one_connection=round(shared * 1000),
        ssh_alone=round(unshared * 1000),
    )
    assert fast_way < shared < unshared
