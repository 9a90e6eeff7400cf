"""The builder itself: a stack of this program on this machine's Docker, and its clients."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.client import Client, put_ssh, run
from bench.images import Images
from bench.keys import free_port, make_key, ssh_block
from bench.peers import close, wait_for
from bench.stack import NAME, Stack
from components.layout import DAEMON_SOCKET

ROOT = Path(__file__).parents[1]
KIT, SHARED, PLAIN = "kit", "ssh, shared connection", "ssh, nothing configured"
FORWARDED = "kit without Python, or a CI job"
OWN = "the builder's own socket"


@dataclass(frozen=True)
class Builder:
    """A stack of this program."""

    stack: Stack
    address: str
    port: int

    @classmethod
    def create(cls, images: Images, folder: Path, address: str) -> Builder:
        """A stack with the defaults, not deployed yet.

        Its gateway listens on this address of the machine, as for clients on other machines:
        connections to 127.0.0.1 would go through Docker's own proxy.
        """
        folder.mkdir()
        port = free_port()
        stack = Stack.create(
            ROOT,
            folder,
            sshHost=address,
            sshAddress=address,
            sshPort=port,
            keys=[{"name": "bench", "publicKey": make_key(folder / "key")}],
            daemonImage=images.daemon,
            gatewayImage=images.gateway,
            keepCache=False,
        )
        return cls(stack, address, port)

    @property
    def gateway(self) -> str:
        return f"{NAME}-builder-gateway"

    def own_socket(self, folder: Path) -> Client:
        """A client of the builder's daemon on this machine, without ssh."""
        directory, _, socket = DAEMON_SOCKET.rpartition("/")
        mounts = json.loads(
            run(
                "docker", "inspect", f"{NAME}-builder-daemon", "--format", "{{json .Mounts}}"
            ).stdout
        )
        source = next(m["Source"] for m in mounts if m["Destination"] == directory)
        return Client.create(OWN, f"unix://{source}/{socket}", folder)

    def logins(self) -> int:
        """How many connections have logged in, counted in the gateway's log."""
        logged = run("docker", "logs", self.gateway)
        return len(re.findall(r" login ", logged.stdout + logged.stderr))

    def _outputs(self, port: int) -> dict[str, str]:
        """The stack's exports, for clients that reach the gateway at this port."""
        shown = self.stack.pulumi("stack", "output", "--json", "--stack", NAME)
        outputs: dict[str, str] = json.loads(shown.stdout)
        return {**outputs, "knownHosts": self._moved(outputs["knownHosts"], port)}

    def _moved(self, text: str, port: int) -> str:
        """Lines of ssh_config or known_hosts with this port instead of the gateway's."""
        return text.replace(f"]:{self.port} ", f"]:{port} ").replace(
            f"Port {self.port}\n", f"Port {port}\n"
        )

    def job(self, folder: Path, port: int) -> Path:
        """The file that a CI job sources, for a gateway that is reached at this port."""
        self._client("ci", "github", "--out", str(folder))
        script = folder / "ci" / "builder.sh"
        script.write_text(self._moved(script.read_text(), port))
        return script

    def _client(self, *words: str) -> None:
        """Run `python -m client` as the admin of this stack."""
        stack = ("--stack", NAME, "--config-file", str(self.stack.config))
        command = (sys.executable, "-m", "client", words[0], *stack, *words[1:])
        run(*command, env=self.stack.environment, cwd=ROOT)

    @contextmanager
    def clients(self, folder: Path, port: int = 0) -> Iterator[list[Client]]:
        """Three clients: with the kit, with a plain ControlMaster, and with nothing configured.

        `folder` is a new folder of theirs; `port` leads to the gateway, by default its own.
        """
        port = port or self.port
        folder.mkdir()
        (folder / "key").symlink_to(self.stack.folder / "key")
        outputs = self._outputs(port)
        shared, plain = (
            Client.create(
                path,
                "ssh://gateway",
                folder / name,
                ssh_block(
                    "gateway",
                    "builder",
                    self.address,
                    port,
                    folder,
                    outputs["knownHosts"],
                    shared=path == SHARED,
                ),
            )
            for path, name in ((SHARED, "shared"), (PLAIN, "plain"))
        )
        with self._kit(outputs["sshAlias"], folder, port) as kit:
            for client in (kit, shared, plain):
                wait_for(client)
            yield [kit, shared, plain]
            close(shared, "gateway")

    @contextmanager
    def _kit(self, alias: str, folder: Path, port: int) -> Iterator[Client]:
        """A client with what `builder env` of an installed kit sets."""
        kit, home = folder / "kit", folder / "kit-client" / "home"
        self._client("kit", "--key", "bench", "--out", str(kit))
        for file in (kit / alias / "ssh_config", kit / alias / "known_hosts"):
            file.write_text(self._moved(file.read_text(), port))
        client = Client.create(KIT, "", folder / "kit-client")
        home.mkdir()
        put_ssh(client.folder / "bin", "-F", f"{home}/.ssh/config")
        env = {
            **client.environment,
            "DOCKER_HOST": "",
            "HOME": str(home),
            "BUILDER_HOME": str(folder / "b"),
        }
        installed = str(folder / "b" / "builder")
        run("sh", str(kit / "builder"), "install", "--identity", str(folder / "key"), env=env)
        # `builder env` leaves a watcher behind, which would keep a captured standard error open.
        with open(os.devnull, "w") as null:
            printed = run(
                "sh", installed, "env", alias, env=env, capture_output=False, stdout=-1, stderr=null
            ).stdout
        host = re.search(r"DOCKER_HOST='([^']*)'", printed)
        try:
            yield Client(KIT, host[1] if host else "", client.folder)
        finally:
            run("sh", installed, "uninstall", env=env)
