"""Traces of requests, the sidecar's half: which span a request is, and what to tell the process that makes spans.

On the request path a traced request gets ids and a ``traceparent`` that names its span, as W3C Trace Context asks of
whoever takes part in a trace, and at its end one append to a queue. All else happens elsewhere: a thread hands what is
queued to the shipper, and the shipper makes and sends the spans.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter, time_ns
from typing import TYPE_CHECKING

import orjson

from fieldrepair_service.logging_policy import TRACEPARENT, read_traceparent

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.sampling import Sampler

    from fieldrepair_service.request_head import RequestHead
    from fieldrepair_service.upstream import Upstream

_HAND_OVER_SECONDS = 0.5
_MOST_WAITING = 20_000
_AT_ONCE = 500


@dataclass(slots=True)
class RequestTrace:
    """The span that a request is."""

    trace_id: str
    span_id: str
    parent_id: str
    """The client's span; empty if the client has none."""


@dataclass(slots=True)
class FinishedRequest:
    """What a request's span is made of."""

    trace_id: str
    span_id: str
    parent_id: str
    started_ns: int
    """Nanoseconds UTC since the epoch, as is the next one."""
    ended_ns: int
    method: str
    status: int
    """What the client was told; 0 if the answer broke off."""
    path: str = ""
    client_request_id: str = ""
    protocol: str = ""
    """Empty if it is no scoring request."""
    model_name: str = ""
    model_version: str = ""


class RequestTraces:
    """Traces the requests of a sidecar. :meth:`enter` and :meth:`leave` belong to the traffic event loop."""

    def __init__(self, sampler: Sampler, send: Callable[[bytes], bool], *, discreet: bool = False) -> None:
        """Start the thread that hands over what is queued.

        Args:
            sampler: decides which requests are traced.
            send: takes one line for the shipper; False if it could not be sent.
            discreet: leave path and client's request id out of spans, because a redactor may have to see them first.
        """
        self._sampler = sampler
        self._send = send
        self._discreet = discreet
        self._finished: deque[FinishedRequest] = deque()
        self.dropped = 0
        """Spans that were not made because they could not be handed over in time."""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fieldrepair-traces", daemon=True)
        self._thread.start()

    # On the event loop.

    def enter(self, head: RequestHead) -> None:
        """A request begins. If it is traced, the model server is told of our span in place of the client's."""
        given = next((value for name, value in head.headers if name == TRACEPARENT), b"")
        trace_id, parent_id, sampled = read_traceparent(given)
        trace = RequestTrace(trace_id or _new_id(128), _new_id(64), parent_id)
        if not self._chosen(trace, sampled):
            return
        named = (TRACEPARENT, f"00-{trace.trace_id}-{trace.span_id}-01".encode())
        head.trace = trace
        head.headers = [*(header for header in head.headers if header[0] != TRACEPARENT), named]
        head.passed = [*(header for header in head.passed if header[0] != TRACEPARENT), named]

    def leave(
        self, head: RequestHead, status: int, started: float, protocol: str | None, upstream: Upstream | None
    ) -> None:
        """A request has ended.

        Args:
            head: as it was given to :meth:`enter`.
            status: what the client was told; 0 if the answer broke off.
            started: when it came, on the clock of ``perf_counter``.
            protocol: of a scoring request.
            upstream: where it was sent.
        """
        trace = head.trace
        if trace is None:
            return
        if len(self._finished) >= _MOST_WAITING:
            self.dropped += 1
            return
        ended = time_ns()
        finished = FinishedRequest(
            trace.trace_id,
            trace.span_id,
            trace.parent_id,
            ended - int((perf_counter() - started) * 1e9),
            ended,
            head.method.decode("ascii"),
            status,
            protocol=protocol or "",
        )
        if not self._discreet:
            finished.path = head.path.decode("latin-1")
            finished.client_request_id = next((v for n, v in head.headers if n == b"x-request-id"), b"").decode(
                "latin-1"
            )
        if upstream is not None:
            finished.model_name, finished.model_version = upstream.model_name, upstream.model_version
        self._finished.append(finished)

    def _chosen(self, trace: RequestTrace, sampled: bool) -> bool:
        from opentelemetry.context import Context
        from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

        context, number = Context(), int(trace.trace_id, 16)
        if trace.parent_id:
            flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
            parent = SpanContext(number, int(trace.parent_id, 16), is_remote=True, trace_flags=flags)
            context = set_span_in_context(NonRecordingSpan(parent), context)
        return self._sampler.should_sample(context, number, "request").decision.is_sampled()

    # On the thread, and at the end.

    def close(self) -> None:
        """Hand over what is left."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.wait(_HAND_OVER_SECONDS):
            self._hand_over()
        self._hand_over()

    def _hand_over(self) -> None:
        while self._finished:
            batch = [self._finished.popleft() for _ in range(min(len(self._finished), _AT_ONCE))]
            if not self._send(orjson.dumps(batch) + b"\n"):
                self.dropped += len(batch)


def _new_id(bits: int) -> str:
    return f"{random.getrandbits(bits) or 1:0{bits // 4}x}"
