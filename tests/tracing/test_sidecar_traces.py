"""A span for each request that the sidecar forwards, in the client's trace, and made by another process."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, cast

import httpx
import pytest
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from fieldrepair_service.field_log import FieldLog
from fieldrepair_service.logging_policy import TRACEPARENT
from fieldrepair_service.request_head import RequestHead
from fieldrepair_service.request_trace import RequestTraces

if TYPE_CHECKING:
    from tests.faults.conftest import SidecarProcess
    from tests.tracing.conftest import Collector

Start = Callable[..., "SidecarProcess"]
TRACE = "0af7651916cd43dd8448eb211c80319c"
CLIENT_SPAN = "b7ad6b7169203331"


@dataclass
class TellingServer:
    """A model server that remembers the traceparent of each request, and answers as the path says."""

    traceparents: list[str | None] = field(default_factory=list[str | None])
    url: str = ""


@pytest.fixture
def telling() -> Generator[TellingServer]:
    told = TellingServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            told.traceparents.append(self.headers.get("traceparent"))
            body = b'{"predictions": [[0.25, 0.75]]}'
            self.send_response(503 if self.headers.get("x-fail") else 200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    told.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield told
    server.shutdown()
    server.server_close()
    thread.join()


def ask(running: SidecarProcess, path: str = "/invocations?key=secret", **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(
        running.traffic_url + path,
        content=json.dumps({"inputs": [[1.0, 0.5]]}),
        headers={"content-type": "application/json", **named},
    )


def traceparent(flags: str = "01") -> str:
    return f"00-{TRACE}-{CLIENT_SPAN}-{flags}"


def test_requests_become_spans_of_their_clients_traces(
    sidecar: Start, telling: TellingServer, collector: Collector, tmp_path: Path
) -> None:
    running = sidecar(upstream=telling.url, otlp_endpoint=collector.url)
    before = time.time_ns()
    assert ask(running, traceparent=traceparent(), tracestate="a=b", x_request_id="order-17").status_code == 200
    assert ask(running).status_code == 200  # a client without a trace: a new one begins here
    assert ask(running, traceparent=traceparent("00")).status_code == 200  # one that is not to be traced
    assert ask(running, path="/other", traceparent=traceparent(), x_fail="1").status_code == 503
    # A span ends when its answer has been written, by which time the client may have read it. Whoever has the answer
    # to a further request knows that all spans before it have ended.
    assert ask(running, path="/other", traceparent=traceparent("00")).status_code == 200
    after = time.time_ns()
    assert running.stop() == 0

    assert collector.paths == {"/v1/traces"}
    requests = [each for each in collector.spans if each.span.kind == 2]  # SERVER
    assert {each.service for each in collector.spans} == {"fieldrepair-sidecar"}
    continued, begun, failed = sorted(requests, key=lambda each: each.span.start_time_unix_nano)
    assert (continued.name, continued.trace_id, continued.parent_id) == ("POST /invocations", TRACE, CLIENT_SPAN)
    assert continued.attributes == {
        "http.request.method": "POST",
        "http.route": "/invocations",
        "url.path": "/invocations",  # without the query
        "http.response.status_code": 200,
        "fieldrepair.client_request_id": "order-17",
        "fieldrepair.protocol": "mlflow",
        "fieldrepair.model_name": "fashion",
        "fieldrepair.model_version": "1",
    }
    assert (begun.name, begun.parent_id) == ("POST /invocations", "")
    assert begun.trace_id not in (TRACE, "")
    assert (failed.name, failed.trace_id, failed.failed) == ("POST", TRACE, True)
    assert failed.attributes["http.response.status_code"] == 503
    for each in requests:
        assert before < each.span.start_time_unix_nano <= each.span.end_time_unix_nano < after

    # The model server's own spans are children of ours; what is not traced goes by as it came.
    assert telling.traceparents == [
        f"00-{TRACE}-{continued.span_id}-01",
        f"00-{begun.trace_id}-{begun.span_id}-01",
        traceparent("00"),
        f"00-{TRACE}-{failed.span_id}-01",
        traceparent("00"),
    ]
    # The field log knows the traces, and so do the spans of shipping.
    logged = FieldLog.open(tmp_path / "field_log").read_after({}, limit=10).table.column("trace_id").to_pylist()
    assert logged == [TRACE, begun.trace_id, TRACE]
    shipped = [
        trace
        for each in collector.named("ship exchanges")
        for trace in cast(list[str], each.attributes["fieldrepair.trace_ids"])
    ]
    assert set(shipped) == {TRACE, begun.trace_id}
    assert sum(int(str(each.attributes["fieldrepair.rows"])) for each in collector.named("ship exchanges")) == 3


def test_what_did_not_get_through_has_a_span_that_says_so(
    sidecar: Start, collector: Collector, no_otel: Callable[..., None]
) -> None:
    no_otel(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_SERVICE_NAME="shop")
    running = sidecar(upstream="http://127.0.0.1:9")  # nobody listens there
    assert ask(running, traceparent=traceparent()).status_code == 502
    numbers = running.metrics()
    assert running.stop() == 0
    (span,) = collector.spans
    assert (span.service, span.trace_id, span.failed) == ("shop", TRACE, True)
    assert span.attributes["http.response.status_code"] == 502
    assert span.attributes["error.type"] == "502"
    assert numbers["spans_dropped_total"] == 0


def test_a_share_of_requests_is_traced_by_the_sdks_own_variables(
    sidecar: Start, telling: TellingServer, collector: Collector, no_otel: Callable[..., None]
) -> None:
    no_otel(OTEL_TRACES_SAMPLER="parentbased_traceidratio", OTEL_TRACES_SAMPLER_ARG="0.5")
    running = sidecar(upstream=telling.url, otlp_endpoint=collector.url)
    for _ in range(60):
        assert ask(running).status_code == 200
    assert running.stop() == 0
    traced = {each.trace_id for each in collector.named("POST /invocations")}
    assert 10 < len(traced) < 50  # outside of that once in ten million runs
    assert {each.split("-")[1] for each in telling.traceparents if each is not None} == traced


def test_without_being_asked_nothing_is_traced_and_no_header_touched(
    sidecar: Start, telling: TellingServer, no_otel: Callable[..., None]
) -> None:
    no_otel()
    running = sidecar(upstream=telling.url)
    assert ask(running, traceparent=traceparent()).status_code == 200
    assert ask(running).status_code == 200
    assert telling.traceparents == [traceparent(), None]
    assert "spans_dropped_total" not in running.metrics()
    script = (
        "import sys, fieldrepair_service.sidecar, fieldrepair_service.shipper, fieldrepair_service.shipping\n"
        "print(sorted(name for name in sys.modules if name.startswith('opentelemetry.sdk')))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_collector_that_is_gone_holds_nobody_up(
    sidecar: Start, telling: TellingServer, no_otel: Callable[..., None], tmp_path: Path
) -> None:
    no_otel()
    running = sidecar(upstream=telling.url, otlp_endpoint="http://127.0.0.1:9")
    for _ in range(5):
        assert ask(running).status_code == 200
    assert running.stop() == 0
    assert len(FieldLog.open(tmp_path / "field_log").read_after({}, limit=10)) == 5


def test_with_a_redactor_spans_say_nothing_that_it_might_take_away() -> None:
    lines: list[bytes] = []
    traces = RequestTraces(ALWAYS_ON, lambda line: lines.append(line) is None, discreet=True)
    head = request_head(b"/people/ann")
    traces.enter(head)
    traces.leave(head, 200, 0.0, None, None)
    traces.close()
    assert b"ann" not in lines[0]
    assert b"secret-id" not in lines[0]


def test_spans_that_cannot_be_handed_over_are_counted() -> None:
    traces = RequestTraces(ALWAYS_ON, lambda line: False)
    for _ in range(3):
        head = request_head(b"/invocations")
        traces.enter(head)
        traces.leave(head, 200, 0.0, "mlflow", None)
    traces.close()
    assert traces.dropped == 3


@pytest.mark.parametrize("sent", [b"", b"nonsense", b"00-" + b"0" * 32 + b"-" + b"1" * 16 + b"-01", b"ff-1-2-01"])
def test_what_is_no_traceparent_begins_a_new_trace(sent: bytes) -> None:
    traces = RequestTraces(ALWAYS_ON, lambda line: True)
    head = request_head(b"/invocations", sent)
    traces.enter(head)
    traces.close()
    assert head.trace is not None
    assert (len(head.trace.trace_id), len(head.trace.span_id), head.trace.parent_id) == (32, 16, "")
    named = f"00-{head.trace.trace_id}-{head.trace.span_id}-01".encode()
    for headers in (head.headers, head.passed):
        assert [value for name, value in headers if name == TRACEPARENT] == [named]


def request_head(path: bytes, sent: bytes | None = None) -> RequestHead:
    headers = [(b"x-request-id", b"secret-id"), *([] if sent is None else [(TRACEPARENT, sent)])]
    return RequestHead(b"POST", path, path, headers, list(headers), 0, False, False, True, True, True)
