"""Which keys are accepted, from when and until when, tested from outside with ssh."""

from __future__ import annotations

import datetime
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from tests.engine.conftest import (
    GATEWAY_IMAGE,
    PING,
    Builder,
    NewBuilder,
    make_key,
    passed,
    run,
    run_in_image,
    until,
)


@dataclass
class Deployed:
    builder: Builder
    output: str
    """What the first `pulumi up` printed."""
    last_day: datetime.date
    """Until when the key `guest` counts."""


@pytest.fixture(scope="module")
def deployed(new_builder: NewBuilder) -> Deployed:
    """Deployed with the keys of all tests, because an update takes longer than most tests."""
    builder = new_builder()
    # Not today, which may end during the tests.
    last_day = datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=1)
    builder.add_key("leaver")
    builder.add_key("other-leaver")
    builder.add_key("guest", until=f"{last_day}")
    builder.add_key("forgotten", until="2020-01-01")
    builder.add_key("elsewhere", **{"from": ["192.0.2.0/24"]})
    builder.add_key("ci-ca", principals=["ci"])
    return Deployed(builder, builder.up(), last_day)


@pytest.fixture(scope="module")
def builder(deployed: Deployed) -> Builder:
    return deployed.builder


def in_gateway(builder: Builder, script: str) -> None:
    passed(builder.inside("gateway", "sh", "-euc", script))


def on_access_volume(builder: Builder, script: str) -> None:
    volume = f"--volume={builder.container('access')}:/access"
    options = ("--entrypoint=sh", volume)
    passed(run_in_image(GATEWAY_IMAGE, "-euc", script, options=options))


@contextmanager
def as_program(builder: Builder, name: str) -> Iterator[None]:
    """During the block, sshd's program for sessions has this name."""
    config, path = "/config/sshd/sshd_config", f"/usr/lib/openssh/{name}"
    if name == "sshd-session":
        yield
        return

    def configure(script: str) -> None:
        in_gateway(builder, f"{script}; pkill -HUP -f 'sshd.*[l]istener'")
        # sshd starts itself anew, and does not listen meanwhile.
        assert until(lambda: builder.ping().returncode == 0)

    configure(
        f"cp /usr/lib/openssh/sshd-session {path}; sed -i '1i SshdSessionPath {path}' {config}"
    )
    try:
        yield
    finally:
        configure(f"sed -i 1d {config}")


def test_the_exported_configuration_is_all_a_client_needs(builder: Builder) -> None:
    assert "200 OK" in builder.ping().stdout


def test_another_host_key_is_refused(builder: Builder) -> None:
    config = builder.folder / "ssh_config"
    text = config.read_text()
    other = make_key(builder.folder / "impostor").split()[1]
    known = builder.output("knownHosts").split()[2]
    config.write_text(text.replace(known, other))
    try:
        refused = builder.ping()
    finally:
        config.write_text(text)
    assert refused.returncode == 255
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in refused.stderr


def test_no_password_and_no_unknown_key(builder: Builder) -> None:
    make_key(builder.folder / "stranger")
    refused = builder.ping(key="stranger")
    assert refused.returncode == 255
    assert "Permission denied (publickey)." in refused.stderr


def test_a_key_comes_and_goes_without_touching_anybody(builder: Builder) -> None:
    daemon, gateway = builder.container_id("daemon"), builder.container_id("gateway")
    with builder.connection(stdin=subprocess.PIPE, stdout=subprocess.PIPE) as stream:
        builder.add_key("ci")
        builder.up()
        assert "200 OK" in builder.ping(key="ci").stdout
        builder.remove_key("ci")
        builder.up()
        assert builder.refuses("ci")
        assert stream.stdin is not None
        assert stream.stdout is not None
        stream.stdin.write(PING)
        stream.stdin.flush()
        assert "200 OK" in stream.stdout.readline()
    assert (daemon, gateway) == (builder.container_id("daemon"), builder.container_id("gateway"))


def test_a_change_of_keys_is_shown_by_name_and_fingerprint(builder: Builder) -> None:
    kept = builder.settings["keys"]
    builder.add_key("reviewed")
    listed = passed(run("ssh-keygen", "-lf", str(builder.folder / "reviewed.pub")))
    try:
        shown = passed(builder.pulumi("preview", "--diff"))
    finally:
        builder.settings["keys"] = kept
    assert f"reviewed={listed.split()[1]}" in shown


