"""An upstream that asks for a login: it stands in front of a registry that asks for none."""

from __future__ import annotations

import base64
import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

USER = "acme"
_TICKET = "ticket-of-the-upstream"
_PASSED_ON = ("Accept", "Range")
_PASSED_BACK = ("Content-Type", "Docker-Content-Digest", "Content-Range", "ETag")


@dataclass
class Gate:
    """The upstream: it gives a ticket for user and token, as Docker Hub does."""

    address: str
    port: int
    behind: str
    """host:port of the registry."""
    token: str
    limited: bool = False
    """Whether it serves nothing more, as after too many pulls."""
    served: list[str] = field(default_factory=list)
    """Paths that somebody with a ticket has asked for."""

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}"

    def answer(self, asked: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body."""
        path = urlsplit(asked.path).path
        given = asked.headers.get("Authorization", "")
        if path == "/token":
            login = base64.b64encode(f"{USER}:{self.token}".encode()).decode()
            if given != f"Basic {login}":
                return _json(401, {"details": "incorrect username or password"})
            return _json(200, {"token": _TICKET, "expires_in": 60})
        if given != f"Bearer {_TICKET}":
            status, headers, body = _error(401, "UNAUTHORIZED", "authentication required")
            realm = f'Bearer realm="{self.url}/token",service="upstream"'
            return status, {**headers, "WWW-Authenticate": realm}, body
        if self.limited and path != "/v2/":
            return _error(429, "TOOMANYREQUESTS", "You have reached your pull rate limit")
        self.served.append(path)
        connection = http.client.HTTPConnection(self.behind, timeout=30)
        try:
            # Clients send a line for each kind of manifest that they accept.
            headers = {n: ", ".join(asked.headers.get_all(n, [])) for n in _PASSED_ON}
            headers = {name: value for name, value in headers.items() if value}
            connection.request(asked.command, asked.path, headers=headers)
            answer = connection.getresponse()
            back = {n: answer.headers[n] for n in _PASSED_BACK if n in answer.headers}
            if asked.command == "HEAD":
                back["Content-Length"] = answer.headers.get("Content-Length", "0")
            return answer.status, back, answer.read()
        except OSError:
            return _json(502, {})
        finally:
            connection.close()


def _json(status: int, content: Any) -> tuple[int, dict[str, str], bytes]:
    return status, {"Content-Type": "application/json"}, json.dumps(content).encode()


def _error(status: int, code: str, message: str) -> tuple[int, dict[str, str], bytes]:
    return _json(status, {"errors": [{"code": code, "message": message}]})


@contextmanager
def gate_before(behind: str, address: str, token: str) -> Iterator[Gate]:
    """A gate on a free port of this address, until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = gate.answer(self)
            self.send_response(status)
            self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer((address, 0), Handler) as server:
        gate = Gate(address, server.server_port, behind, token)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield gate
        finally:
            server.shutdown()
