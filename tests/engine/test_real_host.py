"""A builder on a realistic host (`machine.py`), used over ssh:// as a user would.

On an emulated machine this takes most of an hour; `make trials` runs it.
"""

from __future__ import annotations

import re
import secrets
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.client import put_ssh
from components.host import PREFLIGHT
from tests.engine.conftest import (
    BASE_IMAGE,
    DAEMON_IMAGE,
    GATEWAY_IMAGE,
    ROOT,
    Builder,
    Result,
    passed,
    run,
    until,
)
from tests.engine.figures import LONG, record
from tests.engine.hosts import agent_with
from tests.engine.laptop import Laptop
from tests.engine.machine import FOLDER, Machine, machine_in
from tests.engine.test_rootless import FOREIGN, foreign_context

pytestmark = pytest.mark.skipif(not LONG, reason="a lane of make trials: it takes an hour")

PROFILE = "docker-build-machine"
PATIENCE = 1800
EMULATED = f"linux/{FOREIGN}"
PORT = 2299
SETTINGS = "user.max_user_namespaces", "kernel.unprivileged_userns_clone"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with machine_in(tmp_path_factory.mktemp("m")) as machine:
        yield machine


@pytest.fixture(scope="module")
def admin(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    """A stack for that machine before its first update, and an agent with the key of ops."""
    builder = Builder.create(tmp_path_factory.mktemp("b") / "s", **machine.settings)
    builder.seconds = PATIENCE
    with agent_with(FOLDER / "operator", builder.folder) as agent:
        builder.env["SSH_AUTH_SOCK"] = agent
        yield builder
        builder.ssh_end()


# What a host lacks -------------------------------------------------------------------------------


def look(
    machine: Machine, *, clock: float | None = None, platform: str = ""
) -> tuple[dict[str, str], str]:
    """The facts that ops gets there, and the messages about them."""
    words = f"look o nobody-builder 0.0.0.0 {PORT} '{platform}' false"
    script = f"CLOCK={clock or time.time():.0f} sh -s -- {words}"
    result = machine.ssh(script, user="ops", input=PREFLIGHT)
    return dict(line.split("=", 1) for line in passed(result).splitlines()), result.stderr


def prepare(machine: Machine, user: str = "sudoer", before: str = "") -> Result:
    return machine.ssh(f"{before} sh -s -- prepare", user=user, input=PREFLIGHT)


@dataclass(frozen=True)
class Lack:
    """Something that a host may lack: how root removes it, and the message about it."""

    take: str
    fact: str
    value: str
    report: str
    give: str = ""
    """How root restores it, before sudoer runs the printed lines."""


CONF = "/etc/sysctl.d"
MODULE = "/lib/modules/$(uname -r)/kernel/drivers/net/tun.ko"
LACKS = {
    "tun-node": Lack(
        "modprobe -r tun; rm -f /dev/net/tun", "tun", "missing", "/dev/net/tun is missing"
    ),
    "tun-mode": Lack(
        "chmod 0600 /dev/net/tun", "tun", "closed", "/dev/net/tun is not usable by everybody"
    ),
    "tun-module": Lack(
        f"modprobe -r tun && mv {MODULE}.xz /root/ && mkdir -p /dev/net && "
        "rm -f /dev/net/tun && mknod -m 0666 /dev/net/tun c 10 200",
        "tun",
        "broken",
        "/dev/net/tun cannot be opened (No such device)",
        f"mv /root/tun.ko.xz {MODULE}.xz",
    ),
    **{
        setting: Lack(
            f"sysctl -w {setting}=0",
            "namespaces",
            "refused",
            f"the kernel refuses user namespaces ({setting} = 0)",
        )
        for setting in SETTINGS
    },
    "next-boot": Lack(
        f"rm -f {CONF}/zz-*; echo '{SETTINGS[1]} = 0' >{CONF}/90-hard.conf",
        "namespaces",
        "until-reboot",
        f"from the next boot on ({SETTINGS[1]} = 0 in {CONF}/90-hard.conf)",
    ),
    "last-word": Lack(
        f"mkdir -p /run/sysctl.d; echo '-{SETTINGS[1].replace('.', '/')}=0' "
        ">/run/sysctl.d/zzz.conf",
        "namespaces",
        "until-reboot",
        "take that line out of /run/sysctl.d/zzz.conf",
        "rm /run/sysctl.d/zzz.conf",
    ),
    "disk": Lack(
        "fallocate -l $(($(df --output=avail -B1 / | tail -n 1) - 1500000000)) /full",
        "disk",
        "short",
        "at least 2048 MiB are needed",
        "rm /full",
    ),
    "port": Lack(
        f"systemd-run --quiet --unit taken nc -lk {PORT}; sleep 2",
        "conflicts",
        "1",
        f"sshPort = {PORT} (sshAddress = 0.0.0.0) is taken",
        "systemctl stop taken",
    ),
}


CLEAN = {"tun": "usable", "namespaces": "allowed", "disk": "enough", "conflicts": "0"}
# Lacks that can be tested together, because each run on an emulated machine takes time.
TOGETHER = (
    ("tun-node", SETTINGS[0], "next-boot", "disk", "port"),
    ("tun-mode", SETTINGS[1]),
    ("tun-module", "last-word"),
)


@pytest.mark.parametrize("names", TOGETHER, ids=lambda names: names[0])
def test_a_shortfall_is_reported_with_its_fix(machine: Machine, names: tuple[str, ...]) -> None:
    lacks = [LACKS[name] for name in names]
    for lack in lacks:
        passed(machine.ssh(lack.take))
    facts, output = look(machine)
    for lack in lacks:
        assert lack.report in output
        # Of two lacks of one fact, the worse one is reported.
        assert facts[lack.fact] in (lack.value, "refused")
        passed(machine.ssh(lack.give or "true"))
    for line in re.findall(r"sudo sh -c '[^']*'", output):
        passed(machine.ssh(line, user="sudoer"))
    facts, output = look(machine)
    assert not output, output
    assert {name: facts[name] for name in CLEAN} == CLEAN


def test_a_wrong_clock_is_reported(machine: Machine) -> None:
    facts, output = look(machine, clock=time.time() - 3600)
    assert facts["clock"] == "wrong"
    differs = re.search(r"the clock differs by (\d+) s", output)
    assert differs
    # The command itself takes time to arrive there.
    assert 3540 < int(differs[1]) < 3660


def test_without_docker_no_facts_are_known_and_overlay_can_be_fixed(machine: Machine) -> None:
    passed(machine.ssh("systemctl stop docker.socket docker containerd; modprobe -r overlay"))
    facts, output = look(machine)
    assert not facts
    assert "Docker does not answer" in output
    report = prepare(machine)
    assert report.returncode == 0, report.stderr
    assert "overlay file systems are not supported: prepared: modprobe overlay" in report.stderr
    passed(machine.ssh("systemctl start docker"))
    assert look(machine)[1] == ""


RESTRICTED = (  # Ubuntu's kernel has this setting; Debian's mediates `userns` without it.
    "sudo unshare --mount sh -c 'mount -t tmpfs none /proc/sys/kernel && "
    'echo 1 >/proc/sys/kernel/apparmor_restrict_unprivileged_userns && exec "$@"\' -'
)


def test_apparmors_restriction_is_lifted_for_one_container(machine: Machine) -> None:
    report = prepare(machine, before=RESTRICTED)
    assert report.returncode == 0, report.stderr
    assert "AppArmor refuses user namespaces" in report.stderr
    assert look(machine)[0]["apparmor"] == "profile"
    assert not prepare(machine, before=RESTRICTED).stderr

    # With a parser that does not know userns, the setting itself is changed for everybody.
    old = "#!/bin/sh\ncat >/dev/null; echo syntax error >&2; exit 1\n"
    file = f"/etc/apparmor.d/{PROFILE}"
    passed(machine.ssh(f"apparmor_parser -R {file} && rm {file}"))
    put = "cat >/usr/local/sbin/apparmor_parser && chmod 0755 /usr/local/sbin/apparmor_parser"
    passed(machine.ssh(put, input=old))
    report = prepare(machine, "root", RESTRICTED.removeprefix("sudo "))
    only = "cannot allow user namespaces to the daemon's container only: syntax error"
    assert only in report.stderr
    assert "prepared: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0" in report.stderr
    assert look(machine)[0]["apparmor"] == "unconfined"
    passed(machine.ssh("rm /usr/local/sbin/apparmor_parser /etc/sysctl.d/zz-*apparmor*"))
    passed(prepare(machine, before=RESTRICTED))


def test_a_preview_reports_all_shortfalls_and_an_update_refuses(
    machine: Machine, admin: Builder
) -> None:
    passed(machine.ssh(f"chmod 0600 /dev/net/tun; sysctl -w {SETTINGS[0]}=0"))
    shown = passed(admin.pulumi("preview"))
    refused = admin.pulumi("up")
    assert refused.returncode != 0
    for output in (shown, refused.stdout):
        assert "/dev/net/tun is not usable by everybody" in output
        assert f"the kernel refuses user namespaces ({SETTINGS[0]} = 0)" in output
    assert "docker:index" not in admin.state()
    report = prepare(machine)
    assert report.returncode == 0, report.stderr


def test_prepared_settings_survive_a_reboot_that_refuses_them(machine: Machine) -> None:
    hostile = "".join(f"echo '{setting} = 0'; " for setting in SETTINGS)
    passed(
        machine.ssh(
            f"{{ {hostile}}} >/etc/sysctl.d/90-hard.conf; "
            'echo \'KERNEL=="tun", MODE="0600"\' >/etc/udev/rules.d/90-hard.rules'
        )
    )
    passed(prepare(machine))
    record("real host: seconds until ssh answers", 1, boot=machine.reboot())
    facts, output = look(machine)
    assert not output, output
    known = {name: facts[name] for name in ("tun", "namespaces", "apparmor")}
    assert known == {"tun": "usable", "namespaces": "allowed", "apparmor": "profile"}
    passed(machine.ssh("rm /etc/sysctl.d/90-hard.conf /etc/udev/rules.d/90-hard.rules"))


# `make` as a user with sudo ----------------------------------------------------------------------


def test_a_user_with_sudo_reaches_docker_without_a_new_login(
    machine: Machine, tmp_path: Path
) -> None:
    """`have_engine`, with which every word that needs Docker begins; Docker is stopped first."""
    files = passed(
        run("git", "ls-files", "scripts", "components/host", "components/releases.sh", cwd=ROOT)
    ).split()
    word = (
        "#!/usr/bin/env bash\nset -euo pipefail\n"
        'cd "$(dirname "$0")/.."\n. scripts/environment.sh\n. scripts/engine.sh\nhave_engine\n'
        "docker info --format 'Docker {{.ServerVersion}}'; id -Gn\n"
    )
    tree = tmp_path / "tree.tar"
    passed(run("tar", "--create", "--file", str(tree), *files, cwd=ROOT))
    with tree.open("rb") as stream:
        passed(machine.ssh("mkdir -p tree && tar -xC tree", user="sudoer", stdin=stream))
    put = "cat >tree/scripts/word && chmod 0755 tree/scripts/word"
    passed(machine.ssh(put, user="sudoer", input=word))
    passed(machine.ssh("systemctl stop docker.socket docker"))
    for joins in (True, False):
        result = machine.ssh("tree/scripts/word", user="sudoer")
        assert result.returncode == 0, result.stderr
        assert re.fullmatch(r"Docker [0-9].*\n.*\bdocker\b.*\n", result.stdout)
        assert ("adding sudoer to the group docker" in result.stderr) == joins
    passed(machine.ssh("gpasswd -d sudoer docker; rm -r ~sudoer/tree"))


# A builder there ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def builder(machine: Machine, admin: Builder) -> Builder:
    """Deployed by ops; it has the base image, and tests/engine/context was built once."""
    start = time.monotonic()
    machine.load(DAEMON_IMAGE, GATEWAY_IMAGE)
    loaded = time.monotonic()
    output = admin.up()
    up = time.monotonic()
    for noise in ("refused by peer", "disabling multiplexing", "mux_client"):
        assert noise not in output
    admin.load_base()
    admin.build()
    record(
        "real host: seconds of docker load, first pulumi up and first build",
        1,
        load=loaded - start,
        up=up - loaded,
        build=time.monotonic() - up,
    )
    return admin


def daemon_says(machine: Machine, builder: Builder, form: str) -> str:
    inspect = f"docker inspect --format '{form}' {builder.container('daemon')}"
    return passed(machine.ssh(inspect, user="ops")).strip()


def test_only_the_daemon_has_its_profile(machine: Machine, builder: Builder) -> None:
    assert daemon_says(machine, builder, "{{.AppArmorProfile}}") == PROFILE
    process = daemon_says(machine, builder, "{{.State.Pid}}")
    label = passed(machine.ssh(f"cat /proc/{process}/attr/current")).strip("\0\n")
    assert label == f"{PROFILE} (unconfined)"
    # The kernel refuses a container without the rule.
    lacking = "abi <abi/4.0>,\nprofile lacking {\n  allow all,\n  audit deny userns,\n}\n"
    passed(machine.ssh("cat >/tmp/lacking && apparmor_parser -r /tmp/lacking", input=lacking))
    unshare = (
        "docker run --rm --network none --user 1000:1000 --security-opt seccomp=unconfined "
        f"--security-opt apparmor=%s --entrypoint unshare {DAEMON_IMAGE} -U true"
    )
    assert machine.ssh(unshare % PROFILE, user="ops").returncode == 0
    refused = machine.ssh(unshare % "lacking", user="ops")
    assert refused.returncode != 0
    assert 'operation="userns_create"' in passed(machine.ssh("dmesg | grep DENIED"))
    passed(machine.ssh("apparmor_parser -R /tmp/lacking"))


def test_a_second_update_changes_nothing(builder: Builder) -> None:
    start = time.monotonic()
    assert "unchanged" in builder.up("--expect-no-changes")
    record("real host: seconds of a pulumi up that changes nothing", 1, up=time.monotonic() - start)
    refreshed = builder.pulumi("refresh", "--expect-no-changes")
    assert refreshed.returncode == 0, refreshed.stdout


def test_with_docker_stopped_a_preview_plans_nothing(machine: Machine, builder: Builder) -> None:
    passed(machine.ssh("systemctl stop docker.socket docker"))
    shown = builder.pulumi("preview", "--diff", "--expect-no-changes")
    passed(machine.ssh("systemctl start docker"))
    assert "Docker does not answer" in shown.stdout + shown.stderr
    assert shown.returncode == 0, shown.stdout
    assert until(lambda: "200 OK" in builder.ping().stdout, 300)


def seconds_of(build: Result, start: float) -> float:
    passed(build)
    return time.monotonic() - start


def kit_build(laptop: Laptop) -> Result:
    return laptop.sh(
        "cd ~/context && ~/.builder/builder on >/dev/null && "
        f"docker build --progress=plain --build-arg BASE={BASE_IMAGE} .",
        seconds=PATIENCE,
    )


def test_builds_work_over_plain_ssh_with_the_kit_and_with_latency(
    machine: Machine, builder: Builder
) -> None:
    with Laptop.with_kit(builder) as laptop:
        laptop.put(ROOT / "tests" / "engine" / "context", "/home/rootless/context")
        passed(laptop.builder("on"))
        for latency in (0, 50):
            if latency:
                passed(machine.ssh(f"tc qdisc add dev eth0 root netem delay {latency}ms"))
            start = time.monotonic()
            output = builder.build()
            plain = time.monotonic() - start
            assert output.count("CACHED") == 3, output
            start = time.monotonic()
            kit = seconds_of(kit_build(laptop), start)
            record(
                f"real host: seconds of a warm build, {latency} ms of latency added",
                1,
                plain_ssh=plain,
                kit=kit,
            )
        passed(machine.ssh("tc qdisc del dev eth0 root"))
        passed(laptop.builder("off"))


# Limits of single containers ----------------------------------------------------------------------


def in_container(builder: Builder, script: str, *options: str) -> Result:
    return builder.docker("run", "--rm", *options, BASE_IMAGE, "sh", "-c", script)


def test_a_container_keeps_to_its_memory(builder: Builder) -> None:
    hog = in_container(builder, "cat /sys/fs/cgroup/memory.max; tail /dev/zero", "--memory=64m")
    assert (hog.returncode, hog.stdout) == (137, f"{64 * 2**20}\n")


def test_a_container_keeps_to_its_processes(builder: Builder) -> None:
    forks = "for n in $(seq 40); do sleep 5 & done; wait"
    assert "can't fork" in in_container(builder, forks, "--pids-limit=20").stderr
    assert "can't fork" not in in_container(builder, forks).stderr


def test_a_container_keeps_to_its_cpus(builder: Builder) -> None:
    busy = (
        "timeout 10 sh -c 'while :; do :; done'; cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpu.stat"
    )
    output = passed(in_container(builder, busy, "--cpus=0.5"))
    assert output.startswith("50000 100000\n")
    assert int(output.split("nr_throttled ")[1].split()[0]) > 0


def test_a_cgroup_parent_moves_no_step_out_of_the_limits(builder: Builder) -> None:
    dockerfile = f"FROM {BASE_IMAGE}\nRUN echo it is in $(cat /proc/self/cgroup)\n"

    def group(*options: str) -> str:
        words = ("build", "--no-cache", "--progress=plain", *options, "-")
        output = builder.docker(*words, input=dockerfile).stderr
        # Each step has a name of its own.
        return re.sub("[a-z0-9]{25}", "STEP", re.findall("it is in (0::.*)", output)[0])

    assert group("--cgroup-parent=/beyond") == group("--cgroup-parent=beyond.slice") == group()


def test_limits_are_changed_while_a_container_runs(builder: Builder) -> None:
    name = passed(builder.docker("run", "--detach", "--memory=64m", BASE_IMAGE, "sleep", "600"))
    passed(builder.docker("update", "--memory=96m", "--memory-swap=96m", name.strip()))
    output = passed(builder.docker("exec", name.strip(), "cat", "/sys/fs/cgroup/memory.max"))
    assert output == f"{96 * 2**20}\n"
    stats = ("stats", "--no-stream", "--format", "{{.MemUsage}}", name.strip())
    assert "96MiB" in passed(builder.docker(*stats))
    passed(builder.docker("rm", "--force", name.strip()))


def test_the_status_says_that_limits_work(builder: Builder) -> None:
    assert '"limits": "containers keep to theirs"' in builder.client("status", "--json").stdout


def test_a_fork_bomb_leaves_processes_for_the_daemon(machine: Machine, builder: Builder) -> None:
    """systemd gives the container less than the setting, and two users run the bomb at once."""
    started = daemon_says(machine, builder, "{{.State.StartedAt}}")
    process = daemon_says(machine, builder, "{{.State.Pid}}")
    group = passed(machine.ssh(f"sed -n 's/^0:://p' /proc/{process}/cgroup")).strip()
    group = f"/sys/fs/cgroup{group.removesuffix('/builder/daemon')}"
    works = f"{group}/builder/user.slice/user-1000.slice"
    limits = passed(machine.ssh(f"cat {group}/pids.max {works}/pids.max")).split()
    assert int(limits[1]) == int(limits[0]) - 512 < 16384
    fork = "(for n in $(seq 6000); do sleep 600 & done); exec sleep 600"
    bombs = [
        passed(
            builder.docker("run", "--detach", "--user", user, BASE_IMAGE, "sh", "-c", fork)
        ).strip()
        for user in ("0", "1000")
    ]
    assert until(
        lambda: all("can't fork" in builder.docker("logs", bomb).stderr for bomb in bombs), 600
    )
    passed(builder.docker("version"))
    # Docker waits ten seconds for the end of a container, which has thousands of processes here.
    assert until(lambda: builder.docker("rm", "--force", *bombs).returncode == 0, 300)
    assert passed(in_container(builder, "echo runs")) == "runs\n"
    assert daemon_says(machine, builder, "{{.State.StartedAt}}") == started


EVERYTHING = ("--privileged", "--cgroupns=host", "--pid=host", "--volume=/:/host")
# In the daemon's own tree, and in the container's group around it.
RAISE = """
for folder in /sys/fs/cgroup /host/run/container-cgroup; do
    mount -o remount,rw $folder; mount -o remount,bind,rw $folder
    for file in memory.max pids.max cpu.max cgroup.max.descendants; do
        [ -e $folder/$file ] && echo "found $file"
        echo max >$folder/$file && echo REACHED
    done
done
mkdir /host/run/container-cgroup/planted && echo REACHED
echo $$ >/host/run/container-cgroup/cgroup.procs && echo REACHED
cat /sys/fs/cgroup/cgroup.max.descendants
"""


def test_nothing_inside_raises_the_limits_of_the_daemons_container(builder: Builder) -> None:
    output = in_container(builder, RAISE, *EVERYTHING).stdout.splitlines()
    assert "REACHED" not in output
    assert output.count("found memory.max") == 2
    assert output[-1] == "2048"


@contextmanager
def build_in_flight(machine: Machine, builder: Builder) -> Iterator[list[Result]]:
    """A build whose step runs when the block begins; after it, the build has ended or failed."""
    results: list[Result] = []
    token = secrets.token_hex(4)
    dockerfile = f"FROM {BASE_IMAGE}\nRUN sleep 20 && echo {token} >/slow\n"
    thread = threading.Thread(
        target=lambda: results.append(builder.docker("build", "-", input=dockerfile))
    )
    thread.start()
    assert until(lambda: machine.ssh(f"pgrep -f '[e]cho {token}'").returncode == 0, 120)
    yield results
    thread.join()


def comes_back(builder: Builder) -> float:
    """The seconds until a build works again, with every step from the cache."""
    start = time.monotonic()
    builder.ssh_end()
    assert until(lambda: "200 OK" in builder.ping().stdout, 600)
    output = builder.build()
    assert output.count("CACHED") == 3, output
    assert passed(builder.docker("run", "--rm", "built", "cat", "/built")) == "hello\n"
    return time.monotonic() - start


def test_prepare_sets_up_emulation(machine: Machine) -> None:
    facts, output = look(machine, platform=EMULATED)
    assert facts["emulated"] == ""
    assert f"platforms has {EMULATED}, but the host is x86_64 and does not emulate it" in output
    words = f"check o nobody-builder 0.0.0.0 {PORT} {EMULATED} true"
    report = machine.ssh(f"sh -s -- {words}", input=PREFLIGHT, seconds=PATIENCE)
    assert report.returncode == 0, report.stderr
    assert "prepared: apt-get update" in report.stderr
    facts, output = look(machine, platform=EMULATED)
    assert facts["emulated"] == EMULATED
    assert not output, output


def test_builds_work_after_a_reboot(machine: Machine, builder: Builder, tmp_path: Path) -> None:
    boot = machine.reboot()
    record(
        "real host: seconds after a reboot",
        1,
        until_ssh_answers=boot,
        then_until_a_build_has_ended=comes_back(builder),
    )
    assert daemon_says(machine, builder, "{{.AppArmorProfile}}") == PROFILE
    # What `prepare` set up before.
    assert look(machine, platform=EMULATED)[0]["emulated"] == EMULATED
    foreign_context(tmp_path)
    build = ("build", "--progress=plain", "--platform", EMULATED, str(tmp_path))
    assert f" of {FOREIGN}\n" in passed(builder.docker(*build, stderr=subprocess.STDOUT))


def test_a_power_cut_during_a_build(machine: Machine, builder: Builder) -> None:
    with build_in_flight(machine, builder) as in_flight:
        machine.cut_power()
        boot = machine.boot()
    assert in_flight[0].returncode != 0
    record(
        "real host: power cut in a build",
        1,
        until_ssh_answers=boot,
        then_until_a_build_has_ended=comes_back(builder),
    )


def test_a_backup_has_the_whole_cache(machine: Machine, builder: Builder, tmp_path: Path) -> None:
    known = f"KnownHostsCommand=/bin/echo %H {machine.host_key}"
    path = put_ssh(tmp_path, "-F", "none", "-o", known)
    with (tmp_path / "cache.tar").open("wb") as archive:
        start = time.monotonic()
        saved = run(
            str(ROOT / "scripts" / "cache"),
            "save",
            f"{builder.stack}-builder",
            env={**builder.env, "PATH": path, "DOCKER_HOST": machine.url},
            stdout=archive,
            seconds=PATIENCE,
        )
    assert saved.returncode == 0, saved.stderr
    listed = passed(run("tar", "--list", "--file", str(tmp_path / "cache.tar")))
    assert "./docker-build-machine.note" in listed
    assert "./overlay2/" in listed
    record(
        "real host: backup of the cache",
        1,
        seconds=time.monotonic() - start,
        MiB=(tmp_path / "cache.tar").stat().st_size // 2**20,
    )
    assert "200 OK" in builder.ping().stdout


def test_private_networks_are_blocked(machine: Machine, builder: Builder) -> None:
    passed(machine.ssh("systemd-run --quiet --unit page python3 -m http.server 8099 -d /etc/apt"))
    # This network of QEMU's has the addresses that slirp4netns would have by default.
    address, port = "10.0.2.15", "8099"
    page = f"http://{address}:{port}/"
    assert until(lambda: machine.ssh(f"curl --silent --fail {page}").returncode == 0, 60)
    # The wget of a static busybox crashes on QEMU's emulated processor.
    ask = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 10 {address} {port} | grep -q '200 OK'"
    dockerfile = f"FROM {BASE_IMAGE}\nARG AT\nRUN {ask}\n"

    def reaches() -> bool:
        at = f"AT={secrets.token_hex(4)}"
        return builder.docker("build", "--build-arg", at, "-", input=dockerfile).returncode == 0

    assert reaches()
    builder.settings["privateNetworks"] = "block"
    builder.up()
    assert not reaches()
    assert builder.build().count("CACHED") == 3
    passed(machine.ssh("systemctl stop page"))


def test_builds_work_over_tls(builder: Builder) -> None:
    builder.settings |= {"transport": "tls", "privateNetworks": "allow"}
    builder.up()
    assert builder.build().count("CACHED") == 3
    assert "unchanged" in builder.up("--expect-no-changes")
