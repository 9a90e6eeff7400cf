"""The Docker host over a real sshd, and the messages when it cannot run a builder."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from components.host import PREFLIGHT
from tests.engine.conftest import (
    AS_ROOT,
    Builder,
    NewBuilder,
    Result,
    make_key,
    passed,
    run,
)
from tests.engine.hosts import Host, Hosts, hosts_in
from tests.engine.test_drift import drift


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with hosts_in(tmp_path_factory.mktemp("hosts")) as hosts:
        yield hosts


@dataclass(frozen=True)
class OnHost:
    """A deployed builder on a host behind SSH, and what its first deployment printed."""

    builder: Builder
    host: Host
    output: str


@pytest.fixture(scope="module")
def on_host(new_builder: NewBuilder, hosts: Hosts) -> OnHost:
    host = hosts.new("--device", "/dev/net/tun")
    builder = new_builder(**host.settings)
    builder.env["SSH_AUTH_SOCK"] = hosts.agent
    first = builder.pulumi("up")
    builder.write_ssh_config()
    return OnHost(builder, host, passed(first) + first.stderr)


def test_a_host_over_ssh(on_host: OnHost) -> None:
    for noise in ("refused by peer", "disabling multiplexing", "mux_client"):
        assert noise not in on_host.output, on_host.output
    assert "200 OK" in on_host.builder.ping().stdout
    assert "unchanged" in on_host.builder.up("--expect-no-changes")
    assert "The host is as the stack says." in drift(on_host.builder)[1]


def test_an_unknown_host_key_is_one_clear_error_before_anything_is_created(
    new_builder: NewBuilder, on_host: OnHost, hosts: Hosts, tmp_path: Path
) -> None:
    url = on_host.host.url
    builder = new_builder(host=url, hostKey=make_key(tmp_path / "other"))
    builder.env["SSH_AUTH_SOCK"] = hosts.agent
    result = builder.pulumi("up")
    assert result.returncode != 0
    assert f"host = {url} cannot be reached over SSH" in result.stdout
    assert "hostKey" in result.stdout
    assert "docker:index" not in builder.state()


def test_a_preview_changes_nothing_on_a_host_that_does_not_answer(on_host: OnHost) -> None:
    """After this test the host of `on_host` is gone."""
    builder = on_host.builder
    for outage, report in (
        ("rm /usr/local/bin/docker", "Docker does not answer"),
        ("kill 1", "cannot be reached over SSH"),
    ):
        on_host.host.shell(outage)
        shown = builder.pulumi("preview", "--diff", "--expect-no-changes")
        assert report in shown.stdout + shown.stderr
        assert shown.returncode == 0, shown.stdout
        # An update that cannot do anything there prints the reason.
        refused = builder.pulumi("up")
        assert refused.returncode != 0
        assert report in refused.stdout


def test_a_taken_port_is_named_before_anything_is_created(new_builder: NewBuilder) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        builder = new_builder(sshPort=port)
        result = builder.pulumi("up")
    assert result.returncode != 0
    assert f"sshPort = {port} (sshAddress = 127.0.0.1) is taken" in result.stdout
    assert run("docker", "inspect", builder.container("daemon")).returncode != 0
    builder.up()
    assert "200 OK" in builder.ping().stdout


def test_a_volume_of_another_owner_is_never_used(new_builder: NewBuilder) -> None:
    builder = new_builder()
    passed(run("docker", "volume", "create", builder.container("cache")))
    try:
        result = builder.pulumi("up")
        assert result.returncode != 0
        assert f"the volume {builder.container('cache')} belongs to something else" in result.stdout
    finally:
        passed(run("docker", "volume", "rm", builder.container("cache")))


def test_an_unreachable_docker_is_one_clear_error(new_builder: NewBuilder, tmp_path: Path) -> None:
    builder = new_builder(host=f"unix://{tmp_path}/no.sock")
    result = builder.pulumi("up")
    assert result.returncode != 0
    assert "host: Docker does not answer" in result.stdout
    assert "correct the setting host" in result.stdout


def test_the_engine_reports_every_wrong_setting(new_builder: NewBuilder) -> None:
    builder = new_builder(sshPort=0, keys=[], cacheSize="much", unknown="x")
    result = builder.pulumi("preview")
    assert result.returncode != 0
    for name in ("sshPort", "keys", "cacheSize", "unknown"):
        assert f"  - {name}" in result.stdout
    assert "Traceback" not in result.stdout


def test_a_preview_warns_of_what_a_host_lacks_and_an_update_refuses_it(
    new_builder: NewBuilder, hosts: Hosts
) -> None:
    """A container as host has no /dev/net/tun and no kernel module for it."""
    builder = new_builder(**hosts.new().settings, prepare=True)
    builder.env["SSH_AUTH_SOCK"] = hosts.agent
    shown = passed(builder.pulumi("preview"))
    assert "host: /dev/net/tun is missing: prepare will run: modprobe tun" in shown
    refused = builder.pulumi("up")
    assert refused.returncode != 0
    assert "host: prepare could not run: modprobe tun" in refused.stdout
    assert "host: /dev/net/tun is missing: modprobe tun" in refused.stdout
    assert "docker:index" not in builder.state()


def test_prepare_fixes_a_host_and_later_changes_are_shown(
    new_builder: NewBuilder, hosts: Hosts
) -> None:
    host = hosts.new("--device", "/dev/net/tun")
    passed(host.shell("chmod 0600 /dev/net/tun"))
    builder = new_builder(**host.settings)
    builder.env["SSH_AUTH_SOCK"] = hosts.agent
    closed = "/dev/net/tun is not usable by everybody"
    assert f"host: {closed}" in passed(builder.pulumi("preview"))
    assert passed(host.shell("stat -c %a /dev/net/tun")).strip() == "600"

    builder.settings["prepare"] = True
    assert "prepared: chmod 0666 /dev/net/tun" in builder.up()
    assert passed(host.shell("stat -c %a /dev/net/tun")).strip() == "666"
    assert 'MODE="0666"' in passed(
        host.shell("cat /etc/udev/rules.d/zz-docker-build-machine-tun.rules")
    )
    assert "200 OK" in builder.ping().stdout
    assert "HOST_" not in passed(builder.pulumi("preview", "--diff", "--expect-no-changes"))

    passed(host.shell("chmod 0600 /dev/net/tun"))
    builder.settings["prepare"] = False
    shown = passed(builder.pulumi("preview", "--diff"))
    facts = ["".join(line.split()) for line in shown.splitlines() if "~ HOST_" in line]
    assert facts == ['~HOST_TUN:"usable"=>"closed"']
    # A key can be removed in any state of the host.
    builder.add_key("ci")
    assert closed in builder.up()
    assert builder.ping("ci").returncode == 0


def test_every_shortfall_of_a_host_is_reported_together(tmp_path: Path) -> None:
    """preflight.sh in a mount namespace with a kernel and devices that do not suffice."""
    poor = tmp_path / "zero"
    poor.write_text("0\n")
    old_uname = tmp_path / "uname"
    old_uname.write_text('#!/bin/sh\n[ "$1" = -r ] && echo 5.4.0-old || exec /bin/uname "$@"\n')
    old_uname.chmod(0o755)
    root = passed(run("docker", "info", "--format", "{{.DockerRootDir}}")).strip()
    inside = (
        f"mount -t tmpfs -o size=1m,nr_inodes=10 full {root} && "
        f"mount --bind {poor} /proc/sys/user/max_user_namespaces && "
        f"mount --bind {poor} /dev/net/tun && "
        f"export CLOCK=$(($(date +%s) - 3600)) PATH={tmp_path}:$PATH && "
        f"sh -s -- check owner nobody-builder 127.0.0.1 1 linux/riscv64 false"
    )
    result = run(*AS_ROOT, "unshare", "--mount", "sh", "-c", inside, input=PREFLIGHT)
    assert result.returncode == 1
    for shortfall in (
        "kernel 5.4.0-old is too old",
        "platforms has linux/riscv64, but the host is",
        "the clock differs by",
        "the kernel refuses user namespaces",
        "modprobe tun",
        f"1 MiB are free at {root}; at least 2048 MiB",
        f"inodes are free at {root}; at least 20000",
    ):
        assert shortfall in result.stderr, result.stderr


def preflight_where(folder: Path, verb: str, *setting: str, platforms: str = "'' false") -> Result:
    """preflight.sh in its own mount namespace, after the shell commands of `setting`.

    `platforms` are the arguments PLATFORMS and PREPARE.

    Stand-in programs in `folder` record the changes that it would make to this machine's kernel.
    """
    for name in ("sysctl", "modprobe", "apparmor_parser"):
        if not (folder / name).exists():
            (folder / name).write_text(f'#!/bin/sh\necho "{name} $*" >>{folder}/called\n')
            (folder / name).chmod(0o755)
    words = "" if verb == "prepare" else f"o nobody-builder 127.0.0.1 1 {platforms}"
    inside = (f"export PATH={folder}:$PATH", *setting, f"sh -s -- {verb} {words}")
    return run(*AS_ROOT, "unshare", "--mount", "sh", "-euc", " && ".join(inside), input=PREFLIGHT)


OWN = "/etc/sysctl.d/zz-docker-build-machine-max_user_namespaces.conf"
REFUSING = "user.max_user_namespaces = 0"
ALLOWING = "user.max_user_namespaces=28633"


@pytest.mark.parametrize(
    ("file", "last"),
    [
        ("/etc/sysctl.d/90-hard.conf", False),
        ("/run/sysctl.d/99-hard.conf", False),
        ("/usr/lib/sysctl.d/zzz-hard.conf", True),
        ("/etc/sysctl.conf", True),
    ],
)
def test_a_boot_that_would_refuse_is_reported_and_prepared(
    tmp_path: Path, file: str, last: bool
) -> None:
    """With any setting of the kernel now. A file that is read after the program's own is named."""
    folders = [f"/{name}/sysctl.d" for name in ("etc", "run", "usr/lib")]
    hostile = tmp_path / "hostile"
    hostile.write_text(f"# hardened\n-{REFUSING.replace('.', '/')}\n")
    setting = (
        *(f"mkdir -p {folder} && mount -t tmpfs none {folder}" for folder in folders),
        # Not with systemd, which does not read sysctl.conf.
        "mkdir -p /run/systemd && mount -t tmpfs none /run/systemd",
        f"cp {hostile} {file}" if "sysctl.d" in file else f"mount --bind {hostile} {file}",
    )
    report = preflight_where(tmp_path, "look", *setting).stderr
    assert f"from the next boot on ({REFUSING} in {file}): " in report
    lasting = f"sysctl -w {ALLOWING} && echo {ALLOWING} >{OWN}"
    assert lasting in report
    assert (f"after {OWN}: take that line out of {file}" in report) == last
    prepared = preflight_where(tmp_path, "prepare", *setting, "trap 'cat /etc/sysctl.d/zz-*' EXIT")
    assert f"prepared: {lasting}" in prepared.stderr
    assert (prepared.returncode, prepared.stdout) == (last, f"{ALLOWING}\n")
    assert f"sysctl -w {ALLOWING}" in (tmp_path / "called").read_text()


