"""The page: a file that one process writes and another one serves."""

from __future__ import annotations

import socket
import time
from pathlib import Path

_STALE_SECONDS = 120
_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def put(file: Path, content: bytes) -> None:
    """Replace the file at once, so that nobody reads half of it."""
    new = file.with_name(f"{file.name}.new")
    new.write_bytes(content)
    new.replace(file)


def why_stale(file: Path) -> str:
    """Why the page must not be used; empty when it is fresh."""
    try:
        age = time.time() - file.stat().st_mtime
    except FileNotFoundError:
        return "the builder has not been read yet"
    if age <= _STALE_SECONDS:
        return ""
    return f"the builder was last read {age:.0f} s ago; next: docker logs of the container metrics"


def why_unserved(port: int) -> str:
    """Why GET /metrics does not answer with a builder's metrics; empty when it does.

    Raises OSError when nothing listens.
    """
    # http.client takes longer to import than all that a health check does.
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        answer = connection.makefile("rb").read()
    head, _, body = answer.partition(b"\r\n\r\n")
    if head.split(b" ")[1:2] != [b"200"]:
        return body.decode(errors="replace").strip() or "the page is not served"
    return "" if b"builder_up" in body else "the page has no metrics"


def serve(file: Path, port: int) -> None:
    """Answer GET /metrics with the page, until the process ends."""
    # The health checks import this module; they need no server.
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        timeout = 10
        server_version, sys_version = "metrics", ""

        def do_GET(self) -> None:
            if self.path.partition("?")[0] not in ("/", "/metrics"):
                self._answer(404, b"next: /metrics\n")
            elif why := why_stale(file):
                self._answer(503, f"{why}\n".encode())
            else:
                self._answer(200, file.read_bytes())

        def _answer(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", _TYPE)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *words: object) -> None:
            """Scrapes are not logged."""

    ThreadingHTTPServer(("", port), Handler).serve_forever()
