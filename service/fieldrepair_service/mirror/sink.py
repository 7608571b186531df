"""The sink: a raw ASGI app that takes events, pairs them, and hands each pair to capture as one exchange.

KServe's logger holds up its model's traffic when its own queue is full, so every event is answered at once, and what
there is no room for is counted and forgotten.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from time import monotonic, time_ns
from typing import Any

import orjson

from fieldrepair_service.capture import Capture
from fieldrepair_service.drops import BODY_TOO_LARGE
from fieldrepair_service.exchange import UNKNOWN_MODEL, Exchange
from fieldrepair_service.logging_policy import LoggingPolicy, trace_id_of
from fieldrepair_service.mirror.events import (
    METHOD,
    REFUSALS,
    TOO_LARGE,
    EventRefused,
    check_mode,
    read_event,
)
from fieldrepair_service.mirror.pairing import Pair, Pairing
from fieldrepair_service.routes import KSERVE

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_JSON_LENGTH = b"inference-header-content-length"


class Sink:
    """The ASGI app of the mirror's traffic port."""

    def __init__(
        self, pairing: Pairing, capture: Capture, policy: LoggingPolicy, *, model_name: str, model_version: str
    ) -> None:
        """A sink that has taken nothing yet.

        Args:
            pairing: where events wait for each other.
            capture: what takes the pairs.
            policy: which of them are logged.
            model_name: name to log; ``unknown`` takes the InferenceService's.
            model_version: version to log; ``unknown`` takes the one that a version 2 answer names.
        """
        self.pairing = pairing
        self.capture = capture
        self.policy = policy
        self.refused: Counter[str] = Counter(dict.fromkeys(REFUSALS, 0))
        self._model = (model_name, model_version)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One event."""
        if scope["type"] != "http":
            raise ValueError(f"the mirror takes events by HTTP only, got a {scope['type']} connection")
        try:
            await self._take(scope, receive)
        except EventRefused as error:
            self.refused[error.reason] += 1
            await _answer(send, error.status, {"error": "EventRefused", "detail": str(error)})
        else:
            # 200 and not 202: KServe's logger writes an error for every other status.
            await _answer(send, 200, {})

    async def _take(self, scope: Message, receive: Receive) -> None:
        if scope["method"] != "POST":
            raise EventRefused(405, METHOD, f"events are sent by POST, got {scope['method']}")
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        check_mode(headers)
        body = await self._body(receive)
        if body is None:
            return  # the sender hung up before the end; it has not been told that the event was taken
        event = read_event(headers, body)
        pair = self.pairing.take(event, monotonic())
        if pair is not None:
            spooled = self._keep(pair)
            if spooled is not None:
                await self.capture.settled(spooled)

    async def _body(self, receive: Receive) -> bytes | None:
        chunks: list[bytes] = []
        room = self.policy.max_logged_body
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunk: bytes = message.get("body", b"")
            room -= len(chunk)
            if room < 0:
                raise EventRefused(
                    413, TOO_LARGE, f"a payload of more than {self.policy.max_logged_body} bytes is not logged"
                )
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)

    def _keep(self, pair: Pair) -> Any:
        request, response = pair.request, pair.response
        reason = self.policy.left_out(request.path.encode("utf-8", "replace"))
        if reason is None and max(len(request.body), len(response.body)) > self.policy.max_logged_body:
            reason = BODY_TOO_LARGE
        if reason is not None:
            self.capture.drop(reason)
            return None
        metadata = dict(request.metadata)
        name, version = self._model
        by_events = response.time_ms - request.time_ms if request.time_ms and response.time_ms else -1
        return self.capture.offer(
            Exchange(
                timestamp_ms=request.time_ms or time_ns() // 1_000_000 - int(pair.waited * 1000),
                client_request_id=metadata.get(b"x-request-id", request.id.encode()).decode("utf-8", "replace"),
                model_name=name if name != UNKNOWN_MODEL else request.inference_service or UNKNOWN_MODEL,
                model_version=version,
                protocol=KSERVE,
                status_code=200,  # KServe sends the answers of no others
                execution_time_ms=float(by_events) if by_events >= 0 else pair.waited * 1000,
                sampling_fraction=self.policy.sampling_fraction,
                request_type=request.content_type,
                request_encoding="",
                request_body=request.body,
                answer_type=response.content_type,
                answer_encoding="",
                answer_body=response.body,
                request_json_length=metadata.get(_JSON_LENGTH, b"").decode("latin-1"),
                headers=self.policy.kept(request.metadata),
                trace_id=trace_id_of(request.traceparent),
            )
        )


async def _answer(send: Send, status: int, content: dict[str, str]) -> None:
    body = orjson.dumps(content) if content else b""
    headers = [(b"content-length", b"%d" % len(body))]
    if body:
        headers.append((b"content-type", b"application/json"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