@pytest.mark.parametrize(
    ("key", "program"),
    [("leaver", "sshd-session"), ("other-leaver", "sshd-session.pam")],
    ids=["", "Alpine's name"],
)
def test_a_removed_key_is_out_and_its_connections_close(
    builder: Builder, key: str, program: str
) -> None:
    builder.ssh_end()
    with as_program(builder, program):
        control = str(builder.folder / "shared")
        with (
            builder.connection("-M", "-o", "ControlPersist=no", key=key, control=control) as master,
            builder.connection(key=key, control=control, stdin=subprocess.PIPE) as shared,
        ):
            assert until(lambda: f"name={key}" in builder.who())
            assert "name=ada" not in builder.who()
            builder.remove_key(key)
            builder.up()
            master.wait(10)
            shared.wait(10)
    assert builder.refuses(key)
    assert "200 OK" in builder.ping().stdout
    assert until(
        lambda: any(f" refused name={key} key=SHA256:" in line for line in builder.audit()), 60
    )
    for event in (f"login name={key} key=SHA256:", f"closed name={key} key=SHA256:"):
        assert any(event in line and " from=" in line for line in builder.audit()), event


def test_a_key_is_out_when_its_time_is_over(deployed: Deployed) -> None:
    builder = deployed.builder
    with builder.connection(key="guest") as guest:
        assert until(lambda: "name=guest" in builder.who())
        # The last second is soon, because a test cannot wait for midnight.
        soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=4)
        change = f"s/{deployed.last_day:%Y%m%d}235959/{soon:%Y%m%d%H%M%S}/"
        on_access_volume(builder, f"sed -i {change} /access/authorized_keys /access/list")
        assert "200 OK" in builder.ping(key="guest").stdout
        guest.wait(10)
    assert builder.refuses("guest")
    assert "200 OK" in builder.ping().stdout


def test_an_expired_key_does_not_block_an_update(deployed: Deployed) -> None:
    assert "the key forgotten is left out" in deployed.output
    assert deployed.builder.refuses("forgotten")
    assert "200 OK" in deployed.builder.ping().stdout


def test_a_key_counts_only_from_its_addresses(builder: Builder) -> None:
    assert builder.refuses("elsewhere")


def test_a_certificate_gets_in_until_it_is_revoked(builder: Builder) -> None:
    builder.sign("job", "ci-ca", "ci", serial=7)
    builder.sign("other-job", "ci-ca", "ci", serial=8)
    builder.sign("outsider", "ci-ca", "admin")
    assert "200 OK" in builder.ping(key="job").stdout
    assert builder.refuses("ci-ca")
    assert builder.refuses("outsider")
    with builder.connection(key="job") as job, builder.connection(key="other-job") as other:
        assert until(lambda: builder.who().count("name=ci-ca") == 2)
        builder.settings["revoked"] = [{"ca": "ci-ca", "serial": 7}]
        builder.up()
        job.wait(10)
        assert other.poll() is None
    assert builder.refuses("job")
    assert "200 OK" in builder.ping(key="other-job").stdout


def test_the_host_key_is_rotated_while_clients_accept_both(builder: Builder) -> None:
    def ping_knowing(known: str) -> str:
        """A ping by a client with only these lines of known_hosts."""
        path = builder.folder / "known_hosts"
        path.write_text(known)
        request = run(
            "ssh",
            "-F",
            "none",
            "-i",
            str(builder.folder / "ada"),
            "-oBatchMode=yes",
            f"-oUserKnownHostsFile={path}",
            "-oStrictHostKeyChecking=yes",
            "-p",
            str(builder.settings["sshPort"]),
            builder.output("sshDestination"),
            input=PING,
        )
        return request.stdout + request.stderr

    gateway = builder.container_id("gateway")
    old = builder.output("knownHosts")
    builder.settings["hostKeys"] = [1, 2]
    builder.up()
    both = builder.output("knownHosts")
    new = both.removeprefix(old)
    assert both == old + new
    assert builder.container_id("gateway") == gateway
    assert "200 OK" in ping_knowing(old)
    assert "200 OK" in ping_knowing(both)
    builder.settings["hostKeys"] = [2, 1]
    builder.up()
    assert "200 OK" in ping_knowing(both)
    assert "200 OK" in ping_knowing(new)
    assert "HOST IDENTIFICATION HAS CHANGED" in ping_knowing(old)
    builder.settings["hostKeys"] = [2]
    builder.up()
    assert builder.output("knownHosts") == new
    assert "200 OK" in ping_knowing(new)
