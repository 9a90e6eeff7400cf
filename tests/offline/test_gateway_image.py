"""The gateway's stand-in image keeps the contract of linuxserver/openssh-server, point by point.

The contract is taken from linuxserver/docker-openssh-server (93fb9ee), its base
docker-baseimage-alpine (3d5a8b0), docker-mods' mod-scripts (docker-mods.v3, lsiown.v1,
with-contenv.v1) and just-containers/s6-overlay (9658b23), and compared with a root folder built
from them. Before you change the default `gatewayImage`, read them again.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import GATEWAY_IMAGE, Result, passed, run, run_in_image, until

# Set by the Dockerfiles of the image and of its base.
ENVIRONMENT = {
    "HOME=/root",
    "TERM=xterm",
    "S6_CMD_WAIT_FOR_SERVICES_MAXTIME=0",
    "S6_VERBOSITY=1",
    "VIRTUAL_ENV=/lsiopy",
    "PATH=/lsiopy/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
}
# Installed by apk add of both: GNU's or the original programs, not busybox's.
INSTALLED = (
    "bash",
    "curl",
    "env",
    "find",
    "install",
    "jq",
    "nc",
    "pgrep",
    "pkill",
    "ps",
    "pwdx",
    "sha256sum",
    "stat",
    "sudo",
    "sync",
    "timeout",
    "usermod",
    "groupmod",
    "chpasswd",
    "ssh",
    "ssh-keygen",
    "xargs",
)
BUSYBOX = (
    "awk",
    "grep",
    "gzip",
    "hostname",
    "ip",
    "mount",
    "ping",
    "sed",
    "setpriv",
    "sh",
    "su",
    "tar",
    "vi",
    "wget",
)
ABSENT = (
    "apt",
    "capsh",
    "dash",
    "docker",
    "dpkg",
    "iptables",
    "openssl",
    "perl",
    "python3",
    "socat",
    "tc",
    "tini",
    "xz",
)
# s6-overlay installs these under /command and, by its optional links, on PATH.
S6 = (
    "execlineb",
    "s6-envdir",
    "s6-ioconnect",
    "s6-ipcclient",
    "s6-log",
    "s6-notifyoncheck",
    "s6-setuidgid",
    "s6-svc",
    "s6-svscan",
    "s6-svscanctl",
    "with-contenv",
)
# Owner and mode after a start with PUID and PGID 1000 (init-openssh-server-config).
FILES = {
    "/config": ("755", "1000", "1000"),
    "/config/.ssh": ("700", "1000", "1000"),
    "/config/.ssh/authorized_keys": ("600", "1000", "1000"),
    "/config/logs/openssh": ("755", "1000", "1000"),
    "/config/logs/openssh/current": ("644", "1000", "1000"),
    "/config/ssh_host_keys/ssh_host_ed25519_key": ("600", "1000", "1000"),
    "/config/sshd": ("750", "0", "1000"),
    "/config/sshd/sshd_config": ("640", "0", "1000"),
    "/run/s6/container_environment": ("755", "0", "0"),
    "/run/s6-linux-init-container-results/exitcode": ("644", "0", "0"),
    "/run/s6/basedir/bin/halt": ("755", "0", "0"),
}


class Gateway:
    """A running container of the image with these files in it."""

    def __init__(self, folder: Path, files: dict[str, str], *options: str) -> None:
        self.name = f"contract-{secrets.token_hex(3)}"
        passed(
            run(
                "docker",
                "create",
                "--name",
                self.name,
                "--network",
                "none",
                "--env",
                "USER_NAME=builder",
                "--env",
                "PUID=1000",
                "--env",
                "PGID=1000",
                *options,
                GATEWAY_IMAGE,
            )
        )
        for path, text in files.items():
            place = folder / path.strip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            # Uploaded as the provider does it.
            place.write_text(text)
            place.chmod(0o644)
        if files:
            passed(run("docker", "cp", f"{folder}/.", f"{self.name}:/"))

    def start(self) -> None:
        passed(run("docker", "start", self.name))

    def sh(self, script: str) -> Result:
        return run("docker", "exec", self.name, "sh", "-c", script)

    def log(self) -> str:
        result = run("docker", "logs", self.name)
        return result.stdout + result.stderr

    def state(self) -> dict[str, Any]:
        shown = passed(run("docker", "inspect", "--format", "{{json .State}}", self.name))
        return dict(json.loads(shown))

    def remove(self) -> None:
        run("docker", "rm", "--force", "--volumes", self.name)


INIT = """\
echo "init as $(id -u) in $PWD, PATH=$PATH, USER_NAME=$USER_NAME"
test -f /config/sshd/sshd_config && echo 'after the configuration'
pgrep -f '[s]shd.*listener' >/dev/null || echo 'before sshd'
exit 7
"""
SERVICE = """\
#!/usr/bin/with-contenv bash
echo "service as $(id -u), USER_NAME=$USER_NAME, named ${0##*/}"
sleep 1000
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A running gateway with a custom script, a custom service, and one that is not a program."""
    made = Gateway(
        tmp_path_factory.mktemp("root"),
        {
            "/custom-cont-init.d/first": INIT,
            "/custom-services.d/good": SERVICE,
        },
    )
    made.start()
    assert until(lambda: "[ls.io-init] done." in made.log(), 40), made.log()
    yield made
    made.remove()


def test_the_images_configuration() -> None:
    image = json.loads(passed(run("docker", "image", "inspect", GATEWAY_IMAGE)))[0]["Config"]
    assert image["Entrypoint"] == ["/init"]
    assert not image["Cmd"]
    assert set(image["Volumes"]) == {"/config"}
    assert set(image["ExposedPorts"]) == {"2222/tcp"}
    assert image["User"] in ("", "root")
    assert set(image["Env"]) >= ENVIRONMENT


def test_the_image_has_these_programs_and_no_others_that_matter(gateway: Gateway) -> None:
    for name in INSTALLED:
        assert "busybox" not in passed(gateway.sh(f'readlink -f "$(command -v {name})"')), name
    for name in BUSYBOX:
        path = passed(gateway.sh(f'readlink -f "$(command -v {name})"')).strip()
        assert path.endswith("/busybox"), name
    for name in ABSENT:
        assert gateway.sh(f"command -v {name}").returncode != 0, name
    for name in S6:
        assert gateway.sh(f"test -x /command/{name} && command -v {name}").returncode == 0, name
    # The shell runs its own applets only under names that are on PATH.
    assert "not found" in gateway.sh("PATH=/none; dpkg").stderr


def test_users_and_ids(gateway: Gateway) -> None:
    files = ("/etc/passwd", "/etc/group")
    users = passed(run_in_image(GATEWAY_IMAGE, *files, options=["--entrypoint=cat"]))
    assert "\nabc:x:911:" in users
    assert ":/config:/bin/bash\n" in users
    assert "\nusers:x:1000:" in users
    assert "uid=1000(builder) gid=1000(" in passed(gateway.sh("id builder"))
    assert gateway.sh("id abc").returncode != 0


def test_owners_and_modes(gateway: Gateway) -> None:
    shown = passed(gateway.sh(f"stat -L -c '%n %a %u %g' {' '.join(FILES)}"))
    found = {words[0]: tuple(words[1:]) for words in map(str.split, shown.splitlines())}
    assert found == FILES


def test_custom_scripts_run_after_the_configuration_and_before_sshd(gateway: Gateway) -> None:
    output = gateway.log()
    begun = output.index("[custom-init] first: executing...")
    line = next(line for line in output.splitlines() if line.startswith("init as "))
    assert line.startswith("init as 0 in /")
    assert "PATH=/command:" in line
    assert line.endswith("USER_NAME=builder")
    assert begun < output.index("after the configuration") < output.index("before sshd")
    assert "[custom-init] first: exited 7" in output


def test_custom_services_are_copied_and_run_as_root_with_the_environment(gateway: Gateway) -> None:
    assert "[custom-init] good: service detected, copying..." in gateway.log()
    assert until(lambda: "service as 0, USER_NAME=builder, named run" in gateway.log())
    assert "custom-svc-good" in passed(gateway.sh("ls /run/service"))


def test_sshd_runs_as_the_user_under_upstreams_name_and_logs_to_files(gateway: Gateway) -> None:
    listening = passed(gateway.sh("ps -eo user,args | grep '[l]istener'"))
    assert listening.startswith("builder ")
    assert "/usr/sbin/sshd.pam -D -e -f /config/sshd/sshd_config -h /config/ssh_host_keys/" in (
        listening
    )
    assert "s6-log n30 s10000000 S30000000 T !gzip -nq9 /config/logs/openssh" in passed(
        gateway.sh("ps -eo args")
    )
    assert "port 2222" in passed(gateway.sh("cat /config/logs/openssh/current"))


def test_a_key_logs_in_with_the_images_own_configuration(gateway: Gateway) -> None:
    """Alpine's sshd_config leaves PAM off, which an sshd without root needs."""
    passed(
        gateway.sh(
            "ssh-keygen -q -t ed25519 -N '' -f /tmp/key && "
            "cat /tmp/key.pub >>/config/.ssh/authorized_keys"
        )
    )
    login = "ssh -i /tmp/key -p 2222 -o StrictHostKeyChecking=no builder@localhost id -un"
    assert passed(gateway.sh(login)) == "builder\n"


