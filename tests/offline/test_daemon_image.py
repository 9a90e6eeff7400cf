"""The daemon image keeps the contract of docker:29.9.3-dind-rootless.

The contract is taken from docker-library's Dockerfiles and scripts at 3289af8 and from Alpine's
root folder. An image made with those scripts keeps it too; offline/README.md lists the differences.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.engine.conftest import DAEMON_IMAGE, ROOT, passed, run, run_in_image

VERSION = "29.9.3"

BUSYBOX = """ash awk basename cat chmod chown cp cut date dd df du env find grep head hostname id
    install kill ln ls mkdir mktemp mount mv nsenter od paste ps readlink rm sed sh sleep sort stat
    su sync sysctl tail tar tee test timeout touch tr umount uniq unshare wc which xargs"""
"""Applets; the programs of the same names from coreutils, util-linux or procps do more."""

PLACES = {
    "/usr/local/bin": """containerd containerd-shim-runc-v2 ctr dind docker docker-entrypoint.sh
        docker-init docker-proxy dockerd dockerd-entrypoint.sh modprobe rootlesskit runc""",
    "/usr/local/libexec/docker/cli-plugins": "docker-buildx",
    "/usr/bin": """fuse-overlayfs getent git newgidmap newuidmap openssl pigz slirp4netns ssh
        ssh-keygen xz""",
    "/usr/sbin": """iptables iptables-save iptables-restore ip6tables iptables-legacy
        ip6tables-legacy""",
    "/usr/local/sbin/.iptables-legacy": """iptables iptables-save iptables-restore ip6tables
        ip6tables-save ip6tables-restore""",
    "/sbin": "ip",
}

ABSENT = "apt bash capsh curl dpkg fusermount gcc jq perl python3 runuser setcap socat strace sudo"

FOLDERS = {
    "/certs": "1777 0 0",
    "/certs/client": "1777 0 0",
    "/run": "755 0 0",
    "/run/user": "1777 0 0",
    "/root": "700 0 0",
    "/tmp": "1777 0 0",  # noqa: S108
    "/home/rootless": "2755 1000 1000",
    "/home/rootless/.local": "2755 0 1000",
    "/home/rootless/.local/share": "2755 0 1000",
    "/home/rootless/.local/share/docker": "2755 1000 1000",
}
"""Mode, user and group."""

SHOWS_ARGUMENTS = '#!/bin/sh\nprintf "%s|" "$0" "$@"\n'

ROOTLESSKIT = (
    "/usr/local/bin/rootlesskit|--net=slirp4netns|--mtu=1500|--disable-host-loopback"
    "|--port-driver=builtin|--copy-up=/etc|--copy-up=/run|"
)


def inside(script: str, *options: str, user: str = "rootless") -> str:
    """Run a script in the image with the image's shell; return its output."""
    shell = (f"--user={user}", "--entrypoint=/bin/sh", *options)
    return passed(run_in_image(DAEMON_IMAGE, "-c", script, options=shell))


def lines(script: str, user: str = "rootless") -> dict[str, str]:
    """The lines of the output by their first word."""
    return dict(line.split(" ", 1) for line in inside(script, user=user).splitlines())


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        passed(run("docker", "image", "inspect", "--format", "{{json .Config}}", DAEMON_IMAGE))
    )
    return found


def test_its_version_is_the_default() -> None:
    """If the default changes, read upstream's files again; the image may need other modules."""
    default = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())["config"]["daemonImage"]["default"]
    assert default == f"docker:{VERSION}-dind-rootless"
    modules = (ROOT / "offline/images/daemon/go.mod").read_text()
    assert f"github.com/docker/cli v{VERSION}+incompatible" in modules


def test_its_configuration(config: dict[str, Any]) -> None:
    assert config["Entrypoint"] == ["dockerd-entrypoint.sh"]
    assert not config.get("Cmd")
    assert config["User"] == "rootless"
    assert not config.get("WorkingDir")
    assert set(config["Volumes"]) == {"/var/lib/docker", "/home/rootless/.local/share/docker"}
    assert set(config["ExposedPorts"]) == {"2375/tcp", "2376/tcp"}
    assert not config.get("Labels")
    assert not config.get("Healthcheck")
    environment = dict(pair.split("=", 1) for pair in config["Env"])
    # A stand-in image has no compose and another commit of the same wrapper.
    environment.pop("DOCKER_COMPOSE_VERSION", None)
    assert environment.pop("DIND_COMMIT")
    assert environment == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "DOCKER_VERSION": VERSION,
        "DOCKER_BUILDX_VERSION": "0.37.1",
        "DOCKER_TLS_CERTDIR": "/certs",
    }


