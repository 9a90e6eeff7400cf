"""Other SSH clients log in with the pinned host key, and OpenSSH with its fastest cipher."""

from __future__ import annotations

import asyncio
import base64
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import asyncssh
import pytest
import ssh2.session
from ssh import options
from ssh.key import import_privkey_file
from ssh.session import Session

from tests.engine.conftest import BASE_IMAGE, PING, Builder, Result, make_key, passed, run

DIAL = "docker system dial-stdio"
"""Every client of Docker requests this; the gateway connects it to the socket of the key's role."""

# Ciphers that OpenSSH offers by default (myproposal.h of each release), and what systems set.
CTR, GCM = "aes128-ctr,aes192-ctr,aes256-ctr", "aes128-gcm@openssh.com,aes256-gcm@openssh.com"
CHACHA20 = "chacha20-poly1305@openssh.com"
OFFERED = {
    "6.2": f"{CTR},{GCM},aes128-cbc,3des-cbc,aes192-cbc,aes256-cbc",
    "6.5": f"{CTR},{GCM},{CHACHA20},aes128-cbc,3des-cbc,aes192-cbc,aes256-cbc",
    "6.7": f"{CTR},{GCM},{CHACHA20},aes128-cbc,3des-cbc,aes192-cbc,aes256-cbc",
    "6.9": f"{CHACHA20},{CTR},{GCM},aes128-cbc,3des-cbc,aes192-cbc,aes256-cbc",
    "7.3": f"{CHACHA20},{CTR},{GCM},aes128-cbc,aes192-cbc,aes256-cbc,3des-cbc",
    "7.6 to 9.9, Windows": f"{CHACHA20},{CTR},{GCM}",
    "10.0": f"{CHACHA20},{GCM},{CTR}",
    "RHEL 8": f"aes256-gcm@openssh.com,{CHACHA20},aes256-ctr,aes256-cbc,aes128-gcm@openssh.com,"
    "aes128-ctr,aes128-cbc",
    "RHEL 9": f"aes256-gcm@openssh.com,{CHACHA20},aes256-ctr,aes128-gcm@openssh.com,aes128-ctr",
}


@pytest.mark.parametrize("offered", [None, *OFFERED.values()], ids=["of this machine", *OFFERED])
def test_openssh_selects_the_fastest_cipher_of_its_release(
    builder: Builder, offered: str | None
) -> None:
    chosen = [f"-oCiphers={offered}"] if offered else []
    result = builder.ssh("-v", *chosen, builder.alias, DIAL, input=PING)
    assert "200 OK" in passed(result)
    first = "aes256" if offered and offered.startswith("aes256-gcm") else "aes128"
    for way in ("server->client", "client->server"):
        assert f"kex: {way} cipher: {first}-gcm@openssh.com MAC: <implicit>" in result.stderr


def test_cbc_has_only_encrypt_then_mac(builder: Builder) -> None:
    result = builder.ssh(
        "-oCiphers=aes128-cbc",
        "-oMACs=hmac-sha2-256,hmac-sha2-512",
        builder.alias,
        DIAL,
        input=PING,
    )
    assert "no matching MAC found" in result.stderr


Client = Callable[[Builder, str], tuple[str, str]]
"""Pings the daemon with this host key pinned; returns the cipher and the answer."""


class OtherHostKey(Exception):
    """The client refused the host because of its key."""


def asyncssh_client(builder: Builder, host_key: str) -> tuple[str, str]:
    host, port = address(builder)

    async def ping() -> tuple[str, str]:
        known = asyncssh.import_known_hosts(f"[{host}]:{port} {host_key}\n")
        async with asyncssh.connect(
            host,
            port,
            username="builder",
            client_keys=[str(builder.folder / "ada")],
            known_hosts=known,
            config=None,
            agent_path=None,
        ) as connection:
            result = await connection.run(DIAL, input=PING)
            return str(connection.get_extra_info("send_cipher")), str(result.stdout)

    try:
        return asyncio.run(ping())
    except asyncssh.HostKeyNotVerifiable as refused:
        raise OtherHostKey from refused


def libssh_client(builder: Builder, host_key: str) -> tuple[str, str]:
    host, port = address(builder)
    session = Session()
    session.options_set(options.HOST, host)
    session.options_set_port(port)
    session.options_set(options.USER, "builder")
    session.options_set(options.PROCESS_CONFIG, "no")
    session.connect()
    shown = session.get_server_publickey()
    if shown.export_pubkey_base64().decode() != host_key.split()[1]:
        raise OtherHostKey
    session.userauth_publickey(import_privkey_file(str(builder.folder / "ada")))
    channel = session.channel_new()
    channel.open_session()
    channel.request_exec(DIAL)
    channel.write(PING.encode())
    channel.send_eof()
    return session.get_cipher_out().decode(), channel.read()[1].decode()


def libssh2_client(builder: Builder, host_key: str) -> tuple[str, str]:
    session = ssh2.session.Session()
    with socket.create_connection(address(builder), 10) as connected:
        session.handshake(connected)
        if session.hostkey()[0] != base64.b64decode(host_key.split()[1]):
            raise OtherHostKey
        session.userauth_publickey_fromfile("builder", str(builder.folder / "ada"))
        channel = session.open_session()
        channel.execute(DIAL)
        channel.write(PING.encode())
        channel.send_eof()
        output = channel.read()[1].decode()
        return session.methods(ssh2.session.LIBSSH2_METHOD_CRYPT_CS), output