def test_a_service_that_is_no_program_never_starts_and_delays_the_stop(tmp_path: Path) -> None:
    """The kernel runs the file. The start waits for it without limit, and so does the stop."""
    gateway = Gateway(tmp_path, {"/custom-services.d/bad": "exec sleep 1000\n"})
    try:
        gateway.start()
        assert until(lambda: "unable to spawn ./run" in gateway.log(), 30)
        assert "Exec format error" in gateway.log()
        assert until(lambda: gateway.sh("nc -z localhost 2222").returncode == 0, 30)
        assert "[ls.io-init] done." not in gateway.log()
        begun = time.monotonic()
        passed(run("docker", "stop", "--time", "8", gateway.name))
        assert time.monotonic() - begun >= 8
        assert gateway.state()["ExitCode"] == 137
    finally:
        gateway.remove()


def test_a_halt_before_sshd_is_up_waits_for_it(tmp_path: Path) -> None:
    """The wait has no limit: S6_CMD_WAIT_FOR_SERVICES_MAXTIME is 0, and both use one lock."""
    script = (
        "echo 'NoSuchOption yes' >/config/sshd/sshd_config\n"
        "echo 5 >/run/s6-linux-init-container-results/exitcode\n"
        "/run/s6/basedir/bin/halt\necho halted\n"
    )
    gateway = Gateway(tmp_path, {"/custom-cont-init.d/halt": script})
    try:
        gateway.start()
        assert until(lambda: "halted" in gateway.log(), 30)
        time.sleep(12)
        assert gateway.state()["Running"]
        # Once nothing holds the lock, it ends with the code in the file.
        passed(gateway.sh("pkill -f '(^|/)s6-rc .*-u '"))
        assert until(lambda: not gateway.state()["Running"], 20)
        assert gateway.state()["ExitCode"] == 5
    finally:
        gateway.remove()


def test_it_stops_within_seconds_with_the_code_of_the_file_and_starts_again(
    gateway: Gateway,
) -> None:
    begun = time.monotonic()
    passed(run("docker", "stop", "--time", "30", gateway.name))
    # s6-overlay gives all processes 3 seconds.
    assert 3 <= time.monotonic() - begun < 25
    assert gateway.state()["ExitCode"] == 0
    gateway.start()
    assert until(lambda: gateway.log().count("[ls.io-init] done.") == 2, 40)
    assert until(lambda: gateway.sh("nc -z localhost 2222").returncode == 0, 30)
