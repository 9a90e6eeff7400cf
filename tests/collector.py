"""A collector of OpenTelemetry traces over OTLP/HTTP for the tests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


@dataclass(frozen=True)
class Span:
    """One span that arrived; `resource` and `attributes` have their values as text."""

    name: str
    trace: str
    resource: dict[str, str]
    attributes: dict[str, str]


@dataclass
class Collector:
    """What arrived at `url`."""

    url: str
    stop: Callable[[], None]
    """Makes it refuse connections."""
    spans: list[Span] = field(default_factory=list)
    paths: set[str] = field(default_factory=set)
    """Of all requests."""


def _values(attributes: object) -> dict[str, str]:
    return {
        pair.key: str(getattr(pair.value, pair.value.WhichOneof("value") or "string_value"))
        for pair in attributes  # type: ignore[attr-defined]
    }


@contextmanager
def collecting(address: str) -> Iterator[Collector]:
    """A collector that listens on this address of the machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = ExportTraceServiceRequest()
            request.ParseFromString(self.rfile.read(int(self.headers["Content-Length"])))
            collector.paths.add(self.path)
            for group in request.resource_spans:
                resource = _values(group.resource.attributes)
                collector.spans.extend(
                    Span(span.name, span.trace_id.hex(), resource, _values(span.attributes))
                    for scope in group.scope_spans
                    for span in scope.spans
                )
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.end_headers()
            self.wfile.write(ExportTraceServiceResponse().SerializeToString())

        def log_message(self, format: str, *words: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer((address, 0), Handler) as server:

        def stop() -> None:
            server.shutdown()
            server.server_close()

        collector = Collector(f"http://{address}:{server.server_address[1]}", stop)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield collector
        finally:
            stop()
