"""Traces of requests, the shipper's half: finished requests become spans."""

from __future__ import annotations

import logging

import orjson
from opentelemetry.trace import SpanKind, Status, StatusCode

from fieldrepair_service.request_trace import FinishedRequest
from fieldrepair_service.routes import MLFLOW, OPEN_INFERENCE, TORCHSERVE
from fieldrepair_service.tracing import OpenTelemetry, SpanRef, context_of, using_ids

logger = logging.getLogger(__name__)

_ROUTES = {
    MLFLOW: "/invocations",
    OPEN_INFERENCE: "/v2/models/{name}/infer",
    TORCHSERVE: "/predictions/{name}",
}
_CLIENT_GONE = 499


def make_spans(line: bytes, tracing: OpenTelemetry) -> None:
    """Make the spans of one line that the sidecar sent. A line that is none is left out, and said."""
    try:
        finished = [FinishedRequest(**each) for each in orjson.loads(line)]
    except (ValueError, TypeError) as error:
        logger.warning("spans of requests are missing: %s", error)
        return
    for each in finished:
        _make(each, tracing)


def _make(request: FinishedRequest, tracing: OpenTelemetry) -> None:
    # Names and attributes are OpenTelemetry's for HTTP servers; a name must not have what differs in every request.
    route = _ROUTES.get(request.protocol, "")
    attributes: dict[str, str | int] = {
        "http.request.method": request.method,
        "http.route": route,
        "url.path": request.path,
        "fieldrepair.client_request_id": request.client_request_id,
        "fieldrepair.protocol": request.protocol,
        "fieldrepair.model_name": request.model_name,
        "fieldrepair.model_version": request.model_version,
    }
    ids = SpanRef(int(request.trace_id, 16), int(request.span_id, 16))
    parent = SpanRef(ids.trace_id, int(request.parent_id, 16)) if request.parent_id else None
    with using_ids(ids):
        span = tracing.tracer.start_span(
            f"{request.method} {route}".rstrip(),
            context=None if parent is None else context_of(parent),
            kind=SpanKind.SERVER,
            attributes={name: value for name, value in attributes.items() if value != ""},
            start_time=request.started_ns,
        )
    if request.status:
        span.set_attribute("http.response.status_code", request.status)
    if request.status == 0 or request.status >= _CLIENT_GONE:
        problem = {0: "answer_broken_off", _CLIENT_GONE: "client_gone"}.get(request.status, str(request.status))
        span.set_attribute("error.type", problem)
        span.set_status(Status(StatusCode.ERROR, problem))
    span.end(end_time=request.ended_ns)