def test_the_versions_of_its_parts() -> None:
    output = inside(
        "dockerd --version; docker --version; docker buildx version; runc --version;"
        "containerd --version; rootlesskit --version; docker-init --version"
    )
    assert output.count(f"Docker version {VERSION},") == 2
    for part in ("buildx v0.37.1", "runc version 1.4.3", "libseccomp", "containerd/v2 v2.3.6"):
        assert part in output
    assert "rootlesskit version 3.1.0" in output
    assert "tini version 0.19.0" in output


def test_programs_are_where_upstream_has_them() -> None:
    for folder, names in PLACES.items():
        for name in names.split():
            inside(f"test -x {folder}/{name} || {{ echo {folder}/{name} >&2; exit 1; }}")


def test_everyday_commands_are_busybox() -> None:
    found = lines(
        f'for name in {" ".join(BUSYBOX.split())}; do p=$(command -v "$name"); '
        'case $p in /*) ;; *) p=$(which "$name") ;; esac; '
        'echo "$name $(readlink -f "$p")"; done'
    )
    assert set(found.values()) == {"/bin/busybox"}
    assert sorted(found) == sorted(BUSYBOX.split())
    assert "iproute2" in inside("ip -V")


def test_programs_that_alpine_lacks_are_missing() -> None:
    assert inside(f"for name in {ABSENT}; do command -v $name; done; true") == ""
    for command in (
        "setpriv --reuid=1000 true",
        "setpriv --bounding-set=-all true",
        "ps -p 1 -o pid=",
        "df --output=size /",
        "date -d 'next day'",
        "find / -maxdepth 0 -printf x",
        "stat --printf x /",
    ):
        refused = inside(f"{command} >/dev/null 2>&1 && echo taken; true")
        assert refused == "", command


def test_users_and_their_ranges() -> None:
    users = inside("cat /etc/passwd").splitlines()
    # Alpine's current adduser sets the shell.
    rootless = next(user for user in users if user.split(":")[2] == "1000")
    assert rootless.startswith("rootless:x:1000:1000:Rootless:/home/rootless:/bin/")
    assert "dockremap:x:100:101:Linux User,,,:/home/dockremap:/sbin/nologin" in users
    groups = inside("cat /etc/group").splitlines()
    assert {"docker:x:2375:", "rootless:x:1000:"} <= set(groups)
    for file in ("/etc/subuid", "/etc/subgid"):
        assert inside(f"cat {file}") == "dockremap:165536:65536\nrootless:100000:65536\n"
    assert "hosts: files dns" in inside("cat /etc/nsswitch.conf").splitlines()
    assert inside("echo $HOME") == "/home/rootless\n"


def test_owners_and_modes_of_folders() -> None:
    # Use the image's own folder: a volume would set another owner.
    made = passed(run("docker", "create", DAEMON_IMAGE)).strip()
    try:
        archive = run("sh", "-c", f"docker export {made} | tar --numeric-owner -tvf -")
        found = {}
        for line in passed(archive).splitlines():
            mode, owner, _, _, _, name = line.split(maxsplit=5)
            found["/" + name.rstrip("/")] = (mode, owner.replace("/", " "))
    finally:
        run("docker", "rm", "--volumes", made)
    for folder, wanted in FOLDERS.items():
        mode, owner = found[folder]
        bits = sum(
            value
            for letter, value in zip(
                mode[1:], (0o400, 0o200, 0o100, 0o40, 0o20, 0o10, 4, 2, 1), strict=True
            )
            if letter not in "-ST"
        )
        bits |= 0o2000 * (mode[6] in "sS") | 0o1000 * (mode[9] in "tT")
        assert f"{bits:o} {owner}" == wanted, folder


