"""Who gets in, and what they can do there: tried from outside with ssh and docker."""

from __future__ import annotations

import subprocess
import time

import pytest

from tests.engine.conftest import PING, Builder, free_port, make_key, passed, run

CLIENTS = 200


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


@pytest.mark.parametrize(
    "arguments",
    [("sh",), ("-tt", "sh"), ("-s", "sftp"), ("cat /etc/passwd",), ("nc -l 1234",)],
    ids=str,
)
def test_no_command_but_the_docker_stream(builder: Builder, arguments: tuple[str, ...]) -> None:
    options = [a for a in arguments if a.startswith("-")]
    words = [a for a in arguments if not a.startswith("-")]
    answer = builder.ssh(*options, builder.output("sshAlias"), *words, input="id\r\n\r\n")
    assert "uid=" not in answer.stdout
    assert "root:" not in answer.stdout
    assert answer.stdout == "" or answer.stdout.startswith("HTTP/1.1 400 Bad Request")


@pytest.mark.parametrize(
    ("forwarding", "probe"),
    [
        ("-L{port}:127.0.0.1:2222", "tcp"),
        ("-L{socket}:/run/gateway/health", "unix"),
        ("-D{port}", "socks"),
    ],
    ids=["tcp", "another path", "socks"],
)
def test_nothing_else_is_forwarded(builder: Builder, forwarding: str, probe: str) -> None:
    path = builder.folder / "forwarded.sock"
    path.unlink(missing_ok=True)
    port = free_port()
    tunnel = subprocess.Popen(
        [
            *builder.ssh_command(), "-N", forwarding.format(port=port, socket=path),
            builder.output("sshAlias"),
        ],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        time.sleep(1.5)
        if probe == "unix":
            got = run("nc", "-w", "2", "-U", str(path), input="hello")
        elif probe == "socks":
            got = run("nc", "-w", "2", "-X", "5", "-x", f"127.0.0.1:{port}", "127.0.0.1", "2222",
                      input="")  # fmt: skip
        else:
            got = run("nc", "-w", "2", "127.0.0.1", str(port), input="")
    finally:
        tunnel.terminate()
        said = tunnel.communicate()[1]
    assert "SSH-2.0" not in got.stdout
    assert got.stdout == ""
    assert "open failed" in said


def test_no_remote_forwarding(builder: Builder) -> None:
    for target in ("2300:127.0.0.1:22", "/run/builder/mine.sock:127.0.0.1:22"):
        refused = builder.ssh(
            "-N", "-o", "ExitOnForwardFailure=yes", "-R", target, builder.output("sshAlias")
        )
        assert refused.returncode == 255
        assert "forwarding failed" in refused.stderr


def test_the_docker_socket_is_forwarded(builder: Builder) -> None:
    path = builder.folder / "docker.sock"
    tunnel = subprocess.Popen(
        [
            *builder.ssh_command(),
            "-N",
            f"-L{path}:/run/builder/docker.sock",
            builder.output("sshAlias"),
        ]
    )
    try:
        deadline = time.monotonic() + 10
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        passed(run("docker", "--host", f"unix://{path}", "version"))
    finally:
        tunnel.terminate()
        tunnel.wait()


def test_no_password_and_no_unknown_key(builder: Builder) -> None:
    make_key(builder.folder / "stranger")
    refused = builder.ping(key="stranger")
    assert refused.returncode == 255
    assert "Permission denied (publickey)." in refused.stderr


def test_a_key_comes_and_goes_without_touching_anybody(builder: Builder) -> None:
    daemon, gateway = builder.container_id("daemon"), builder.container_id("gateway")
    keys = builder.settings["keys"]
    builder.settings["keys"] = [
        *keys, {"name": "ci", "publicKey": make_key(builder.folder / "ci")}
    ]  # fmt: skip
    stream = subprocess.Popen(
        [*builder.ssh_command(), builder.output("sshAlias")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert stream.stdin is not None
    assert stream.stdout is not None
    try:
        builder.up()
        assert "200 OK" in builder.ping(key="ci").stdout
        builder.settings["keys"] = keys
        builder.up()
        assert builder.ping(key="ci").returncode == 255
        stream.stdin.write(PING)
        stream.stdin.flush()
        assert "200 OK" in stream.stdout.readline()
    finally:
        stream.terminate()
        stream.wait()
    assert (daemon, gateway) == (builder.container_id("daemon"), builder.container_id("gateway"))


def test_a_removed_key_is_out_and_its_connections_close(builder: Builder) -> None:
    kept = builder.settings["keys"]
    builder.settings["keys"] = [
        *kept, {"name": "leaver", "publicKey": make_key(builder.folder / "leaver")}
    ]  # fmt: skip
    builder.up()
    master = subprocess.Popen(
        [*builder.ssh_command("leaver"), "-N", builder.output("sshAlias")],
        stderr=subprocess.DEVNULL,
    )
    try:
        time.sleep(1.5)
        gateway = builder.container("gateway")
        who = passed(run("docker", "exec", gateway, "bash", "/usr/local/lib/gateway/warden", "who"))
        assert "name=leaver" in who.split("lately")[0]
        builder.settings["keys"] = kept
        builder.up()
        master.wait(10)
    finally:
        master.kill()
        master.wait()
    assert builder.ping(key="leaver").returncode == 255
    assert "200 OK" in builder.ping().stdout
    said = run("docker", "logs", gateway).stdout
    for event in ("login", "closed", "refused"):
        assert any(f" {event} " in line and "SHA256:" in line for line in said.splitlines()), event
    assert "login name=leaver" in said
    assert "closed name=leaver" in said


def test_a_certificate_gets_in_until_it_is_revoked(builder: Builder) -> None:
    kept = builder.settings["keys"]
    authority = builder.folder / "authority"
    entry = {"name": "ci-ca", "publicKey": make_key(authority), "principals": ["ci"]}
    make_key(builder.folder / "job")
    passed(run("ssh-keygen", "-q", "-s", str(authority), "-I", "job-1", "-n", "ci", "-z", "7",
               "-V", "+5m", str(builder.folder / "job.pub")))  # fmt: skip
    builder.settings["keys"] = [*kept, entry]
    try:
        builder.up()
        assert "200 OK" in builder.ping(key="job").stdout
        assert builder.ping(key="authority").returncode == 255
        builder.settings["revoked"] = [{"ca": "ci-ca", "serial": 7}]
        open_connection = subprocess.Popen(
            [*builder.ssh_command("job"), "-N", builder.output("sshAlias")],
            stderr=subprocess.DEVNULL,
        )
        try:
            time.sleep(1.5)
            builder.up()
            open_connection.wait(10)
        finally:
            open_connection.kill()
            open_connection.wait()
        assert builder.ping(key="job").returncode == 255
        assert "200 OK" in builder.ping().stdout
    finally:
        builder.settings["keys"] = kept
        builder.settings.pop("revoked", None)
        builder.up()


def test_many_clients_at_once_are_all_let_in(builder: Builder) -> None:
    command = [*builder.ssh_command(), builder.output("sshAlias")]
    clients = [
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(CLIENTS)
    ]
    answers = [client.communicate(PING, timeout=120) for client in clients]
    refused = [said for out, said in answers if "200 OK" not in out]
    assert refused == []


def test_a_client_with_a_wrong_key_does_not_lock_the_others_out(builder: Builder) -> None:
    make_key(builder.folder / "guesser")
    for _ in range(25):
        assert builder.ping(key="guesser").returncode == 255
    assert "200 OK" in builder.ping().stdout


def test_clients_that_are_killed_leave_no_process(builder: Builder) -> None:
    builder.ssh_end()
    gateway = builder.container("gateway")
    command = [*builder.ssh_command(), builder.output("sshAlias")]
    clients = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        for _ in range(40)
    ]
    time.sleep(6)
    for client in clients:
        client.kill()
        client.wait()
    deadline = time.monotonic() + 20
    while True:
        left = [
            line
            for line in passed(run("docker", "top", gateway, "-eo", "pid,args")).splitlines()
            if "nc -N" in line or "sshd-session" in line
        ]
        if not left or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    assert left == []
