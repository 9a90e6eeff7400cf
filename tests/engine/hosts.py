"""Docker hosts for tests: containers with a real sshd in front of this machine's Docker."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.engine.conftest import (
    DAEMON_IMAGE,
    GATEWAY_IMAGE,
    Result,
    free_port,
    logs,
    make_key,
    passed,
    run,
    run_inside,
    take_from_image,
    until,
)

SOCKET = "/var/run/docker.sock"


@dataclass(frozen=True)
class Host:
    """A machine that is reached over SSH; its sshd has the defaults and logs every client."""

    container: str
    port: int
    host_key: str

    @property
    def url(self) -> str:
        return f"ssh://root@127.0.0.1:{self.port}"

    @property
    def settings(self) -> dict[str, str]:
        return {"host": self.url, "hostKey": self.host_key}

    def shell(self, script: str) -> Result:
        """Run a shell script on the host as root."""
        return run_inside(self.container, "sh", "-c", script)

    def log(self) -> str:
        """The log of the host's sshd."""
        return logs(self.container)


@dataclass
class Hosts:
    """Makes hosts; `agent` has the key that all of them accept."""

    folder: Path
    agent: str
    operator: str
    made: list[Host]

    def new(self, *options: str) -> Host:
        """A host whose container also has these options of `docker run`."""
        port = free_port()
        folder = self.folder / str(port)
        folder.mkdir()
        host_key = make_key(folder / "host")
        (folder / "authorized_keys").write_text(self.operator + "\n")
        # sshd requires files that root owns; the docker CLI is that of the daemon's image.
        start = (
            "mkdir -p /run/sshd /root/.ssh /usr/local/bin && cp /given/docker /usr/local/bin/ && "
            "cp /given/authorized_keys /root/.ssh/ && cp /given/host /etc/ssh/key && "
            "chown -R 0:0 /root/.ssh && chmod 0600 /etc/ssh/key /root/.ssh/authorized_keys && "
            f"exec /usr/sbin/sshd.pam -D -e -f /dev/null -h /etc/ssh/key -p {port} "
            "-o ListenAddress=127.0.0.1 -o PidFile=none -o LogLevel=VERBOSE"
        )
        (folder / "docker").hardlink_to(self.folder / "docker")
        container = passed(
            run(
                "docker",
                "run",
                "--detach",
                "--network",
                "host",
                "--user",
                "0:0",
                "--volume",
                f"{SOCKET}:{SOCKET}",
                "--volume",
                f"{folder}:/given:ro",
                *options,
                "--entrypoint",
                "sh",
                GATEWAY_IMAGE,
                "-euc",
                start,
            )
        ).strip()
        self.made.append(Host(container, port, host_key))
        assert until(lambda: "Server listening" in self.made[-1].log())
        return self.made[-1]


@contextmanager
def hosts_in(folder: Path) -> Iterator[Hosts]:
    """Hosts that are removed after the block, with the agent that can log in to them."""
    places = ("/usr/local/bin/docker", "/usr/bin/docker")
    take_from_image(DAEMON_IMAGE, folder / "docker", *places)
    operator = make_key(folder / "operator")
    with agent_with(folder / "operator", folder) as agent:
        hosts = Hosts(folder, agent, operator, [])
        try:
            yield hosts
        finally:
            for host in hosts.made:
                run("docker", "rm", "--force", "--volumes", host.container)


@contextmanager
def agent_with(key: Path, folder: Path) -> Iterator[str]:
    """The socket of an agent with this private key; the agent ends after the block."""
    socket = folder / "agent"
    with subprocess.Popen(
        ["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL
    ) as agent:
        try:
            assert until(socket.exists)
            passed(run("ssh-add", str(key), env={"SSH_AUTH_SOCK": str(socket)}))
            yield str(socket)
        finally:
            agent.terminate()