def plink_client(builder: Builder, host_key: str) -> tuple[str, str]:
    """PuTTY's client."""
    host, port = address(builder)
    key, pinned = builder.folder / "ada.ppk", builder.folder / "pinned.pub"
    passed(run("puttygen", str(builder.folder / "ada"), "-o", str(key)))
    pinned.write_text(host_key)
    fingerprint = passed(run("ssh-keygen", "-lf", str(pinned))).split()[1]
    result = run(
        "plink",
        "-ssh",
        "-batch",
        "-noagent",
        "-v",
        "-hostkey",
        fingerprint,
        "-i",
        str(key),
        "-P",
        str(port),
        f"builder@{host}",
        DIAL,
        input=PING,
    )
    if "Host key not in manually configured list" in result.stderr:
        raise OtherHostKey
    ciphers = [line for line in result.stderr.splitlines() if "outbound encryption" in line]
    return ciphers[0], passed(result)


def address(builder: Builder) -> tuple[str, int]:
    return builder.settings["sshAddress"], builder.settings["sshPort"]


def pinned(builder: Builder) -> str:
    return builder.output("knownHosts").strip().split(" ", 1)[1]


@pytest.mark.parametrize(
    ("client", "cipher"),
    [
        (asyncssh_client, "gcm@openssh.com"),
        (libssh_client, "gcm@openssh.com"),
        (libssh2_client, "gcm@openssh.com"),
        (plink_client, "AES-128 CBC"),
    ],
)
def test_other_clients_log_in_and_check_the_pinned_host_key(
    builder: Builder, client: Client, cipher: str
) -> None:
    chosen, output = client(builder, pinned(builder))
    assert output.startswith("HTTP/1.0 200 OK")
    assert cipher in chosen
    impostor = make_key(builder.folder / f"impostor-{client.__name__}")
    with pytest.raises(OtherHostKey):
        client(builder, impostor)


# docker-py with what it finds by default: key and known hosts in ~/.ssh.
DOCKER_PY = """
import sys
import docker
client = docker.DockerClient(base_url=sys.argv[1], timeout=60)
adapter = client.api.get_adapter("http+docker://ssh")
print(adapter.ssh_client.get_transport().local_cipher)
print("API", client.version()["ApiVersion"], client.ping(), *(i.tags for i in client.images.list()))
"""


@pytest.fixture(scope="module", params=["2.12.0", "3.4.0", "5.1.0"])
def paramiko(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with this release: Debian 12's, the last one without AES-GCM, or the newest."""
    folder = tmp_path_factory.mktemp("paramiko")
    passed(
        run(
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--target",
            str(folder),
            f"paramiko=={request.param}",
        )
    )
    return folder


def docker_py(builder: Builder, paramiko: Path, home: Path, host_key: str) -> Result:
    """docker-py over the SSH of this paramiko, in its own home."""
    host, port = address(builder)
    ssh = home / ".ssh"
    ssh.mkdir(parents=True, exist_ok=True)
    (ssh / "known_hosts").write_text(f"[{host}]:{port} {host_key}\n")
    (ssh / "id_ed25519").write_text((builder.folder / "ada").read_text())
    return run(
        sys.executable,
        "-W",
        "ignore",
        "-c",
        DOCKER_PY,
        f"ssh://builder@{host}:{port}",
        env={"HOME": str(home), "PYTHONPATH": str(paramiko), "SSH_AUTH_SOCK": ""},
    )


def test_docker_py_logs_in_with_each_paramiko_and_checks_the_pinned_host_key(
    builder: Builder, paramiko: Path, tmp_path: Path
) -> None:
    output = passed(docker_py(builder, paramiko, tmp_path, pinned(builder))).splitlines()
    assert output[0] == "aes128-cbc"
    assert re.match(r"API 1\.\d+ True ", output[1])
    assert f"['{BASE_IMAGE}']" in output[1]
    refused = docker_py(builder, paramiko, tmp_path, make_key(tmp_path / "impostor"))
    assert refused.returncode != 0
    assert "BadHostKeyException" in refused.stderr


def test_docker_py_uses_the_configured_name_with_openssh(builder: Builder, paramiko: Path) -> None:
    """As docs/clients.md describes it for a kit, whose Include paramiko does not read."""
    ask = (
        "import docker, sys; client = docker.DockerClient(base_url=sys.argv[1], "
        "use_ssh_client=True); print(client.version()['ApiVersion'], client.images.list())"
    )
    env = {"PATH": builder.path, "PYTHONPATH": str(paramiko)}
    command = (sys.executable, "-W", "ignore", "-c", ask)
    builder.ssh_end()
    with_port = run(*command, f"ssh://{builder.alias}:{builder.settings['sshPort']}", env=env)
    assert BASE_IMAGE in passed(with_port)
    # Without a port docker-py adds -p 22, which ssh ignores only if the shared connection is open.
    passed(builder.docker("version"))
    assert BASE_IMAGE in passed(run(*command, f"ssh://{builder.alias}", env=env))