def test_a_tun_device_that_does_not_open_is_reported(tmp_path: Path) -> None:
    """The node and its mode are right, but the kernel has no device behind it."""
    passed(run(*AS_ROOT, "mknod", "--mode=0666", str(tmp_path / "tun"), "c", "10", "250"))
    hidden = f"mount --bind {tmp_path}/tun /dev/net/tun"
    report = preflight_where(tmp_path, "look", hidden)
    assert "tun=broken" in report.stdout
    assert (
        "/dev/net/tun cannot be opened (No such device), so the kernel has no tun" in report.stderr
    )
    assert "modprobe tun && echo tun >/etc/modules-load.d" in report.stderr


def test_apparmors_restriction_is_lifted_only_for_the_daemons_container(tmp_path: Path) -> None:
    setting: tuple[str, ...] = (
        "mount -t tmpfs none /proc/sys/kernel",
        "echo 1 >/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "mkdir -p /etc/apparmor.d && mount -t tmpfs none /etc/apparmor.d",
        "mkdir -p /etc/sysctl.d && mount -t tmpfs none /etc/sysctl.d",
    )
    report = preflight_where(tmp_path, "look", *setting)
    assert "namespaces=refused" in report.stdout
    assert "apparmor_parser --replace /etc/apparmor.d/docker-build-machine" in report.stderr
    line = report.stderr.split(
        "without a profile (kernel.apparmor_restrict_unprivileged_userns = 1): "
    )[1]
    paste = f"{line.strip()} && cat /etc/apparmor.d/docker-build-machine"
    pasted = preflight_where(tmp_path, "look", *setting, paste).stdout
    assert "profile docker-build-machine flags=(unconfined) {\n  userns,\n}\n" in pasted

    (tmp_path / "apparmor_parser").write_text("#!/bin/sh\necho syntax error; exit 1\n")
    report = preflight_where(tmp_path, "prepare", *setting)
    assert "to the daemon's container only: syntax error" in report.stderr
    assert "prepared: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0" in report.stderr


