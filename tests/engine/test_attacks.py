"""From inside: a step, a container, a privileged one, and whoever has the whole Docker API."""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from components.daemon import DATA_DIRECTORY
from tests.engine.attacks import ATTACKS, Attack, script_of, write_table
from tests.engine.conftest import AS_ROOT, BASE_IMAGE, Builder, NewBuilder, Result, passed, run
from tests.engine.figures import LONG

MODES = ("unprivileged", "privileged")
EVERYTHING = ("--privileged", "--pid=host", "--network=host", "--ipc=host", "--volume=/:/host")
EXCEPTED = "172.31.77.1"
PRIVATE = ("169.254.169.254", "10.77.0.1", "172.31.78.1", "192.168.77.1", "100.64.77.1")
# For documentation only (RFC 5737): stands for the Internet.
PUBLIC = "203.0.113.7"
LISTENER = """
import socket, sys, threading
def serve(port):
    listener = socket.create_server(("0.0.0.0", port), backlog=64)
    while True:
        connection, _ = listener.accept()
        connection.sendall(b"REACHED\\n")
        connection.close()
for port in (8080, 53):
    threading.Thread(target=serve, args=(port,)).start()
print("ready", flush=True)
"""


@pytest.fixture(scope="module")
def builders(new_builder: NewBuilder) -> dict[str, Builder]:
    """One builder of each mode, on one host."""
    made = {
        "unprivileged": new_builder(
            privateNetworks="block", privateNetworksExcept=[f"{EXCEPTED}/32"]
        ),
        "privileged": new_builder(isolation="privileged"),
    }
    for builder in made.values():
        builder.up()
        builder.load_base()
    return made


def addresses(builder: Builder) -> list[str]:
    template = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
    names = [builder.container(role) for role in ("daemon", "gateway")]
    return passed(run("docker", "inspect", "--format", template, *names)).split()


@pytest.fixture(scope="module")
def seen(builders: dict[str, Builder]) -> dict[str, dict[str, str]]:
    """What came of each attack in each mode."""
    token = f"host{secrets.token_hex(6)}"
    marker = Path("/var/tmp", token)  # noqa: S108
    marker.write_text("of the host\n")
    process = subprocess.Popen(["sh", "-c", f": {token}; exec -a {token} sleep 600 || sleep 600"])
    found: dict[str, dict[str, str]] = {attack.name: {} for attack in ATTACKS}
    try:
        for mode, other in zip(MODES, reversed(MODES), strict=True):
            builder, neighbour = builders[mode], builders[other]
            text = script_of(
                ATTACKS,
                TOKEN=token,
                OTHER=neighbour.stack,
                ADDRESSES=" ".join([*addresses(neighbour), addresses(builder)[1]]),
            )
            passed(run("docker", "exec", "--user", "1000:1000", neighbour.container("daemon"),
                       "touch", f"{DATA_DIRECTORY}/{neighbour.stack}"))  # fmt: skip
            said = passed(
                builder.docker("run", "--rm", *EVERYTHING, BASE_IMAGE, "sh", "-c", text)
            ).splitlines()
            outcomes = dict(line.split(" ", 2)[:2] for line in said if line[:1].isdigit())
            for number, attack in enumerate(ATTACKS):
                found[attack.name][mode] = outcomes[str(number)]
    finally:
        process.terminate()
        process.wait()
        marker.unlink()
    if LONG:
        write_table(found)
    return found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_from_inside(seen: dict[str, dict[str, str]], attack: Attack, mode: str) -> None:
    assert seen[attack.name][mode] == attack.expected


@contextmanager
def neighbourhood(builder: Builder) -> Iterator[int]:
    """Listeners on PRIVATE, EXCEPTED and PUBLIC that only this daemon's container has a way to.

    They are in a network namespace of their own; the block has the id of a process in the daemon's.
    """
    name = f"t{secrets.token_hex(3)}"
    daemon = int(
        passed(run("docker", "inspect", "--format", "{{.State.Pid}}", builder.container("daemon")))
    )

    def ip(*words: str) -> None:
        passed(run(*AS_ROOT, "ip", *words))

    def in_daemon(*words: str) -> None:
        passed(run(*AS_ROOT, "nsenter", "-t", str(daemon), "-n", "ip", *words))

    ip("netns", "add", name)
    try:
        ip("link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b")
        ip("link", "set", f"{name}a", "netns", str(daemon))
        ip("link", "set", f"{name}b", "netns", name)
        in_daemon("addr", "add", "203.0.113.1/24", "dev", f"{name}a")
        in_daemon("link", "set", f"{name}a", "up")
        ip("-n", name, "link", "set", f"{name}b", "up")
        ip("-n", name, "addr", "add", f"{PUBLIC}/24", "dev", f"{name}b")
        for address in (*PRIVATE, EXCEPTED):
            ip("-n", name, "addr", "add", f"{address}/32", "dev", f"{name}b")
            in_daemon("route", "add", f"{address}/32", "via", PUBLIC)
        with subprocess.Popen(
            [*AS_ROOT, "ip", "netns", "exec", name, "python3", "-c", LISTENER],
            stdout=subprocess.PIPE,
        ) as listener:
            assert listener.stdout is not None
            assert listener.stdout.readline() == b"ready\n"
            try:
                yield daemon
            finally:
                listener.kill()
    finally:
        # The pair of interfaces goes with it.
        ip("netns", "delete", name)


def asking(*targets: str) -> str:
    """A shell command that says which of these listeners answer, each within two seconds."""
    return (
        f"for a in {' '.join(targets)}; do nc -w 2 $a 8080 </dev/null 2>/dev/null | "
        'grep -q REACHED && echo "answers: $a"; done; true'
    )


