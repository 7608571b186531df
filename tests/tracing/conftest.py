"""A collector that takes spans by OTLP over HTTP, and parts of the product that send some."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.faults.conftest import model_server, sidecar
from tests.plugin.conftest import field, registry, registry_file, worker_settings

__all__ = [
    "field",
    "model_server",
    "registry",
    "registry_file",
    "sidecar",
    "worker_settings",
]

OTEL_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER")


@dataclass
class Received:
    """One span as the collector got it."""

    service: str
    span: Span
    attributes: dict[str, object]

    @property
    def name(self) -> str:
        return self.span.name

    @property
    def trace_id(self) -> str:
        return self.span.trace_id.hex()

    @property
    def span_id(self) -> str:
        return self.span.span_id.hex()

    @property
    def parent_id(self) -> str:
        return self.span.parent_span_id.hex()

    @property
    def failed(self) -> bool:
        return self.span.status.code == 2  # ERROR


class _Collector(ThreadingHTTPServer):
    daemon_threads = True
    paths: set[str]
    received: list[Received]


class Collector:
    """Takes spans and keeps them."""

    def __init__(self) -> None:
        self._server = _Collector(("127.0.0.1", 0), _Handler)
        self._server.paths, self._server.received = set(), []
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def paths(self) -> set[str]:
        return self._server.paths

    @property
    def spans(self) -> list[Received]:
        return list(self._server.received)

    def named(self, name: str) -> list[Received]:
        return [each for each in self.spans if each.name == name]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = cast(_Collector, self.server)
        request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
        server.paths.add(self.path)
        for resource in request.resource_spans:
            service = str({each.key: _value(each.value) for each in resource.resource.attributes}["service.name"])
            for scope in resource.scope_spans:
                for span in scope.spans:
                    attributes = {each.key: _value(each.value) for each in span.attributes}
                    server.received.append(Received(service, span, attributes))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def _value(value: AnyValue) -> object:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return None if kind is None else getattr(value, kind)


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Generator[Collector]:
    """A collector; the environment names none, and spans are sent at once."""
    for name in OTEL_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    running = Collector()
    yield running
    running.close()


@pytest.fixture
def no_otel(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """An environment without OpenTelemetry's variables; keywords set some."""
    for name in (*OTEL_VARIABLES, "OTEL_SDK_DISABLED", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        monkeypatch.delenv(name, raising=False)

    def put(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return put
