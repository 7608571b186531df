"""What is kept of a request and its answer while they pass by, and what the field log gets of it in the end."""

from __future__ import annotations

import asyncio
from time import time_ns

from fieldrepair_service.body_record import BodyRecord
from fieldrepair_service.capture import Capture
from fieldrepair_service.drops import BODY_TOO_LARGE, NOT_SAMPLED, UPSTREAM_ERROR_STATUS, UPSTREAM_FAILED
from fieldrepair_service.exchange import Exchange
from fieldrepair_service.http_message import RawHeaders
from fieldrepair_service.logging_policy import TRACEPARENT, LoggingPolicy, trace_id_of
from fieldrepair_service.request_head import RequestHead
from fieldrepair_service.upstream import Upstream

_JSON_LENGTH = b"inference-header-content-length"
_NOTED = frozenset((b"x-request-id", b"content-type", b"content-encoding", _JSON_LENGTH, TRACEPARENT))
_NOTED_OF_ANSWER = frozenset((b"content-type", b"content-encoding", _JSON_LENGTH))


class ExchangeRecord:
    """The record of one exchange: whoever forwards it ends with :meth:`offer` or :meth:`drop`, exactly once."""

    __slots__ = ("_answered", "_asked", "_capture", "_left_out", "_policy", "protocol")

    def __init__(self, policy: LoggingPolicy, capture: Capture, head: RequestHead) -> None:
        """Decide whether the exchange is to be logged at all.

        Args:
            policy: what is logged.
            capture: takes it, or counts it.
            head: the request's.
        """
        self._policy = policy
        self._capture = capture
        self.protocol = policy.protocol_of(head.method.decode("ascii"), head.path)
        """Of a scoring request; None for any other, which is neither logged nor counted as dropped."""
        self._left_out = None if self.protocol is None else policy.left_out(head.path)
        self._asked: BodyRecord | None = None
        self._answered: BodyRecord | None = None
        if self.protocol is not None and self._left_out is None:
            self._asked = BodyRecord(policy.max_logged_body)
            self._answered = BodyRecord(policy.max_logged_body)

    def of_request(self, chunk: bytes) -> None:
        """A piece of the request's body."""
        if self._asked is not None:
            self._asked.add(chunk)

    def of_answer(self, chunk: bytes) -> None:
        """A piece of the answer's body."""
        if self._answered is not None:
            self._answered.add(chunk)

    def drop(self, reason: str) -> None:
        """Count it as not logged."""
        if self.protocol is not None:
            self._capture.drop(reason)

    def offer(
        self,
        head: RequestHead,
        upstream: Upstream,
        status: int,
        answer_headers: RawHeaders,
        *,
        whole: bool,
        age: float,
        took: float,
    ) -> asyncio.Future[bool] | None:
        """Give a scoring exchange to capture, or count why not.

        Args:
            head: of the request.
            upstream: who answered.
            status: of the answer.
            answer_headers: names in lower case.
            whole: whether all of the request had come before it was answered.
            age: seconds since the request's first byte.
            took: seconds of the model server.

        Returns:
            What to wait for in sync mode.
        """
        asked, answered = self._asked, self._answered
        if self.protocol is None:
            return None
        if asked is None or answered is None:
            self.drop(self._left_out or NOT_SAMPLED)
            return None
        if not 200 <= status < 300:
            self.drop(UPSTREAM_ERROR_STATUS)
            return None
        if not whole:
            self.drop(UPSTREAM_FAILED)
            return None
        if asked.too_large or answered.too_large:
            self.drop(BODY_TOO_LARGE)
            return None
        request = {name: value for name, value in head.headers if name in _NOTED}
        answer = {name: value for name, value in answer_headers if name in _NOTED_OF_ANSWER}
        client_request_id = request.get(b"x-request-id")
        return self._capture.offer(
            Exchange(
                timestamp_ms=time_ns() // 1_000_000 - int(age * 1000),
                client_request_id=None if client_request_id is None else client_request_id.decode("latin-1"),
                model_name=upstream.model_name,
                model_version=upstream.model_version,
                protocol=self.protocol,
                status_code=status,
                execution_time_ms=took * 1000,
                sampling_fraction=self._policy.sampling_fraction,
                request_type=request.get(b"content-type", b"").decode("latin-1"),
                request_encoding=request.get(b"content-encoding", b"").decode("latin-1"),
                request_body=asked.body(),
                answer_type=answer.get(b"content-type", b"").decode("latin-1"),
                answer_encoding=answer.get(b"content-encoding", b"").decode("latin-1"),
                answer_body=answered.body(),
                request_path=head.path.decode("latin-1"),
                request_json_length=request.get(_JSON_LENGTH, b"").decode("latin-1"),
                answer_json_length=answer.get(_JSON_LENGTH, b"").decode("latin-1"),
                headers=self._policy.kept(head.headers),
                trace_id=trace_id_of(trace) if (trace := request.get(TRACEPARENT)) else "",
            )
        )
