"""Clients that have logged in can use the Docker API, and nothing else."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from tests.engine.conftest import PING, Builder, free_port, passed, run, until

every_credential = pytest.mark.parametrize("key", ["ada", "job"], ids=["key", "certificate"])


@every_credential
@pytest.mark.parametrize(
    "arguments",
    [("sh",), ("-tt", "sh"), ("-s", "sftp"), ("cat /etc/passwd",), ("nc -l 1234",)],
    ids=str,
)
def test_no_command_but_the_docker_stream(
    builder: Builder, key: str, arguments: tuple[str, ...]
) -> None:
    options = [a for a in arguments if a.startswith("-")]
    words = [a for a in arguments if not a.startswith("-")]
    answer = builder.ssh(*options, builder.alias, *words, key=key, input="id\r\n\r\n")
    assert "uid=" not in answer.stdout
    assert "root:" not in answer.stdout
    assert answer.stdout == ""
    assert answer.returncode != 0


@every_credential
@pytest.mark.parametrize("command", ["docker ps", "ls", "docker system dial-stdi", "$(id)", "`id`"])
def test_a_foreign_command_gets_an_explanation(builder: Builder, key: str, command: str) -> None:
    answer = builder.ssh(builder.alias, command, key=key, input=PING)
    assert answer.returncode == 1
    assert answer.stdout == ""
    assert answer.stderr.count("\n") == 1
    assert "This is a Docker builder: it has no shell" in answer.stderr


@every_credential
@pytest.mark.parametrize(
    "command",
    [
        "docker system dial-stdio",
        "docker --host=unix:///var/run/docker.sock system dial-stdio",
        "docker --host unix:///run/user/1000/docker.sock system dial-stdio",
        "docker -H unix:///var/run/docker.sock system dial-stdio",
        "'docker' 'system' 'dial-stdio'",
        "/usr/local/bin/docker system dial-stdio",
        "DOCKER_HOST=tcp://evil docker system dial-stdio; id",
    ],
)
def test_commands_of_docker_clients_open_the_pipe_and_do_not_run(
    builder: Builder, key: str, command: str
) -> None:
    answer = passed(builder.ssh(builder.alias, command, key=key, input=PING))
    assert answer.startswith("HTTP/1.0 200 OK")
    assert "uid=" not in answer


def test_sshd_knows_every_option_of_its_configuration(builder: Builder) -> None:
    assert "200 OK" in builder.ping().stdout
    output = passed(
        builder.inside(
            "gateway",
            "sh",
            "-c",
            "cat /config/logs/openssh/current; /usr/sbin/sshd.pam -t -f /config/sshd/sshd_config "
            "-h /config/ssh_host_keys/ssh_host_ed25519_key 2>&1",
        )
    )
    assert "Accepted publickey for builder" in output
    assert "Unsupported option" not in output
    assert "Deprecated option" not in output


@every_credential
def test_no_terminal(builder: Builder, key: str) -> None:
    refused = builder.ssh("-tt", builder.alias, key=key, input="")
    assert "PTY allocation request failed" in refused.stderr


@every_credential
@pytest.mark.parametrize(
    ("forwarding", "probe"),
    [
        ("-L{port}:127.0.0.1:2222", "tcp"),
        ("-L{socket}:/run/gateway/health", "unix"),
        ("-D{port}", "socks"),
    ],
    ids=["tcp", "another path", "socks"],
)
def test_nothing_else_is_forwarded(builder: Builder, key: str, forwarding: str, probe: str) -> None:
    path = builder.folder / "forwarded.sock"
    path.unlink(missing_ok=True)
    port = free_port()
    option = forwarding.format(port=port, socket=path)

    def listens() -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    with builder.connection("-N", option, key=key, stderr=subprocess.PIPE) as tunnel:
        assert until(path.exists if probe == "unix" else listens)
        if probe == "unix":
            got = run("nc", "-w", "2", "-U", str(path), input="hello")
        elif probe == "socks":
            got = run(
                "nc", "-w", "2", "-X", "5", "-x", f"127.0.0.1:{port}", "127.0.0.1", "2222", input=""
            )
        else:
            got = run("nc", "-w", "2", "127.0.0.1", str(port), input="")
        tunnel.terminate()
        output = tunnel.communicate()[1]
    assert got.stdout == ""
    assert "open failed" in output


@every_credential
@pytest.mark.parametrize(
    "target", ["2300:127.0.0.1:22", "/run/builder/mine.sock:127.0.0.1:22"], ids=["tcp", "socket"]
)
def test_no_remote_forwarding(builder: Builder, key: str, target: str) -> None:
    refused = builder.ssh(
        "-N", "-o", "ExitOnForwardFailure=yes", "-R", target, builder.alias, key=key
    )
    assert refused.returncode == 255
    assert "forwarding failed" in refused.stderr


@every_credential
def test_no_tunnel(builder: Builder, key: str) -> None:
    refused = builder.ssh(
        "-N", "-o", "ExitOnForwardFailure=yes", "-w", "any", builder.alias, key=key
    )
    assert refused.returncode == 255
    assert "channel 0: open failed" in refused.stderr


@every_credential
def test_no_variable_of_the_client_reaches_its_session(
    builder: Builder, key: str, tmp_path: Path
) -> None:
    agent = passed(run("ssh-agent", "-s", "-a", str(tmp_path / "agent")))
    pid = agent.split("SSH_AGENT_PID=")[1].split(";")[0]
    client = {**os.environ, "SSH_AUTH_SOCK": str(tmp_path / "agent"), "DISPLAY": "127.0.0.1:9"}
    try:
        with builder.connection(
            "-A",
            "-Y",
            "-oSetEnv=DOCKER_HOST=tcp://evil LC_EVIL=1 PATH=/evil",
            key=key,
            env=client,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as session:
            session_process = ("gateway", "pgrep", "-f", "s6-ioconnect")
            assert until(lambda: builder.inside(*session_process).stdout)
            process = builder.inside(*session_process).stdout.split()[0]
            environment = passed(
                builder.inside("gateway", "cat", f"/proc/{process}/environ", user="builder")
            )
            session.terminate()
            output = session.communicate()[1]
    finally:
        run("kill", pid)
    variables = dict(line.split("=", 1) for line in environment.split("\0") if line)
    allowed = {
        "USER",
        "LOGNAME",
        "HOME",
        "PATH",
        "SHELL",
        "MAIL",
        "TZ",
        "SSH_CLIENT",
        "SSH_CONNECTION",
        "PWD",
        "SHLVL",
        "_",
        "OLDPWD",
        "BUILDER_SOCKET",
        # Exit code of s6-ipcclient.
        "PROTO",
        "IPCLOCALPATH",
    }
    assert set(variables) <= allowed
    assert "evil" not in environment
    assert "X11 forwarding request failed" in output


@every_credential
def test_the_docker_socket_is_forwarded(builder: Builder, key: str) -> None:
    path = builder.folder / f"docker.{key}.sock"
    with builder.connection(f"-L{path}:/run/builder/docker.sock", key=key):
        assert until(path.exists)
        passed(run("docker", "--host", f"unix://{path}", "version"))
