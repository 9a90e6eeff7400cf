"""The resources that the program declares: their exact inputs, and what must be absent."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pulumi
import pytest

from components import metrics
from components.guard import archive
from tests.unit import conftest as mocked
from tests.unit.conftest import DISK, KEY, OTHER_KEY, PRIVATE_KEY, Registered, Run

Program = Callable[..., Run]

SECRET_SIGNATURE = "4dabf18193072939515e22adb298388d"
SECRET_MARK = "1b47061264138c4ac30d75fd1eb44270"
CHILDREN = {
    "builder-host": "pulumi:providers:docker",
    "builder-preflight": "command:local:Command",
    "builder-cache-check": "command:local:Command",
    "builder-host-key-1": "command:local:Command",
    "builder-daemon-image": "docker:index/remoteImage:RemoteImage",
    "builder-gateway-image": "docker:index/remoteImage:RemoteImage",
    "builder-isolation": "command:local:Command",
    "builder-network": "docker:index/network:Network",
    "builder-entrance": "docker:index/network:Network",
    "builder-cache": "docker:index/volume:Volume",
    "builder-runtime": "docker:index/volume:Volume",
    "builder-sysfs": "docker:index/volume:Volume",
    "builder-access": "docker:index/volume:Volume",
    "builder-keys": "docker:index/container:Container",
    "builder-drain": "command:local:Command",
    "builder-daemon": "docker:index/container:Container",
    "builder-janitor": "docker:index/container:Container",
    "builder-gateway": "docker:index/container:Container",
    "builder-readiness": "command:local:Command",
}
TLS_CHILDREN = {
    **{
        name: kind
        for name, kind in CHILDREN.items()
        if name not in ("builder-runtime", "builder-network", "builder-entrance")
    },
    "builder-tls-network": "docker:index/network:Network",
    "builder-tls-server": "docker:index/volume:Volume",
    "builder-tls-client": "docker:index/volume:Volume",
    "builder-certificates": "docker:index/container:Container",
}


def children(run: Run) -> dict[str, str]:
    return {
        name: resource.type
        for name, resource in run.resources.items()
        if name.startswith("builder-")
    }


def unwrapped(value: Any) -> Any:
    return value["value"] if isinstance(value, dict) and SECRET_SIGNATURE in value else value


def uploads(container: Registered) -> dict[str, dict[str, Any]]:
    return {upload["file"]: upload for upload in unwrapped(container.inputs["uploads"])}


def test_exactly_these_resources(run_program: Program) -> None:
    run = run_program()
    assert children(run) == CHILDREN
    assert set(run.resources) - set(CHILDREN) == {"docker-build-machine-dev", "builder"}


def test_tls_adds_certificates_and_drops_the_shared_socket(run_program: Program) -> None:
    run = run_program(transport="tls")
    assert children(run) == TLS_CHILDREN
    daemon, gateway = run["builder-daemon"].inputs, run["builder-gateway"].inputs
    assert not daemon["command"][0].startswith("dockerd")
    assert {v["volumeName"]: v["containerPath"] for v in daemon["volumes"]} == {
        "dev-builder-cache": "/home/rootless/.local/share/docker",
        "dev-builder-sysfs": "/root/sys",
        "dev-builder-tls-server": "/certs/server",
    }
    assert {v["volumeName"]: v["containerPath"] for v in gateway["volumes"]} == {
        "dev-builder-access": "/access",
        "dev-builder-tls-client": "/tls",
    }
    config = uploads(run["builder-gateway"])["/usr/local/lib/gateway/sshd_config"]["content"]
    assert "DOCKER_HOST=tcp://docker:2376 DOCKER_TLS_VERIFY=1 DOCKER_CERT_PATH=/tls" in config
    assert "AllowStreamLocalForwarding no" in config


def test_named_objects_are_deleted_before_their_replacement(
    run_program: Program,
) -> None:
    run = run_program()
    kinds = (":Network", ":Volume", ":Container")
    for resource in (resource for kind in kinds for resource in run.of_type(kind)):
        assert resource.request.deleteBeforeReplace, resource.name


def test_every_child_has_the_component_as_parent(run_program: Program) -> None:
    run = run_program()
    for name in CHILDREN:
        assert run[name].request.parent.endswith("DockerBuilder::builder"), name


def test_every_docker_resource_uses_the_provider_of_its_host(run_program: Program) -> None:
    run = run_program()
    for name, kind in CHILDREN.items():
        if kind.startswith("docker:"):
            assert "::builder-host::" in run[name].request.provider, name


@pytest.mark.parametrize(("keep", "kept"), [(None, True), (True, True), (False, False)])
def test_cache_and_host_key_are_protected_and_the_cache_is_retained(
    run_program: Program, keep: bool | None, kept: bool
) -> None:
    run = run_program(keepCache=keep)
    for name in CHILDREN:
        protected = kept and name in ("builder-cache", "builder-host-key-1")
        assert run[name].request.protect == protected, name
        assert run[name].request.retainOnDelete == (kept and name == "builder-cache"), name


def test_the_cache_is_where_the_rootless_daemon_keeps_its_data(run_program: Program) -> None:
    volumes = run_program()["builder-daemon"].inputs["volumes"]
    assert {
        "volumeName": "dev-builder-cache",
        "containerPath": "/home/rootless/.local/share/docker",
    } in volumes


@pytest.mark.parametrize("transport", ["socket", "tls"])
def test_no_tcp_port_but_ssh(run_program: Program, transport: str) -> None:
    run = run_program(transport=transport, sshPort=2200, sshAddress="127.0.0.1")
    ports = {c.name: c.inputs.get("ports") for c in run.of_type(":Container")}
    gateway = ports.pop("builder-gateway")
    assert gateway == [{"internal": 2222.0, "external": 2200.0, "ip": "127.0.0.1"}]
    assert not any(ports.values())
    assert "2375" not in str([c.inputs for c in run.of_type(":Container")])


def test_socket_transport_names_the_socket_so_that_the_image_opens_no_port(
    run_program: Program,
) -> None:
    command = run_program()["builder-daemon"].inputs["command"]
    assert command[:2] == ["dockerd", "--host=unix:///run/user/docker.sock"]
    assert not any("tcp://" in word for word in command)


def test_nothing_of_the_host_is_mounted(run_program: Program) -> None:
    for container in run_program().of_type(":Container"):
        assert all("hostPath" not in volume for volume in container.inputs["volumes"])
        assert "mounts" not in container.inputs


def test_long_running_containers_restart_stop_gracefully_and_rotate_logs(
    run_program: Program,
) -> None:
    run = run_program()
    for name in ("builder-daemon", "builder-gateway", "builder-janitor"):
        inputs = run[name].inputs
        assert inputs["restart"] == "unless-stopped"
        assert inputs["stopTimeout"] == inputs["destroyGraceSeconds"] > 0
        assert inputs["logOpts"] == {"max-file": "3", "max-size": "10m"}
        assert inputs["healthcheck"]["tests"][0] == "CMD"
        assert set(run[name].request.replaceOnChanges) == {"healthcheck", "tmpfs"}


def test_images_are_used_by_id_and_kept_on_the_host(run_program: Program) -> None:
    run = run_program(daemonImage="registry.example/dind@sha256:" + "a" * 64)
    assert run["builder-daemon-image"].inputs == {
        "name": "registry.example/dind@sha256:" + "a" * 64,
        "keepLocally": True,
    }
    assert run["builder-daemon"].inputs["image"] == "sha256:builder-daemon-image"
    assert run["builder-gateway"].inputs["image"] == "sha256:builder-gateway-image"


def test_memory_and_cpus_have_the_form_that_docker_returns(run_program: Program) -> None:
    unlimited = run_program()["builder-daemon"].inputs
    assert not {"memory", "memorySwap", "cpus"} & set(unlimited)
    limited = run_program(memory="2GiB", cpus="2")["builder-daemon"].inputs
    assert (limited["memory"], limited["memorySwap"], limited["cpus"]) == (2048.0, 2048.0, "2.0")


def daemon_json(run: Run) -> Any:
    text = uploads(run["builder-daemon"])["/etc/docker-build-machine/daemon.json"]["content"]
    return json.loads(text)


@pytest.mark.parametrize(
    ("settings", "size", "min_free"),
    [
        ({}, 40, 10),
        ({"cacheSize": "20GB", "minFreeSpace": "5GB"}, 20, 5),
        ({"cacheSize": "70%", "minFreeSpace": "3 %"}, 70, 3),
    ],
)
def test_garbage_collection_removes_uploads_before_results(
    run_program: Program, settings: dict[str, str], size: int, min_free: int
) -> None:
    """The disk of the mocks has 100 GB."""

    def rule(size: int, reserved: int, *filters: str) -> dict[str, Any]:
        limits = {
            "all": True,
            "keepStorage": f"{size * 10**8}B",
            "reservedSpace": f"{reserved * 10**8}B",
            "maxUsedSpace": f"{size * 10**8}B",
            "minFreeSpace": f"{min_free * 10**9}B",
        }
        return {**limits, "filter": list(filters)} if filters else limits

    assert daemon_json(run_program(**settings))["builder"]["gc"]["policy"] == [
        rule(size, 0, "type=source.local"),
        rule(size, 0, "type=source.git.checkout"),
        rule(size * 10, size * 5),
    ]


def test_the_history_has_the_limits_of_the_settings(run_program: Program) -> None:
    def history(**settings: Any) -> Any:
        return daemon_json(run_program(**settings))["builder"]["history"]

    assert history() == {"maxAge": "604800s", "maxEntries": 500}
    assert history(historyAge="2w", historyBuilds=9) == {"maxAge": "1209600s", "maxEntries": 9}


def test_the_daemon_sends_traces_where_the_setting_says(run_program: Program) -> None:
    def variables(**settings: Any) -> list[str]:
        envs = run_program(**settings)["builder-daemon"].inputs["envs"]
        return [text for text in envs if "TRACES" in text]

    assert variables() == []
    sent = {"traces": "https://otlp.example/otlp"}
    assert variables(**sent) == [
        "BUILDER_TRACES=https://otlp.example/otlp",
        "BUILDER_TRACES_FROM=dev-builder-daemon",
    ]
    without, with_it = (
        run_program(**settings)["builder-drain"].inputs["triggers"] for settings in ({}, sent)
    )
    assert without != with_it, "builds in flight may end first"


def test_steps_and_containers_have_the_limit_on_processes(run_program: Program) -> None:
    files = uploads(run_program(processes=2000)["builder-daemon"])
    dockerd, runc = (files[f"/usr/local/sbin/{name}"] for name in ("dockerd", "runc"))
    assert "processes=2000\n" in dockerd["content"]
    assert dockerd["permissions"] == runc["permissions"] == "0755"
    assert all(file["content"].startswith("#!/bin/sh\n") for file in (dockerd, runc))


def test_a_change_of_the_limit_waits_for_builds_in_flight(run_program: Program) -> None:
    few, many = (
        run_program(processes=processes)["builder-drain"].inputs["triggers"]
        for processes in (2000, 3000)
    )
    assert few != many


def test_a_cache_that_the_disk_cannot_hold_is_refused(run_program: Program) -> None:
    with pytest.raises(Exception, match=r"cacheSize = .95GB. .* are 105\.0 GB"):
        run_program(cacheSize="95GB")


@pytest.mark.parametrize(
    ("checked", "driver", "features"),
    [
        ("containerd\n", "overlayfs", {"containerd-snapshotter": True}),
        ("overlay2\n", "overlay2", None),
        # What earlier releases printed, which stays in their states.
        ("", "overlay2", None),
    ],
)
def test_every_daemon_gets_its_image_store_by_name(
    run_program: Program,
    monkeypatch: pytest.MonkeyPatch,
    checked: str,
    driver: str,
    features: Any,
) -> None:
    monkeypatch.setitem(mocked.PRINTED, "-cache-check", f"{DISK}\n{checked}")
    config = daemon_json(run_program(insecureRegistries=["registry:5000"]))
    assert (config["storage-driver"], config.get("features")) == (driver, features)
    assert config["insecure-registries"] == ["registry:5000"]
    assert "hosts" not in config


@pytest.mark.parametrize(
    ("there", "setting", "told"),
    [
        ("overlay2", "containerd", "imageStore changes from overlay2 to containerd: "),
        ("containerd", "overlay2", "imageStore changes from containerd to overlay2: "),
        ("containerd", "containerd", ""),
        ("overlay2", "keep", ""),
        ("", "overlay2", ""),
    ],
)
def test_a_preview_warns_of_a_change_of_the_image_store(
    run_program: Program, monkeypatch: pytest.MonkeyPatch, there: str, setting: str, told: str
) -> None:
    monkeypatch.setattr(mocked, "LOOK", f"{mocked.LOOK}store={there}\n")
    warned: list[str] = []
    monkeypatch.setattr(pulumi.log, "warn", lambda text, **_: warned.append(text))
    run_program(preview=True, imageStore=setting)
    assert len(warned) == bool(told)
    assert all(
        text.startswith(told) and "scripts/cache free dev-builder" in text for text in warned
    )


def test_the_check_of_the_cache_gets_the_image_store(run_program: Program) -> None:
    for settings, last in (({}, "keep"), ({"imageStore": "overlay2"}, "overlay2")):
        check = run_program(**settings)["builder-cache-check"].inputs["create"]
        assert shlex.split(check)[-1] == last


@pytest.mark.parametrize("transport", ["socket", "tls"])
def test_the_janitor_has_only_the_disk_and_the_api(run_program: Program, transport: str) -> None:
    run = run_program(transport=transport, imageAge="2w", leftoverAge="36h", keepImages=["a/*"])
    janitor = run["builder-janitor"].inputs
    assert all(volume["readOnly"] for volume in janitor["volumes"])
    assert {volume["volumeName"] for volume in janitor["volumes"]} == {
        "dev-builder-cache",
        "dev-builder-runtime" if transport == "socket" else "dev-builder-tls-client",
    }
    assert {
        "JANITOR_LEFTOVER_SECONDS=129600",
        "JANITOR_IMAGE_SECONDS=1209600",
        "JANITOR_MIN_FREE=10000000000",
        "JANITOR_RESERVED=20000000000",
        "JANITOR_KEEP=a/*",
    } <= set(janitor["envs"])


@pytest.mark.parametrize("settings", [{}, {"transport": "tls"}], ids=["socket", "tls"])
def test_uploaded_programs_are_executable(run_program: Program, settings: dict[str, str]) -> None:
    """s6 runs a service (custom-services.d) as a program, only by its first line."""
    programs = {
        f"{name} {path}": upload["content"]
        for name, resource in run_program(**settings).resources.items()
        if resource.type == "docker:index/container:Container" and "uploads" in resource.inputs
        for path, upload in uploads(resource).items()
        if upload.get("permissions") == "0755" or "/custom-services.d/" in path
    }
    assert "builder-gateway /custom-services.d/session-monitor" in programs
    assert [path for path, text in programs.items() if not text.startswith("#!/")] == []


def test_sshd_lets_nothing_through_but_the_docker_api(run_program: Program) -> None:
    config = uploads(run_program()["builder-gateway"])["/usr/local/lib/gateway/sshd_config"]
    lines = [line.strip() for line in config["content"].splitlines()]
    for line in (
        "ForceCommand exec sh /usr/local/lib/gateway/dial "
        "/run/builder/${BUILDER_SOCKET:-guard.sock}",
        "PermitUserEnvironment BUILDER_SOCKET",
        "AuthenticationMethods publickey",
        "PasswordAuthentication no",
        "PermitOpen [/run/builder/docker.sock]:* [/run/builder/guard.sock]:*",
        "PermitListen none",
        "AllowAgentForwarding no",
        "PermitTTY no",
        "PermitTunnel no",
        "X11Forwarding no",
    ):
        assert line in lines
    assert not any(line.lower().startswith(("subsystem", "acceptenv")) for line in lines)
    assert "$" not in config["content"].replace("${BUILDER_SOCKET:-guard.sock}", "")


def test_large_packets_are_set_on_both_sides_of_the_rootless_network(run_program: Program) -> None:
    run = run_program()
    envs = run["builder-daemon"].inputs["envs"]
    assert "DOCKERD_ROOTLESS_ROOTLESSKIT_NET=slirp4netns" in envs
    assert f"DOCKERD_ROOTLESS_ROOTLESSKIT_MTU={daemon_json(run)['mtu']}" in envs
    assert "DOCKERD_ROOTLESS_ROOTLESSKIT_FLAGS=--cidr=198.18.0.0/24" in envs
    assert daemon_json(run)["mtu"] == 65520


def test_the_gateway_acknowledges_at_once_where_the_kernel_can(
    run_program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_program()["builder-gateway"].inputs["sysctls"] == {}
    monkeypatch.setattr(mocked, "LOOK", mocked.LOOK + "acks=tunable\n")
    sysctls = run_program()["builder-gateway"].inputs["sysctls"]
    assert sysctls == {"net.ipv4.tcp_pingpong_thresh": "255"}


def test_keys_are_one_line_each_and_named_with_their_fingerprint(run_program: Program) -> None:
    keys = [
        {"name": "ci", "publicKey": OTHER_KEY, "from": ["192.0.2.0/24"], "until": "2999-12-31"},
        {"name": "ada", "publicKey": f"{KEY} a comment"},
    ]
    installed = run_program(keys=keys)["builder-keys"]
    assert uploads(installed)["/new/authorized_keys"]["content"] == (
        f'restrict,port-forwarding,permitopen="[/run/builder/docker.sock]:*",'
        f'environment="BUILDER_SOCKET=docker.sock" {KEY} ada\n'
        'restrict,port-forwarding,permitopen="[/run/builder/docker.sock]:*",'
        'environment="BUILDER_SOCKET=docker.sock",'
        'from="192.0.2.0/24",expiry-time="29991231235959Z" '
        f"{OTHER_KEY} ci\n"
    )
    names = {env.split("=")[0] for env in installed.inputs["envs"]}
    assert names == {"ada", "ci"}
    assert all("=SHA256:" in env for env in installed.inputs["envs"])


def test_an_expired_key_is_left_out_with_a_warning(
    run_program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    output: list[str] = []
    monkeypatch.setattr(pulumi.log, "warn", lambda text, **_: output.append(text))
    expired = {"name": "bob", "publicKey": OTHER_KEY, "until": "2020-01-01", "role": "build"}
    run = run_program(keys=[{"name": "ada", "publicKey": KEY}, expired])
    assert children(run) == CHILDREN
    assert run["builder-keys"].inputs == run_program()["builder-keys"].inputs
    assert output == [
        "the key bob is left out because its last day (until = 2020-01-01) has passed; next: "
        "remove it from keys, or give it a later day"
    ]


def test_a_stack_whose_keys_have_all_expired_has_no_keys(run_program: Program) -> None:
    keys = [{"name": "bob", "publicKey": OTHER_KEY, "until": "2020-01-01"}]
    installed = run_program(keys=keys)["builder-keys"]
    assert {upload["content"] for upload in uploads(installed).values()} == {
        "# no key is in force\n"
    }


def test_a_key_is_added_without_touching_gateway_or_daemon(run_program: Program) -> None:
    one = run_program()
    two = run_program(
        keys=[{"name": "ada", "publicKey": KEY}, {"name": "ci", "publicKey": OTHER_KEY}]
    )
    changed = {name for name in CHILDREN if one[name].inputs != two[name].inputs}
    assert changed == {"builder-keys", "builder-readiness"}


def test_a_build_key_adds_the_guard_and_changes_nothing_else(run_program: Program) -> None:
    one = run_program()
    ci = {"name": "ci", "publicKey": OTHER_KEY, "role": "build"}
    two = run_program(keys=[{"name": "ada", "publicKey": KEY}, ci])
    assert children(two) == {
        **CHILDREN,
        "builder-guard-image": "docker:index/remoteImage:RemoteImage",
        "builder-guard": "docker:index/container:Container",
    }
    changed = {name for name in CHILDREN if one[name].inputs != two[name].inputs}
    assert changed == {"builder-keys", "builder-readiness"}
    lines = uploads(two["builder-keys"])["/new/authorized_keys"]["content"].splitlines()
    assert lines[1] == (
        f'restrict,port-forwarding,permitopen="[/run/builder/guard.sock]:*" {OTHER_KEY} ci'
    )
    assert uploads(two["builder-keys"])["/new/list"]["content"].splitlines()[1].endswith(" build")
    assert any(
        env.startswith("ci=") and " role build" in env for env in two["builder-keys"].inputs["envs"]
    )


@pytest.mark.parametrize("role", ["admin", "build"])
@pytest.mark.parametrize("principals", [[], ["ci"]], ids=["key", "authority"])
def test_every_key_gets_the_one_socket_of_its_role(
    run_program: Program, role: str, principals: list[str]
) -> None:
    key = {"name": "ci", "publicKey": KEY, "role": role, "principals": principals}
    line = uploads(run_program(keys=[key])["builder-keys"])["/new/authorized_keys"]["content"]
    socket = "docker" if role == "admin" else "guard"
    assert line.count("permitopen=") == 1
    assert f'permitopen="[/run/builder/{socket}.sock]:*"' in line
    assert ("BUILDER_SOCKET=docker.sock" in line) == (role == "admin")


def test_the_guard_has_no_network_and_only_the_daemons_user(run_program: Program) -> None:
    key = {"name": "ci", "publicKey": KEY, "role": "build"}
    guard = run_program(keys=[key])["builder-guard"].inputs
    assert guard["networkMode"] == "none"
    assert guard["user"] == "1000:1000"
    assert guard["capabilities"] == {"adds": [], "drops": ["ALL"]}
    assert guard["securityOpts"] == ["no-new-privileges:true"]
    assert guard["memory"] == guard["memorySwap"] == 512.0
    assert guard["volumes"] == [{"volumeName": "dev-builder-runtime", "containerPath": "/run/user"}]
    assert not {"ports", "privileged", "networksAdvanced", "mounts"} & set(guard)


def test_the_guards_program_is_reproducible_and_needs_no_other_file(tmp_path: Path) -> None:
    assert archive() == archive()
    (tmp_path / "guard.zip").write_bytes(archive())
    program = "import guard.__main__, sys; print(guard.__main__.__file__, 'pulumi' in sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, 'guard.zip'); {program}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == "guard.zip/guard/__main__.py False\n"


BUILD_KEY = {"name": "ci", "publicKey": KEY, "role": "build"}
METRICS = {"metrics": "10.0.0.5:9200"}


def test_without_metrics_no_container_reports(run_program: Program) -> None:
    everything = {"keys": [BUILD_KEY], "identities": [IDENTITY]}
    without, off = run_program(**everything), run_program(metrics="", **everything)
    for name in children(without):
        assert off[name].inputs == without[name].inputs
        assert "/reports" not in json.dumps(unwrapped(off[name].inputs), default=str)


def test_metrics_add_two_containers_that_cannot_harm(run_program: Program) -> None:
    run = run_program(**METRICS)
    assert children(run) == {
        **CHILDREN,
        "builder-guard-image": "docker:index/remoteImage:RemoteImage",
        "builder-reports": "docker:index/volume:Volume",
        "builder-metrics": "docker:index/container:Container",
        "builder-metrics-page": "docker:index/container:Container",
    }
    reader, page = run["builder-metrics"].inputs, run["builder-metrics-page"].inputs
    for container in (reader, page):
        assert container["user"] == "1000:1000"
        assert container["capabilities"] == {"adds": [], "drops": ["ALL"]}
        assert container["securityOpts"] == ["no-new-privileges:true"]
        assert container["memory"] == container["memorySwap"] <= 256
        assert not {"privileged", "mounts"} & set(container)
    assert reader["networkMode"] == "none"
    assert "ports" not in reader
    assert [(v["volumeName"], v.get("readOnly", False)) for v in reader["volumes"]] == [
        ("dev-builder-reports", False),
        ("dev-builder-cache", True),
        ("dev-builder-access", True),
        ("dev-builder-runtime", True),
    ]
    assert page["ports"] == [{"internal": 9105, "external": 9200, "ip": "10.0.0.5"}]
    assert page["volumes"] == [
        {"volumeName": "dev-builder-reports", "containerPath": "/reports", "readOnly": True}
    ]
    assert [n["name"] for n in page["networksAdvanced"]] == ["dev-builder-entrance"]
    assert "METRICS_PARTS=gateway janitor" in reader["envs"]
    assert "METRICS_HOST_KEYS=1:0" in reader["envs"], "made by a release that wrote no time"
    ready = run["builder-readiness"].inputs["create"]
    assert "dev-builder-metrics dev-builder-metrics-page" in ready


def test_metrics_are_reported_by_each_part_but_the_daemon(run_program: Program) -> None:
    others = {"keys": [BUILD_KEY], "identities": [IDENTITY]}
    without, run = run_program(**others), run_program(**others, **METRICS)
    parts = ("gateway", "janitor", "guard", "verifier")
    changed = {name for name in children(without) if run[name].inputs != without[name].inputs}
    assert changed == {"builder-readiness", *(f"builder-{part}" for part in parts)}
    for part in parts:
        tests = run[f"builder-{part}"].inputs["healthcheck"]["tests"]
        assert tests[:2] == ["CMD", "sh"]
        assert tests[4] == f"/reports/{part}"
        assert not any("\n" in word for word in tests), "health.sh reads a word from each line"
        assert run[f"builder-{part}"].inputs["volumes"][-1] == {
            "volumeName": "dev-builder-reports",
            "containerPath": "/reports",
        }
    assert f"METRICS_PARTS={' '.join(parts)}" in run["builder-metrics"].inputs["envs"]


def test_over_tls_metrics_have_the_certificates_and_no_builds_reach_the_page(
    run_program: Program,
) -> None:
    run = run_program(transport="tls", **METRICS)
    reader, page = run["builder-metrics"].inputs, run["builder-metrics-page"].inputs
    assert [n["name"] for n in reader["networksAdvanced"]] == ["dev-builder-tls-network"]
    assert "DOCKER_HOST=tcp://docker:2376" in reader["envs"]
    assert reader["volumes"][-1]["volumeName"] == "dev-builder-tls-client"
    assert [n["name"] for n in page["networksAdvanced"]] == ["dev-builder-entrance"]


@pytest.mark.parametrize(
    ("libraries", "name"), [((), "page"), (metrics.LIBRARIES, "reader")], ids=["page", "reader"]
)
def test_the_programs_of_the_metrics_need_no_other_file(
    tmp_path: Path, libraries: tuple[str, ...], name: str
) -> None:
    packed = metrics.archive(*libraries)
    assert packed == metrics.archive(*libraries)
    (tmp_path / "metrics.zip").write_bytes(packed)
    program = f"import metrics.__main__, metrics.{name} as it; print(it.__file__)"
    ran = subprocess.run(
        [sys.executable, "-ISc", f"import sys; sys.path.insert(0, 'metrics.zip'); {program}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == f"metrics.zip/metrics/{name}.py\n"


IDENTITY = {
    "name": "main",
    "issuer": "https://gitlab.com",
    "audience": "builder.example.com",
    "claims": {"project_path": "acme/app", "ref_protected": "true"},
}


def test_an_identity_adds_verifier_and_guard_and_changes_gateway_and_keys(
    run_program: Program,
) -> None:
    without, run = run_program(), run_program(identities=[IDENTITY])
    assert children(run) == {
        **CHILDREN,
        "builder-guard-image": "docker:index/remoteImage:RemoteImage",
        "builder-guard": "docker:index/container:Container",
        "builder-identities": "docker:index/volume:Volume",
        "builder-verifier": "docker:index/container:Container",
    }
    changed = ("builder-gateway", "builder-keys", "builder-readiness")
    for name in set(CHILDREN) - set(changed):
        assert run[name].inputs == without[name].inputs, name
    over_tls = run_program(identities=[{**IDENTITY, "role": "admin"}], transport="tls")
    networks = over_tls["builder-verifier"].inputs["networksAdvanced"]
    assert [network["name"] for network in networks] == ["dev-builder-tls-network"]
    admin = run_program(identities=[{**IDENTITY, "role": "admin"}])
    assert "builder-guard" not in children(admin)
    assert "builder-verifier" in children(admin)


def test_an_expired_identity_adds_nothing(run_program: Program) -> None:
    without, run = run_program(), run_program(identities=[{**IDENTITY, "until": "2020-01-01"}])
    assert children(run) == CHILDREN
    assert run["builder-gateway"].inputs == without["builder-gateway"].inputs


def test_the_verifier_has_a_network_and_only_its_own_volume(run_program: Program) -> None:
    verifier = run_program(identities=[IDENTITY])["builder-verifier"].inputs
    assert [network["name"] for network in verifier["networksAdvanced"]] == ["dev-builder-network"]
    assert verifier["user"] == "1000:1000"
    assert verifier["capabilities"] == {"adds": [], "drops": ["ALL"]}
    assert verifier["securityOpts"] == ["no-new-privileges:true"]
    assert verifier["memory"] == verifier["memorySwap"] == 256.0
    assert verifier["volumes"] == [
        {"volumeName": "dev-builder-access", "containerPath": "/access", "readOnly": True},
        {"volumeName": "dev-builder-identities", "containerPath": "/identities"},
    ]
    assert not {"ports", "privileged", "networkMode", "mounts"} & set(verifier)


@pytest.mark.parametrize(
    ("role", "options"),
    [
        ("build", 'restrict,port-forwarding,permitopen="[/run/builder/guard.sock]:*"'),
        (
            "admin",
            'restrict,port-forwarding,permitopen="[/run/builder/docker.sock]:*",'
            'environment="BUILDER_SOCKET=docker.sock"',
        ),
    ],
)
def test_the_rule_reaches_verifier_session_monitor_and_preview(
    run_program: Program, role: str, options: str
) -> None:
    keys = run_program(identities=[{**IDENTITY, "role": role}])["builder-keys"]
    files = {path: upload["content"] for path, upload in uploads(keys).items()}
    (rule,) = json.loads(files["/new/identities"])
    listed = f"rule {rule['digest']} main - - - {role}\n"
    assert listed in files["/new/list"]
    assert rule["options"] == options
    assert {name: rule[name] for name in IDENTITY} == IDENTITY
    assert "acme" not in files["/new/authorized_keys"]
    shown = (
        "main=https://gitlab.com audience builder.example.com claims project_path: acme/app, "
        f"ref_protected: true role {role}"
    )
    assert shown in keys.inputs["envs"]


def test_a_job_that_sends_a_token_can_do_nothing_else(run_program: Program) -> None:
    run = run_program(identities=[IDENTITY])
    gateway = uploads(run["builder-gateway"])
    config = gateway["/usr/local/lib/gateway/sshd_config"]["content"]
    before, _, block = config.partition("Match User token\n")
    assert "AllowUsers builder token\n" in before
    assert "AuthorizedKeysFile /access/authorized_keys /identities/authorized_keys\n" in before
    lines = {line.strip() for line in block.splitlines()}
    assert lines >= {
        "AuthorizedKeysFile none",
        "ForceCommand exec sh /usr/local/lib/gateway/enrol /identities/verifier.sock",
        "DisableForwarding yes",
        "MaxSessions 1",
        "UnusedConnectionTimeout 15s",
    }
    assert "TOKEN_USER=token" in run["builder-gateway"].inputs["envs"]
    without = uploads(run_program()["builder-gateway"])
    assert "token" not in without["/usr/local/lib/gateway/sshd_config"]["content"]


def test_the_private_host_key_is_always_a_secret(run_program: Program) -> None:
    run = run_program()
    generated = run["builder-host-key-1"]
    assert list(generated.request.additionalSecretOutputs) == ["stdout"]
    assert generated.inputs["logging"] == "none"
    assert list(generated.request.ignoreChanges) == ["*"]
    uploaded = run["builder-gateway"].inputs["uploads"]
    assert uploaded[SECRET_SIGNATURE] == SECRET_MARK
    assert PRIVATE_KEY.strip() not in str(run.exports)
    for name, resource in run.resources.items():
        if name != "builder-gateway":
            assert "PRIVATE KEY" not in str(resource.inputs), name


def test_the_exports_are_all_that_a_client_needs(run_program: Program) -> None:
    exports = run_program(sshHost="build.example", sshPort=22).exports
    assert exports["sshDestination"] == "builder@build.example"
    assert exports["dockerHost"] == "ssh://builder@build.example:22"
    assert exports["knownHosts"] == f"build.example {KEY}\n"
    assert run_program().exports["knownHosts"] == f"[127.0.0.1]:2222 {KEY}\n"
    assert "StrictHostKeyChecking yes" in exports["sshConfig"]
    assert exports["sshConfig"].startswith(f"Host {exports['sshAlias']}\n")


def test_host_key_generations_are_all_known_and_the_first_is_presented(
    run_program: Program,
) -> None:
    run = run_program(hostKeys=[2, 1])
    assert {"builder-host-key-1", "builder-host-key-2"} <= set(run.resources)
    assert len(run.exports["knownHosts"].splitlines()) == 2


def test_a_remote_host_is_pinned_and_shares_one_connection(run_program: Program) -> None:
    run = run_program(host="ssh://ops@build.example:2022", hostKey=KEY)
    options = run["builder-host"].inputs["sshOpts"]
    options = json.loads(options) if isinstance(options, str) else options
    assert run["builder-host"].inputs["host"] == "ssh://ops@build.example:2022"
    assert f"KnownHostsCommand=/bin/echo %H {KEY}" in options
    assert {"StrictHostKeyChecking=yes", "UserKnownHostsFile=/dev/null", "ControlMaster=auto"} <= {
        *options
    }
    create = run["builder-preflight"].inputs["create"]
    assert create.startswith("ssh ")
    assert "-l ops -p 2022" in create
    assert run.exports["dockerHost"] == "ssh://builder@build.example:2222"


def test_facts_of_a_host_are_inputs_of_its_check(run_program: Program) -> None:
    preflight = run_program(prepare=True)["builder-preflight"].inputs
    assert preflight["environment"] == {
        **dict.fromkeys(preflight["environment"], ""),
        "HOST_DOCKER": "29.9.3",
        "HOST_KERNEL": "6.12.1",
        "HOST_ARCHITECTURE": "x86_64",
        "HOST_TUN": "usable",
    }
    owner = "docker-build-machine/dev/builder dev-builder 0.0.0.0 2222"
    assert preflight["create"].endswith(f"sh -s -- check {owner} '' true")


def test_nothing_switches_host_key_checking_off(run_program: Program) -> None:
    for host in ({}, {"host": "ssh://ops@build.example", "hostKey": KEY}):
        run = run_program(**host)
        text = str([r.inputs for r in run.resources.values()]) + str(run.exports)
        assert "StrictHostKeyChecking no" not in text.replace("=", " ")
        assert "accept-new" not in text