BINFMT = "/proc/sys/fs/binfmt_misc"


@pytest.mark.parametrize(
    ("entry", "flags", "state", "emulated"),
    [
        ("qemu-riscv64", "POF", "enabled", True),
        ("qemu-riscv64-static", "F", "enabled", True),
        # Without F, a container would have to have QEMU.
        ("qemu-riscv64", "OC", "enabled", False),
        ("qemu-riscv64", "POF", "disabled", False),
        ("qemu-riscv32", "POF", "enabled", False),
    ],
)
def test_a_declared_platform_must_be_emulated_for_containers_too(
    tmp_path: Path, entry: str, flags: str, state: str, emulated: bool
) -> None:
    (tmp_path / "entry").write_text(f"{state}\ninterpreter /q\nflags: {flags}\noffset 0\n")
    setting = (f"mount -t tmpfs none {BINFMT}", f"cp {tmp_path}/entry {BINFMT}/{entry}")
    look = preflight_where(tmp_path, "look", *setting, platforms="linux/riscv64 false")
    assert f"emulated={'linux/riscv64' if emulated else ''}\n" in look.stdout
    lacking = "platforms has linux/riscv64, but the host is "
    assert (lacking in look.stderr) != emulated
    if not emulated:
        assert " and does not emulate it: apt-get update -qq && " in look.stderr