def answering(result: Result) -> set[str]:
    said = passed(result).splitlines()
    return {line.split("answers: ")[1] for line in said if "answers: " in line and "$a" not in line}


def from_a_step(builder: Builder, command: str) -> Result:
    """What a step of a build says; the progress is on standard output."""
    built = builder.docker(
        "build", "--no-cache", "--progress=plain", "-",
        input=f"FROM {BASE_IMAGE}\nRUN {command}\n", stderr=subprocess.STDOUT,
    )  # fmt: skip
    passed(built)
    return built


EVERY = (*PRIVATE, EXCEPTED, PUBLIC)


def test_builds_reach_private_networks_where_that_is_allowed(builders: dict[str, Builder]) -> None:
    builder = builders["privileged"]
    with neighbourhood(builder):
        assert answering(from_a_step(builder, asking(*EVERY))) == set(EVERY)


def test_nobody_inside_reaches_private_networks_where_they_are_blocked(
    builders: dict[str, Builder],
) -> None:
    builder = builders["unprivileged"]
    with neighbourhood(builder) as daemon:
        assert answering(from_a_step(builder, asking(*EVERY))) == {PUBLIC, EXCEPTED}
        for options in ((), EVERYTHING):
            asked = builder.docker("run", "--rm", *options, BASE_IMAGE, "sh", "-c", asking(*EVERY))
            assert answering(asked) == {PUBLIC, EXCEPTED}, options
        # Name servers in a private network stay reachable to Docker's resolver, which is root's.
        for port, answer in ((53, "REACHED\n"), (8080, "")):
            inside = (*AS_ROOT, "nsenter", "-t", str(daemon), "-n")
            assert run(*inside, "nc", "-w", "2", PRIVATE[1], str(port), input="").stdout == answer
    assert "Address" in from_a_step(builder, "nslookup docker").stdout


def test_the_rules_are_back_before_a_restarted_daemon_is(builders: dict[str, Builder]) -> None:
    builder = builders["unprivileged"]
    passed(run("docker", "restart", builder.container("daemon")))
    assert "200 OK" in builder.ping().stdout
    with neighbourhood(builder):
        assert answering(from_a_step(builder, asking(*EVERY))) == {PUBLIC, EXCEPTED}


@pytest.mark.parametrize("mode", MODES)
def test_the_gateway_cannot_go_anywhere(builders: dict[str, Builder], mode: str) -> None:
    """No answer comes back to it, and it sends nothing but answers to its clients."""
    network = builders[mode].container("entrance")
    rules = passed(run(*AS_ROOT, "iptables", "-t", "nat", "-S", "POSTROUTING"))
    subnet = passed(run("docker", "network", "inspect", "--format",
                        "{{range .IPAM.Config}}{{.Subnet}}{{end}}", network)).strip()  # fmt: skip
    masqueraded = [
        line for line in rules.splitlines()
        if f"-s {subnet} " in line and "MASQUERADE" in line
    ]  # fmt: skip
    assert masqueraded == []


@pytest.mark.parametrize("mode", MODES)
def test_what_a_build_plants_does_not_run_outside_of_it(
    builders: dict[str, Builder], mode: str
) -> None:
    """The docker CLI of health check and scripts runs beside the daemon, not in its namespace."""
    builder = builders[mode]
    plant = """
        home=/host/home/rootless/.docker
        mkdir -p $home/cli-plugins
        for plugin in buildx compose scan; do
            printf '#!/bin/sh\\ntouch ~/planted-ran\\n' >$home/cli-plugins/docker-$plugin
            chmod 0755 $home/cli-plugins/docker-$plugin
        done
        echo '{"credsStore": "x", "cliPluginsExtraDirs": ["/home/rootless/.docker/cli-plugins"]}' \\
            >$home/config.json
    """
    passed(builder.docker("run", "--rm", *EVERYTHING, BASE_IMAGE, "sh", "-euc", plant))
    daemon = builder.container("daemon")
    beside = ("docker", "exec", "--user", "1000:1000", daemon)
    passed(run(*beside, "test", "-x", "/home/rootless/.docker/cli-plugins/docker-buildx"))
    passed(builder.pulumi("up", "--target-replace", "**builder-readiness"))
    health = passed(run("docker", "inspect", "--format",
                        "{{json .Config.Healthcheck.Test}}", daemon))  # fmt: skip
    passed(run("docker", "exec", daemon, *json.loads(health)[1:]))
    passed(run(*beside, "docker", "buildx", "version"))
    ran = "/home/rootless/planted-ran"
    assert run(*beside, "test", "-e", ran).returncode == 1
    # Without the folder of its own it would have run.
    run(*beside[:2], "--env", "DOCKER_CONFIG=/home/rootless/.docker", *beside[2:],
        "docker", "buildx", "version")  # fmt: skip
    passed(run(*beside, "rm", ran))


@pytest.mark.parametrize("mode", MODES)
def test_a_false_runc_is_gone_with_a_restart(builders: dict[str, Builder], mode: str) -> None:
    """Root of the daemon's namespaces can put anything over its programs, as long as it runs."""
    builder = builders[mode]
    false = """
        cat >/host/tmp/false-runc <<'RUNC'
#!/bin/sh
exit 1
RUNC
        chmod 0755 /host/tmp/false-runc
        nsenter -t $(pidof dockerd) -m mount --bind /tmp/false-runc /usr/local/sbin/runc
    """
    passed(builder.docker("run", "--rm", *EVERYTHING, BASE_IMAGE, "sh", "-euc", false))
    assert builder.docker("run", "--rm", BASE_IMAGE, "true").returncode != 0
    passed(run("docker", "restart", builder.container("daemon")))
    assert "200 OK" in builder.ping().stdout
    passed(builder.docker("run", "--rm", BASE_IMAGE, "true"))
