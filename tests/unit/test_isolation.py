"""The exact capabilities of each container, and what it must not have."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.daemon.limits import Limits
from components.host_facts import HostFacts
from components.settings import Settings
from tests.unit.conftest import LOOK, ROOT, Run

Program = Callable[..., Run]

ADA = {
    "name": "ada",
    "publicKey": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA8mWEwgv2hCdQZQ3R4lVxxO1OVbpL5tzTDMVQGDzXmV",
}
LONG_RUNNING = ("builder-daemon", "builder-gateway", "builder-janitor")


def label(run: Run) -> str:
    labels = {pair["label"]: pair["value"] for pair in run["builder-daemon"].inputs["labels"]}
    return str(labels["docker-build-machine.isolation"])


def profile(run: Run) -> Any:
    options = run["builder-daemon"].inputs["securityOpts"]
    return json.loads(next(o for o in options if o.startswith("seccomp=")).removeprefix("seccomp="))


def allowed(run: Run) -> set[str]:
    """The system calls that are allowed with any arguments."""
    return {
        name for rule in profile(run)["syscalls"] if not rule.get("args") for name in rule["names"]
    }


def test_no_container_is_privileged(run_program: Program) -> None:
    for container in run_program().of_type(":Container"):
        assert "privileged" not in container.inputs, container.name


def test_only_the_daemon_is_privileged_and_only_by_setting(run_program: Program) -> None:
    run = run_program(isolation="privileged")
    privileged = [c.name for c in run.of_type(":Container") if c.inputs.get("privileged")]
    assert privileged == ["builder-daemon"]
    daemon = run["builder-daemon"].inputs
    assert not {"capabilities", "devices"} & set(daemon)
    assert daemon["securityOpts"] == ["apparmor=unconfined"]
    assert not {"builder-isolation", "builder-sysfs"} & set(run.resources)
    assert label(run) == "privileged"


def test_the_daemon_has_two_capabilities_one_device_and_a_profile(run_program: Program) -> None:
    daemon = run_program()["builder-daemon"].inputs
    assert daemon["capabilities"] == {
        # All but the first two are for root's script, which ends seconds after the start.
        "adds": [
            *("CAP_SETUID", "CAP_SETGID"),
            *("CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SETPCAP", "CAP_SETFCAP"),
        ],
        "drops": ["ALL"],
    }
    assert daemon["devices"] == [{"hostPath": "/dev/net/tun"}]
    others = [o for o in daemon["securityOpts"] if not o.startswith("seccomp=")]
    assert others == ["apparmor=unconfined", "systempaths=unconfined"]
    assert not {"pidMode", "sysctls", "groupAdds"} & set(daemon)


def test_the_daemon_gets_fuse_where_the_host_has_it(
    run_program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = run_program()
    monkeypatch.setattr("tests.unit.conftest.LOOK", f"{LOOK}fuse=present\n")
    run = run_program()
    devices = [{"hostPath": "/dev/net/tun"}, {"hostPath": "/dev/fuse"}]
    assert run["builder-daemon"].inputs["devices"] == devices
    assert label(run) != label(before)
    monkeypatch.setattr("tests.unit.conftest.LOOK", f"{LOOK}fuse=missing\n")
    assert run_program()["builder-daemon"].inputs["devices"] == devices[:1]


@pytest.mark.parametrize("isolation", ["unprivileged", "privileged"])
def test_where_its_apparmor_profile_is_loaded_the_daemon_has_it(
    run_program: Program, monkeypatch: pytest.MonkeyPatch, isolation: str
) -> None:
    before = run_program(isolation=isolation)
    monkeypatch.setattr("tests.unit.conftest.LOOK", f"{LOOK}apparmor=profile\n")
    run = run_program(isolation=isolation)
    assert "apparmor=docker-build-machine" in run["builder-daemon"].inputs["securityOpts"]
    assert label(run) != label(before)
    if isolation == "unprivileged":
        create = run["builder-isolation"].inputs["create"]
        assert "--security-opt=apparmor=docker-build-machine" in create


def test_the_profile_allows_namespaces_and_no_way_into_the_kernel(run_program: Program) -> None:
    run = run_program()
    assert profile(run)["defaultAction"] == "SCMP_ACT_ERRNO"
    names = allowed(run)
    assert {"clone", "unshare", "mount", "pivot_root", "setns"} <= names
    for name in (
        *("bpf", "perf_event_open", "init_module", "finit_module", "delete_module", "kexec_load"),
        *("kexec_file_load", "open_by_handle_at", "userfaultfd", "io_uring_setup", "iopl"),
        *("ioperm", "reboot", "swapon", "settimeofday", "clock_settime", "acct", "quotactl"),
        *("add_key", "request_key", "kcmp", "syslog", "socket", "socketcall", "personality"),
    ):
        assert name not in names, name


def test_no_socket_bypasses_the_network_namespace(run_program: Program) -> None:
    rules = [rule for rule in profile(run_program())["syscalls"] if rule["names"] == ["socket"]]
    tests = {(arg["op"], arg["value"]) for rule in rules for arg in rule["args"]}
    # 38 is AF_ALG, 40 is AF_VSOCK.
    assert tests == {("SCMP_CMP_LT", 38), ("SCMP_CMP_EQ", 39), ("SCMP_CMP_GT", 40)}


def test_a_change_of_the_mode_replaces_the_daemon_and_nothing_else_does(
    run_program: Program,
) -> None:
    """The provider never reads `systempaths` back, so the label is compared in its place."""
    unprivileged, privileged = run_program(), run_program(isolation="privileged")
    assert list(unprivileged["builder-daemon"].request.ignoreChanges) == ["securityOpts"]
    assert label(unprivileged) == label(run_program()) != label(privileged)
    assert label(unprivileged) in unprivileged["builder-drain"].inputs["triggers"]


@pytest.mark.parametrize("transport", ["socket", "tls"])
def test_all_others_have_only_the_capabilities_they_need(
    run_program: Program, transport: str
) -> None:
    needed = {
        "builder-gateway": ["CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID"],
        "builder-janitor": [],
        "builder-keys": [],
        "builder-certificates": ["CHOWN", "FOWNER"],
    }
    for container in run_program(transport=transport).of_type(":Container"):
        if container.name == "builder-daemon":
            continue
        inputs = container.inputs
        assert inputs["securityOpts"] == ["no-new-privileges:true"], container.name
        assert inputs["capabilities"]["drops"] == ["ALL"], container.name
        added = [f"CAP_{name}" for name in needed[container.name]]
        assert inputs["capabilities"].get("adds", []) == added, container.name
        assert "devices" not in inputs, container.name


def test_with_the_socket_only_the_daemon_has_outgoing_connections(run_program: Program) -> None:
    run = run_program()
    networks = {c.name: c.inputs.get("networksAdvanced") for c in run.of_type(":Container")}
    assert [n["name"] for n in networks.pop("builder-daemon") or []] == ["dev-builder-network"]
    assert networks.pop("builder-gateway") == [{"name": "dev-builder-entrance"}]
    for name, attached in networks.items():
        assert attached is None, name
        assert run[name].inputs["networkMode"] == "none", name
    options = {
        name.removeprefix("com.docker.network.bridge."): value
        for name, value in run["builder-entrance"].inputs["options"].items()
    }
    assert options == {"enable_icc": "false", "enable_ip_masquerade": "false"}


def test_over_tls_gateway_and_janitor_reach_the_daemon(run_program: Program) -> None:
    run = run_program(transport="tls")
    for name in LONG_RUNNING:
        attached = [network["name"] for network in run[name].inputs["networksAdvanced"]]
        assert attached == ["dev-builder-tls-network"]


def test_a_full_gateway_does_not_fill_its_host(run_program: Program) -> None:
    gateway = run_program()["builder-gateway"].inputs
    assert gateway["memory"] == gateway["memorySwap"] == 2048


def test_nothing_can_write_the_janitors_root(run_program: Program) -> None:
    janitor = run_program()["builder-janitor"].inputs
    assert janitor["readOnly"]
    assert "uploads" not in janitor


def test_the_docker_cli_beside_the_daemon_runs_nothing_that_a_build_left(
    run_program: Program,
) -> None:
    daemon = run_program()["builder-daemon"].inputs
    assert "DOCKER_CONFIG=/etc/docker-build-machine/client" in daemon["envs"]
    assert not any(env.startswith("BUILDX_CONFIG=") for env in daemon["envs"])
    buildx = "/etc/docker-build-machine/client/buildx"
    assert daemon["tmpfs"][f"{buildx}/instances"] == "mode=0755"
    assert daemon["tmpfs"][f"{buildx}/defaults"] == "mode=0755"


def test_root_runs_its_script_and_the_daemon_starts_without_capabilities(
    run_program: Program,
) -> None:
    daemon = run_program()["builder-daemon"].inputs
    script = "/usr/local/lib/daemon/egress"
    assert daemon["user"] == "0:0"
    assert daemon["entrypoints"] == [
        *("sh", "/usr/local/lib/daemon/grants"),
        *("sh", "/usr/local/lib/daemon/cgroups", "setup"),
        *("sh", script, "start"),
        *("docker-init", "--", "dockerd-entrypoint.sh"),
    ]
    assert daemon["healthcheck"]["tests"][:5] == ["CMD", "sh", script, "as-user", "docker"]


def test_private_networks_are_open_unless_blocked(run_program: Program) -> None:
    egress = {env for env in run_program()["builder-daemon"].inputs["envs"] if "EGRESS" in env}
    assert egress == {"EGRESS_PRIVATE=allow"}


def test_the_daemon_starts_behind_the_rules_where_they_are_blocked(run_program: Program) -> None:
    run = run_program(privateNetworks="block", privateNetworksExcept=["10.0.5.7", "fd00::/64"])
    daemon = run["builder-daemon"].inputs
    assert "EGRESS_PRIVATE=block" in daemon["envs"]
    assert "EGRESS_OPEN=10.0.5.7/32 fd00::/64" in daemon["envs"]
    assert label(run) != label(run_program(privateNetworks="block")) != label(run_program())


def notes(facts: HostFacts, **settings: Any) -> list[str]:
    return Limits.of(Settings.of({"keys": [ADA], **settings})).notes(facts)


def test_limits_that_work_cause_no_warning() -> None:
    assert notes(HostFacts()) == []
    assert notes(HostFacts(cgroup="2", processes="16896")) == []


def test_a_lower_limit_of_the_host_on_processes_is_reported() -> None:
    report = notes(HostFacts(cgroup="2", processes="5879"))
    assert len(report) == 1
    assert report[0].startswith("processes = 16384: this host lets a container have 5879 processes")
    assert notes(HostFacts(cgroup="2", processes="5879"), processes=5000) == []


@pytest.mark.parametrize(
    ("cgroup", "isolation", "why"),
    [
        ("1", "unprivileged", "the host has control groups of version 1"),
        ("2", "privileged", "isolation is privileged"),
    ],
)
def test_limits_of_containers_without_effect_are_reported(
    cgroup: str, isolation: str, why: str
) -> None:
    report = notes(HostFacts(cgroup=cgroup), isolation=isolation)
    assert len(report) == 1
    assert "do nothing: they need control groups of version 2 and" in report[0]
    assert f"but {why};" in report[0]


def test_flags_that_rootlesskit_has_already_stay_when_limits_work() -> None:
    """Only a host with control groups of version 2 gets so far: `setup` is replaced here."""
    script = (ROOT / "components" / "daemon" / "cgroups.sh").read_text()
    works = script.replace("\ncase $1 in\n", "\nsetup() { :; }\ncase $1 in\n")
    assert works != script
    shown = subprocess.run(
        ["sh", "-s", "setup", "sh", "-c", 'echo "$DOCKERD_ROOTLESS_ROOTLESSKIT_FLAGS"'],
        input=works,
        env={**os.environ, "DOCKERD_ROOTLESS_ROOTLESSKIT_FLAGS": "--cidr=198.18.0.0/24"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert shown.split() == ["--cidr=198.18.0.0/24", "--cgroupns"]


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.mark.parametrize("isolation", ["unprivileged", "privileged"])
def test_rootlesskit_is_run_by_a_script_of_the_same_name(
    run_program: Program, isolation: str
) -> None:
    daemon = run_program(isolation=isolation)["builder-daemon"].inputs
    [script] = [u for u in daemon["uploads"] if u["file"] == "/usr/local/sbin/rootlesskit"]
    assert script["permissions"] == "0755"
    assert "DOCKERD_ROOTLESS_ROOTLESSKIT_DETACH_NETNS=false" in daemon["envs"]


@pytest.mark.parametrize(
    ("has_slirp4netns", "given", "expected"),
    [
        (True, "--net=slirp4netns --mtu=65520", "--net=slirp4netns --mtu=65520"),
        (False, "--net=slirp4netns --mtu=65520", "--net=gvisor-tap-vsock --mtu=65520"),
        (False, "--net=pasta", "--net=pasta"),
        (False, "--cgroupns sh x", "--cgroupns sh x"),
        (True, "--detach-netns --net=slirp4netns dockerd", "--net=slirp4netns dockerd"),
        (True, "--detach-netns=true a b", "a b"),
    ],
)
def test_rootlesskit_gets_a_network_driver_that_the_image_has_and_a_namespace_of_its_own(
    tmp_path: Path, has_slirp4netns: bool, given: str, expected: str
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    script = (ROOT / "components" / "daemon" / "rootlesskit.sh").read_text()
    program(first / "rootlesskit", script)
    program(second / "rootlesskit", '#!/bin/sh\nprintf "%s\\n" "$@"\n')
    if has_slirp4netns:
        program(second / "slirp4netns", "#!/bin/sh\n")
    sh = shutil.which("sh") or ""
    path = {"PATH": f"{first}:{second}"}
    # As the daemon's container runs it, and as the check of the image does.
    for command in ([sh, str(first / "rootlesskit")], [sh, "-c", script, "rootlesskit"]):
        path["PATH"] = f"{first}:{second}" if command[1] != "-c" else str(second)
        shown = subprocess.run(
            [*command, *given.split()], env=path, capture_output=True, text=True, check=True
        )
        assert shown.stdout.split() == expected.split()
        assert ("has no slirp4netns" in shown.stderr) == ("gvisor" in expected)


@pytest.mark.parametrize(
    ("subids", "ids", "added"),
    [
        ("rootless:100000:65536", "0 0 4294967295", "rootless:165536:4294801759"),
        # The user's last range counts, and ranges of others do not.
        (
            "rootless:100000:65536\ndockremap:165536:65536\nrootless:300000:10",
            "0 0 4294967295",
            "rootless:300010:4294667285",
        ),
        # A host in a user namespace has fewer ids.
        ("rootless:100000:65536", "0 1000000 1000000", "rootless:165536:834464"),
        ("rootless:100000:65536", "0 1000000 165536", ""),
        ("rootless:100000:65536", "0 100000 65536", ""),
        ("rootless:100000:65536\nrootless:165536:4294801759", "0 0 4294967295", ""),
        ("other:100000:65536", "0 0 4294967295", ""),
    ],
)
def test_builds_have_all_ids_that_the_container_has(
    tmp_path: Path, subids: str, ids: str, added: str
) -> None:
    script = (ROOT / "components" / "daemon" / "grants.sh").read_text()
    for name, text in (("subuid", subids), ("subgid", subids), ("uid_map", ids), ("gid_map", ids)):
        (tmp_path / name).write_text(f"{text}\n")
        where = "/etc" if name.startswith("sub") else "/proc/self"
        assert f"{where}/{name}" in script
        script = script.replace(f"{where}/{name}", f"{tmp_path}/{name}")
    # The last test of the script is for a real device.
    script = script.replace("/dev/fuse", f"{tmp_path}/fuse")
    for _ in range(2):
        subprocess.run(["sh", "-c", script, "grants", "true"], check=True)
    for name in ("subuid", "subgid"):
        lines = f"{subids}\n{added}".strip().splitlines()
        assert (tmp_path / name).read_text().splitlines() == lines


RLIMITS = '{"rlimits":[{"type":"RLIMIT_CORE","hard":99999,"soft":99999}%s],"x":[{"soft":99999}]}'


def rlimit(name: str, hard: int, soft: int) -> str:
    return f',{{"type":"RLIMIT_{name}","hard":{hard},"soft":{soft}}}'


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (rlimit("NPROC", 2**64 - 1, 5000), rlimit("NPROC", 1000, 1000)),
        (rlimit("NPROC", 5000, 500), rlimit("NPROC", 1000, 500)),
        (rlimit("NPROC", 900, 500), rlimit("NPROC", 900, 500)),
        (
            rlimit("NOFILE", 9999, 9999) + rlimit("MEMLOCK", 2**64 - 1, 2**64 - 1),
            rlimit("NOFILE", 64, 64) + rlimit("MEMLOCK", 65536, 65536),
        ),
        ("", ""),
    ],
)
def test_a_container_gets_no_higher_limit_than_runc_can_set(
    tmp_path: Path, given: str, expected: str
) -> None:
    """runc.sh with another program as runc, because Docker would have to make these files."""
    first, second, bundle = tmp_path / "first", tmp_path / "second", tmp_path / "bundle"
    for folder in (first, second, bundle):
        folder.mkdir()
    script = (ROOT / "components" / "daemon" / "runc.sh").read_text()
    # As proc(5) has them; a limit that no container asks for stays.
    limits = tmp_path / "limits"
    limits.write_text(
        f"{'Limit':<26}{'Soft Limit':<21}{'Hard Limit':<21}Units\n"
        f"{'Max processes':<26}{'500':<21}{'1000':<21}processes\n"
        f"{'Max open files':<26}{'64':<21}{'64':<21}files\n"
        f"{'Max locked memory':<26}{'65536':<21}{'65536':<21}bytes\n"
        f"{'Max core file size':<26}{'0':<21}{'0':<21}bytes\n"
    )
    assert "/proc/self/limits" in script
    script = script.replace("/proc/self/limits", str(limits)).replace("ulimit -", ": ")
    program(first / "runc", script)
    program(second / "runc", '#!/bin/sh\nprintf "%s " "$@"\n')
    config, process = bundle / "config.json", tmp_path / "process.json"
    for verb, words_of, written in (
        ("create", ["--bundle", str(bundle)], config),
        ("exec", ["--process", str(process)], process),
    ):
        written.write_text(RLIMITS % given)
        words = ["runc", "--root", "/r", verb, *words_of, "name"]
        path = {"PATH": f"{first}:{second}:{os.environ['PATH']}", "BUILDER_PROCESSES": "1000"}
        shown = subprocess.run(words, env=path, capture_output=True, text=True, check=True)
        assert shown.stdout.split() == words[1:]
        assert written.read_text().strip() == RLIMITS % expected
