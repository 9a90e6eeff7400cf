"""The connection to the Docker engine: a Unix socket, or `docker system dial-stdio` over ssh."""

from __future__ import annotations

import atexit
import shutil
import socket
import subprocess
import tempfile
import threading
from pathlib import Path
from urllib.parse import urlsplit

import docker.errors
from docker import APIClient
from requests.exceptions import ConnectionError as NoConnection

_TIMEOUT_SECONDS = 300


class Engine:
    """The Docker engine of one provider; it connects on first use."""

    def __init__(self) -> None:
        self._url = "unix:///var/run/docker.sock"
        self._ssh_options: list[str] = []
        self._client: APIClient | None = None
        self._lock = threading.Lock()
        self._ssh_error = ""

    def configure(self, url: str, ssh_options: list[str]) -> None:
        self._url, self._ssh_options = url, ssh_options

    @property
    def client(self) -> APIClient:
        """The client. Raises RuntimeError with the host's name if nothing answers there."""
        with self._lock:
            if self._client is None:
                url = self._forward() if self._url.startswith("ssh://") else self._url
                try:
                    self._client = APIClient(url, version="auto", timeout=_TIMEOUT_SECONDS)
                except (docker.errors.DockerException, NoConnection) as error:
                    raise RuntimeError(
                        f"Cannot connect to the Docker daemon at {self._url}. Is the docker "
                        f"daemon running? {self._ssh_error or error}"
                    ) from None
            return self._client

    def _forward(self) -> str:
        """The URL of a private Unix socket; a connection to it runs `docker system dial-stdio`."""
        parts = urlsplit(self._url)
        command = ["ssh", *self._ssh_options, "-l", parts.username or "root"]
        command += ["-p", str(parts.port or 22), "--", parts.hostname or "", "docker"]
        command += ["system", "dial-stdio"]
        folder = tempfile.mkdtemp(prefix="pulumi-docker-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        path = str(Path(folder) / "docker.sock")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()

        def dial(connection: socket.socket) -> None:
            with connection:
                ssh = subprocess.Popen(
                    command,
                    stdin=connection.fileno(),
                    stdout=connection.fileno(),
                    stderr=subprocess.PIPE,
                )
            _, errors = ssh.communicate()
            if ssh.returncode:
                self._ssh_error = errors.decode(errors="replace").strip()

        def accept() -> None:
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=dial, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        return f"unix://{path}"