def test_newuidmap_gives_the_user_its_range_without_more_than_these_capabilities() -> None:
    """The programs are set-user-id with libcap, or have file capabilities."""
    for name in ("newuidmap", "newgidmap"):
        mode = inside(f"stat -c %a /usr/bin/{name}").strip()
        assert mode in {"4711", "4755", "711"}, name
    confined = (
        "--cap-drop=ALL",
        "--cap-add=SETUID",
        "--cap-add=SETGID",
        "--security-opt=seccomp=unconfined",
        "--security-opt=apparmor=unconfined",
        "--entrypoint=/bin/sh",
    )
    script = (
        "unshare -U sleep 9 & until grep -q . /proc/$!/cmdline && "
        "[ $(readlink /proc/$!/ns/user) != $(readlink /proc/self/ns/user) ]; do :; done; "
        "newuidmap $! 0 1000 1 1 100000 65536 && newgidmap $! 0 1000 1 1 100000 65536 && "
        "cat /proc/$!/uid_map /proc/$!/gid_map"
    )
    output = passed(run_in_image(DAEMON_IMAGE, "-c", script, options=confined))
    assert output.split() == ["0", "1000", "1", "1", "100000", "65536"] * 2


@pytest.mark.parametrize(
    ("options", "command", "last"),
    [
        ([], ["dockerd", "--host=unix:///x"], "docker-init|--|dockerd|--host=unix:///x|"),
        (
            ["DOCKER_TLS_CERTDIR="],
            [],
            "-p|0.0.0.0:2375:2375/tcp|docker-init|--|dockerd"
            "|--host=unix:///run/user/1000/docker.sock|--host=tcp://0.0.0.0:2375|",
        ),
        (
            ["DOCKER_TLS_CERTDIR=", "XDG_RUNTIME_DIR=/tmp/run", "DOCKER_HOST=unix:///tmp/d"],
            ["--debug"],
            "-p|0.0.0.0:2375:2375/tcp|docker-init|--|dockerd"
            "|--host=unix:///tmp/d|--host=tcp://0.0.0.0:2375|--debug|",
        ),
        (
            ["DOCKERD_ROOTLESS_ROOTLESSKIT_FLAGS=--state-dir=/tmp/s --debug"],
            ["dockerd"],
            "--state-dir=/tmp/s|--debug|docker-init|--|dockerd|",
        ),
        (
            [],
            [],
            "-p|0.0.0.0:2376:2376/tcp|docker-init|--|dockerd"
            "|--host=unix:///run/user/1000/docker.sock|--host=tcp://0.0.0.0:2376|--tlsverify"
            "|--tlscacert|/certs/server/ca.pem|--tlscert|/certs/server/cert.pem"
            "|--tlskey|/certs/server/key.pem|",
        ),
    ],
)
def test_its_entrypoint_starts_the_rootless_daemon(
    tmp_path: Path, options: list[str], command: list[str], last: str
) -> None:
    shim = tmp_path / "rootlesskit"
    shim.write_text(SHOWS_ARGUMENTS)
    shim.chmod(0o755)
    variables = [word for option in options for word in ("--env", option)]
    shimmed = (*variables, f"--volume={shim}:/usr/local/bin/rootlesskit:ro")
    output = passed(run_in_image(DAEMON_IMAGE, *command, options=shimmed))
    assert output.splitlines()[-1] == ROOTLESSKIT + last
    assert "iptables v1" in output


@pytest.mark.parametrize(
    ("options", "output"),
    [
        ([], "tcp://docker:2375 -"),
        (["DOCKER_TLS_VERIFY=1"], "tcp://docker:2376 1"),
        (["DOCKER_HOST=tcp://other:1"], "tcp://other:1 -"),
    ],
)
def test_another_command_gets_the_address_of_the_daemon(options: list[str], output: str) -> None:
    variables = [word for option in options for word in ("--env", option)]
    command = ("sh", "-c", 'echo "$DOCKER_HOST ${DOCKER_TLS_VERIFY:--}"')
    request = run("docker", "run", "--rm", "--network", "none", *variables, DAEMON_IMAGE, *command)
    assert passed(request).strip() == output
    version = run("docker", "run", "--rm", "--network", "none", DAEMON_IMAGE, "--version")
    # With only options, the entrypoint runs dockerd.
    assert VERSION in version.stdout + version.stderr or version.returncode != 0


def test_git_fetches_a_context() -> None:
    inside(
        "cd /tmp && git init -q a && git -C a -c user.name=a -c user.email=a@b commit -q "
        "--allow-empty -m one && git clone -q file:///tmp/a b && git -C b log -1"
    )
