"""Attacks from inside: by a step, a container, a privileged container, the whole Docker API."""

from __future__ import annotations

import json
import os
import secrets
import select
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO

import pytest

from components.layout import DATA_DIRECTORY
from tests.engine.attacks import ATTACKS, Attack, script_of, write_table
from tests.engine.conftest import (
    AS_ROOT,
    BASE_IMAGE,
    DAEMON_IMAGE,
    GUARD_IMAGE,
    ROOT,
    Builder,
    NewBuilder,
    Result,
    derived_image,
    passed,
    run,
    run_inside,
)
from tests.engine.figures import LONG

MODES = ("unprivileged", "privileged")
EVERYTHING = ("--privileged", "--pid=host", "--network=host", "--ipc=host", "--volume=/:/host")
EXCEPTED = "172.31.77.1"
PRIVATE = (
    "169.254.169.254",
    "10.77.0.1",
    "10.0.2.77",
    "172.31.78.1",
    "192.168.77.1",
    "100.64.77.1",
)
# A range for documentation (RFC 5737) that represents the Internet.
PUBLIC, OUTSIDE = "203.0.113.7", "198.51.100.7"
LISTENER = """
import socket, sys, threading
def serve(port):
    listener = socket.create_server(("0.0.0.0", port), backlog=64)
    while True:
        connection, _ = listener.accept()
        connection.sendall(b"REACHED\\n")
        connection.close()
def hear():
    datagrams = socket.socket(type=socket.SOCK_DGRAM)
    datagrams.bind(("0.0.0.0", 8080))
    while True:
        print(datagrams.recvfrom(64)[1][0], flush=True)
for port in (8080, 53):
    threading.Thread(target=serve, args=(port,)).start()
threading.Thread(target=hear).start()
print("ready", flush=True)
"""
# A datagram from a wrong address, then one from the right address.
SENDER = f"""
import socket
for address in ("{OUTSIDE}", ""):
    datagrams = socket.socket(type=socket.SOCK_DGRAM)
    datagrams.setsockopt(socket.IPPROTO_IP, getattr(socket, "IP_TRANSPARENT", 19), 1)
    datagrams.bind((address, 0))
    datagrams.sendto(b"!", ("{PUBLIC}", 8080))
"""


@pytest.fixture(scope="module")
def builders(new_builder: NewBuilder) -> dict[str, Builder]:
    """One builder of each mode on one host."""
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
    """The result of each attack in each mode."""
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
            passed(neighbour.in_daemon("touch", f"{DATA_DIRECTORY}/{neighbour.stack}"))
            output = passed(
                builder.docker("run", "--rm", *EVERYTHING, BASE_IMAGE, "sh", "-c", text)
            ).splitlines()
            outcomes = dict(line.split(" ", 2)[:2] for line in output if line[:1].isdigit())
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


def process_of(builder: Builder, role: str) -> str:
    """The id, on this machine, of the first process of the container."""
    container = builder.container(role)
    return passed(run("docker", "inspect", "--format", "{{.State.Pid}}", container)).strip()