@pytest.mark.parametrize("registers", ["apt-get", "systemctl", ""])
def test_prepare_sets_up_emulation(tmp_path: Path, registers: str) -> None:
    """Debian's packages register QEMU at once, or systemd does when it reads their files."""
    for name in ("apt-get", "systemctl"):
        register = f"printf 'enabled\\nflags: POF\\n' >{BINFMT}/qemu-riscv64"
        (tmp_path / name).write_text(
            f'#!/bin/sh\necho "{name} $*" >>{tmp_path}/called\n'
            f"{register if name == registers else ':'}\n"
        )
        (tmp_path / name).chmod(0o755)
    empty = f"mount -t tmpfs none {BINFMT}"
    shown = preflight_where(tmp_path, "look", empty, platforms="linux/riscv64 true")
    assert "does not emulate it: prepare will run: apt-get update" in shown.stderr
    assert "emulated=linux/riscv64\n" in shown.stdout
    assert not (tmp_path / "called").exists()

    prepared = preflight_where(tmp_path, "check", empty, platforms="linux/riscv64 true")
    called = (tmp_path / "called").read_text()
    assert "qemu-user-static binfmt-support\n" in called
    assert ("systemctl restart systemd-binfmt" in called) == (registers != "apt-get")
    assert (prepared.returncode == 0) == bool(registers)
    assert ("does not emulate it: prepared: apt-get" in prepared.stderr) == bool(registers)
    assert f"emulated={'linux/riscv64' if registers else ''}\n" in prepared.stdout