@contextmanager
def listener(*inside: str) -> Iterator[IO[str]]:
    """A listener that runs behind these words; it prints the source of each datagram."""
    command = [*AS_ROOT, *inside, "python3", "-c", LISTENER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process.stdout
        finally:
            process.kill()


@contextmanager
def neighbour(process: str, address: str, *others: str) -> Iterator[IO[str]]:
    """A listener in a network namespace of its own, connected with the one of this process.

    It has these addresses. The first is in a network that both share; this process has the address
    in it that ends in 1. The listener's answers can only go there.
    """
    name = f"t{secrets.token_hex(3)}"
    network = address.rpartition(".")[0]

    def ip(*words: str) -> None:
        passed(run(*AS_ROOT, "ip", *words))

    def beside(*words: str) -> None:
        passed(run(*AS_ROOT, "nsenter", "-t", process, "-n", "ip", *words))

    ip("netns", "add", name)
    try:
        ip("link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b")
        ip("link", "set", f"{name}a", "netns", process)
        ip("link", "set", f"{name}b", "netns", name)
        beside("addr", "add", f"{network}.1/24", "dev", f"{name}a")
        beside("link", "set", f"{name}a", "up")
        ip("-n", name, "link", "set", f"{name}b", "up")
        ip("-n", name, "addr", "add", f"{address}/24", "dev", f"{name}b")
        for other in others:
            ip("-n", name, "addr", "add", f"{other}/32", "dev", f"{name}b")
            beside("route", "add", f"{other}/32", "via", address)
        with listener("ip", "netns", "exec", name) as output:
            yield output
    finally:
        # This removes the pair of interfaces too.
        ip("netns", "delete", name)


def neighbourhood(builder: Builder) -> AbstractContextManager[IO[str]]:
    """PRIVATE, EXCEPTED and PUBLIC, which only this daemon's container can reach."""
    return neighbour(process_of(builder, "daemon"), PUBLIC, *PRIVATE, EXCEPTED)


def dial(process: str, address: str, port: int = 8080) -> str:
    """The answers that root gets there, from the network namespace of this process."""
    inside = (*AS_ROOT, "nsenter", "-t", process, "-n")
    return run(*inside, "nc", "-w", "2", address, str(port), input="").stdout


def asking(*targets: str) -> str:
    """A shell command that prints which of these listeners answer, each within two seconds."""
    return (
        f"for a in {' '.join(targets)}; do nc -w 2 $a 8080 </dev/null 2>/dev/null | "
        'grep -q REACHED && echo "answers: $a"; done; true'
    )


def answering(result: Result) -> set[str]:
    output = passed(result).splitlines()
    return {
        line.split("answers: ")[1] for line in output if "answers: " in line and "$a" not in line
    }


def from_a_step(builder: Builder, command: str) -> Result:
    """The output of a build step; the progress is on standard output."""
    built = builder.docker(
        "build",
        "--no-cache",
        "--progress=plain",
        "-",
        input=f"FROM {BASE_IMAGE}\nRUN {command}\n",
        stderr=subprocess.STDOUT,
    )
    passed(built)
    return built


EVERY = (*PRIVATE, EXCEPTED, PUBLIC)


def test_builds_reach_private_networks_unless_blocked(builders: dict[str, Builder]) -> None:
    builder = builders["privileged"]
    with neighbourhood(builder):
        assert answering(from_a_step(builder, asking(*EVERY))) == set(EVERY)


def test_blocked_private_networks_cannot_be_reached_from_inside(
    builders: dict[str, Builder],
) -> None:
    builder = builders["unprivileged"]
    with neighbourhood(builder):
        assert answering(from_a_step(builder, asking(*EVERY))) == {PUBLIC, EXCEPTED}
        for options in ((), EVERYTHING):
            request = builder.docker(
                "run", "--rm", *options, BASE_IMAGE, "sh", "-c", asking(*EVERY)
            )
            assert answering(request) == {PUBLIC, EXCEPTED}, options
        # Docker's resolver, which runs as root, still reaches name servers in a private network.
        daemon = process_of(builder, "daemon")
        assert dial(daemon, PRIVATE[1], 53) == "REACHED\n"
        assert dial(daemon, PRIVATE[1]) == ""
    assert "Address" in from_a_step(builder, "nslookup docker").stdout


def way_out(builder: Builder) -> str:
    """The interface of the daemon's network that leads to the rest of the world."""
    report = builder.docker(
        "run", "--rm", "--network=host", BASE_IMAGE, "ip", "route", "get", PUBLIC
    )
    return passed(report).split(" dev ")[1].split()[0]


def test_builds_send_through_the_kernel(builders: dict[str, Builder]) -> None:
    assert way_out(builders["unprivileged"]) == "uplink"
    assert way_out(builders["privileged"]) == "tap0"
    # Root's script has ended and left no process.
    daemon = builders["unprivileged"].container("daemon")
    listed = passed(run("docker", "top", daemon, "-eo", "pid,uid,stat,comm")).splitlines()[1:]
    processes = [line.split() for line in listed]
    assert not [comm for _, uid, _, comm in processes if uid == "0"]
    assert not [comm for *_, stat, comm in processes if stat.startswith("Z")]


def test_nothing_inside_sends_from_another_address_or_reaches_the_containers_own(
    builders: dict[str, Builder],
) -> None:
    builder = builders["unprivileged"]
    own = passed(
        run(
            "docker",
            "inspect",
            "--format",
            "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}",
            builder.container("daemon"),
        )
    ).strip()
    inside = ("nsenter", "-t", process_of(builder, "daemon"), "-n")
    builder.load(GUARD_IMAGE)
    with neighbourhood(builder) as heard, listener(*inside):
        passed(builder.docker("run", "--rm", *EVERYTHING, GUARD_IMAGE, "python3", "-c", SENDER))
        assert select.select([heard], [], [], 10)[0]
        assert heard.readline() == f"{PUBLIC.rpartition('.')[0]}.1\n"
        request = builder.docker("run", "--rm", BASE_IMAGE, "sh", "-c", asking(own, "192.0.0.1"))
        assert answering(request) == set()


def test_without_the_uplink_builds_reach_the_same_through_the_rootless_network(
    builders: dict[str, Builder],
) -> None:
    builder = builders["unprivileged"]
    inside = (*AS_ROOT, "nsenter", "-t", process_of(builder, "daemon"), "-n")
    passed(run(*inside, "ip", "link", "delete", "builds"))
    assert way_out(builder) == "tap0"
    with neighbourhood(builder):
        assert answering(from_a_step(builder, asking(*EVERY))) == {PUBLIC, EXCEPTED}


def test_uplink_and_rules_are_back_with_a_restarted_daemon(builders: dict[str, Builder]) -> None:
    builder = builders["unprivileged"]
    passed(run("docker", "restart", builder.container("daemon")))
    assert "200 OK" in builder.ping().stdout
    with neighbourhood(builder):
        assert answering(from_a_step(builder, asking(*EVERY))) == {PUBLIC, EXCEPTED}
    assert way_out(builder) == "uplink"


# If the kernel lacks nft, root in the daemon's container has only the older iptables.
WITHOUT_NFT = """#!/bin/sh
read -r _ outside _ </proc/self/uid_map
[ "$outside" -eq 0 ] && [ "$1" != --version ] || PATH=/usr/sbin:/sbin exec "${0##*/}" "$@"
echo "${0##*/} (nf_tables): Could not fetch rule set generation id: Not supported" >&2
exit 4
"""


@pytest.fixture(scope="module")
def image_without_nft(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("image")
    for name in ("iptables", "ip6tables"):
        (folder / name).write_text(WITHOUT_NFT)
        (folder / name).chmod(0o755)
    copy = "COPY iptables ip6tables /usr/local/bin/\n"
    with derived_image("without-nft", folder, copy) as tag:
        yield tag


def test_iptables_without_nft_blocks_private_networks_too(
    new_builder: NewBuilder, image_without_nft: str
) -> None:
    builder = new_builder(
        daemonImage=image_without_nft,
        privateNetworks="block",
        privateNetworksExcept=[f"{EXCEPTED}/32"],
    )
    builder.up()
    builder.load_base()
    with neighbourhood(builder):
        assert answering(from_a_step(builder, asking(*EVERY))) == {PUBLIC, EXCEPTED}
    assert way_out(builder) == "uplink"


def test_the_gateway_gets_no_answer_from_outside(builders: dict[str, Builder]) -> None:
    """The listener is outside the host and has no route to the addresses of containers."""
    builder = builders["unprivileged"]
    with neighbour(str(os.getpid()), OUTSIDE):
        assert dial(process_of(builder, "daemon"), OUTSIDE) == "REACHED\n"
        assert dial(process_of(builder, "gateway"), OUTSIDE) == ""
    assert "200 OK" in builder.ping().stdout


def status(container: str, pattern: str) -> dict[str, str]:
    """Capabilities of the first process of the container whose command line has the pattern."""
    script = f"cat /proc/$(pgrep -o -f '{pattern}')/status"
    lines = passed(run_inside(container, "sh", "-c", script, user="0")).splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_sshd_has_no_capabilities_and_gains_none(builders: dict[str, Builder]) -> None:
    powers = status(builders["unprivileged"].container("gateway"), "^sshd.*listener")
    assert powers["Uid"].split() == ["1000"] * 4
    assert (powers["CapEff"], powers["CapPrm"], powers["NoNewPrivs"]) == ("0" * 16, "0" * 16, "1")
    # CHOWN, DAC_OVERRIDE, FOWNER, KILL, SETGID, SETUID.
    assert powers["CapBnd"] == f"{0b11101011:016x}"


@pytest.mark.parametrize("mode", MODES)
def test_a_second_update_changes_nothing(builders: dict[str, Builder], mode: str) -> None:
    assert "unchanged" in builders[mode].up("--refresh", "--expect-no-changes")


@pytest.mark.parametrize("mode", MODES)
def test_programs_that_a_build_plants_do_not_run_outside_of_it(
    builders: dict[str, Builder], mode: str
) -> None:
    """The docker CLI of health check and scripts runs outside the daemon's namespace."""
    builder = builders[mode]
    plant = """
        cd /home/rootless
        mkdir -p .docker/cli-plugins .ssh /run/xdg/buildx/instances
        for plugin in buildx compose scan; do
            printf '#!/bin/sh\\ntouch ~/planted-ran\\n' >.docker/cli-plugins/docker-$plugin
            chmod 0755 .docker/cli-plugins/docker-$plugin
        done
        echo '{"credsStore": "x"}' >.docker/config.json
        echo '{"Name": "default", "Driver": "remote", "Nodes": [
            {"Name": "n", "Endpoint": "ssh://planted"}]}' >/run/xdg/buildx/instances/default
        echo 'ProxyCommand touch ~/planted-ran' >.ssh/config
    """
    passed(
        builder.docker(
            "run", "--rm", *EVERYTHING, BASE_IMAGE, "chroot", "/host", "sh", "-euc", plant
        )
    )
    passed(builder.in_daemon("test", "-x", "/home/rootless/.docker/cli-plugins/docker-buildx"))
    passed(builder.pulumi("up", "--target-replace", "**builder-readiness"))
    passed(builder.health("daemon"))
    passed(builder.in_daemon("docker", "buildx", "version"))
    ran = "/home/rootless/planted-ran"
    assert builder.in_daemon("test", "-e", ran).returncode == 1
    # Without its own configuration folder, the CLI would have run it.
    builder.in_daemon("env", "DOCKER_CONFIG=/home/rootless/.docker", "docker", "buildx", "version")
    passed(builder.in_daemon("rm", ran))


@pytest.mark.parametrize("mode", MODES)
def test_a_false_runc_is_gone_with_a_restart(builders: dict[str, Builder], mode: str) -> None:
    """Root of the daemon's namespaces can mount anything over its programs, until a restart."""
    builder = builders[mode]
    false = """
        printf '#!/bin/sh\\nexit 1\\n' >/host/tmp/false-runc
        chmod 0755 /host/tmp/false-runc
        nsenter -t $(pidof dockerd) -m mount --bind /tmp/false-runc /usr/local/sbin/runc
    """
    passed(builder.docker("run", "--rm", *EVERYTHING, BASE_IMAGE, "sh", "-euc", false))
    assert builder.docker("run", "--rm", BASE_IMAGE, "true").returncode != 0
    passed(run("docker", "restart", builder.container("daemon")))
    assert "200 OK" in builder.ping().stdout
    passed(builder.docker("run", "--rm", BASE_IMAGE, "true"))


def test_only_a_privileged_daemon_lacks_users_above_65535(builders: dict[str, Builder]) -> None:
    dockerfile = f"FROM {BASE_IMAGE}\nRUN touch /file && chown 70000:70000 /file\n"
    outputs = {
        mode: builder.docker("build", "--no-cache", "-", input=dockerfile)
        for mode, builder in builders.items()
    }
    assert outputs["unprivileged"].returncode == 0
    message = "Invalid argument"
    assert message in outputs["privileged"].stderr
    assert f"`{message}`" in (ROOT / "docs" / "migrating.md").read_text()


def test_the_mode_of_a_builder_is_changed_and_its_cache_stays(builders: dict[str, Builder]) -> None:
    builder = builders["privileged"]
    builder.build()
    builder.settings["isolation"] = "unprivileged"
    builder.up()
    inspected = passed(run("docker", "inspect", builder.container("daemon")))
    host = json.loads(inspected)[0]["HostConfig"]
    assert not host["Privileged"]
    assert host["CapDrop"] == ["ALL"]
    assert any(option.startswith("seccomp={") for option in host["SecurityOpt"])
    assert builder.build().count("CACHED") == 3
    assert "unchanged" in builder.up("--expect-no-changes")


def test_an_image_that_needs_privileges_is_refused(
    builders: dict[str, Builder],
) -> None:
    builder = builders["unprivileged"]
    image = f"localhost/docker:{secrets.token_hex(4)}"
    # A copy has no file capabilities and is not set-user-id.
    copy = "cp /usr/bin/newuidmap /copy && mv /copy /usr/bin/newuidmap"
    dockerfile = f"FROM {DAEMON_IMAGE}\nUSER root\nRUN {copy}\nUSER rootless\n"
    without_buildkit = {"DOCKER_BUILDKIT": "0"}
    passed(run("docker", "build", "--tag", image, "-", env=without_buildkit, input=dockerfile))
    before = builder.container_id("daemon")
    builder.settings["daemonImage"] = image
    try:
        refused = builder.pulumi("up")
    finally:
        builder.settings["daemonImage"] = DAEMON_IMAGE
        run("docker", "image", "rm", image)
    assert refused.returncode != 0
    assert f"isolation = unprivileged: no rootless daemon of {image} runs" in refused.stdout
    assert "newuidmap and newgidmap must have file capabilities" in refused.stdout
    assert "pulumi config set isolation privileged" in refused.stdout
    assert builder.container_id("daemon") == before
