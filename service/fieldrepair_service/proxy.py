"""The request path: a raw ASGI app that forwards a request to the model server and its answer back, byte for byte.

Target, headers (their order and repetitions, none added), body and status stay as they are. Three things cannot: the
header names come out in lower case, which HTTP does not tell apart; headers that belong to one connection stay on it;
and a header value that is no UTF-8 loses those bytes on its way to the model server (aiohttp writes UTF-8).

Everything on this path is paid for by every prediction, so there is nothing on it but forwarding, and one look at the
path: whether this is to be logged, and in which protocol. No decoding, no logging. What is to be logged is handed to
:class:`~fieldrepair_service.capture.Capture` as bytes.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from time import perf_counter, time_ns

import aiohttp
import orjson

from fieldrepair_service.capture import Capture
from fieldrepair_service.client_side import BodyRecord, Client, Message, Receive
from fieldrepair_service.drops import (
    BODY_TOO_LARGE,
    CLIENT_DISCONNECTED,
    NOT_SAMPLED,
    UPSTREAM_ERROR_STATUS,
    UPSTREAM_FAILED,
)
from fieldrepair_service.exchange import Exchange
from fieldrepair_service.routes import MLFLOW, protocol_of
from fieldrepair_service.traffic_stats import TrafficStats
from fieldrepair_service.upstream import Upstream, Upstreams, connection_was_reused

Send = Callable[[Message], Awaitable[None]]
RawHeaders = list[tuple[bytes, bytes]]

Headers = list[tuple[str, str]]

_JSON_LENGTH = "Inference-Header-Content-Length"
_JSON_LENGTH_RAW = _JSON_LENGTH.lower().encode()
_NOTED = frozenset((b"x-request-id", b"content-type", b"content-encoding", _JSON_LENGTH_RAW))
_UPSTREAM_ERRORS = (aiohttp.ClientError, asyncio.TimeoutError, OSError)

# Headers that speak about one connection, not about the message (RFC 9110, section 7.6.1). ``expect`` belongs here
# because the server in front of this app has already answered it.
_HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"expect")
)
_CLIENT_GONE = 499  # what nginx calls it; nobody is there to see it but the metrics


class Proxy:
    """The ASGI app of the traffic port."""

    def __init__(
        self,
        upstreams: Upstreams,
        capture: Capture,
        stats: TrafficStats,
        *,
        sampling_fraction: float = 1.0,
        max_logged_body: int = 4 << 20,
    ) -> None:
        self.upstreams = upstreams
        self.capture = capture
        self.stats = stats
        self.sampling_fraction = sampling_fraction
        self.max_logged_body = max_logged_body

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            raise ValueError(f"the traffic port speaks HTTP only, got a {scope['type']} connection")
        upstream = self.upstreams.acquire()
        forwarding = _Forwarding(self, scope, receive, send)
        if upstream is None:
            await forwarding.answer_for_nobody()
            return
        try:
            await forwarding.run(upstream)
        finally:
            self.upstreams.release(upstream)


class _Forwarding:
    """One request on its way to the model server, and the answer on its way back."""

    __slots__ = ("_answered", "_asked", "_protocol", "_proxy", "_receive", "_scope", "_send", "_started")

    def __init__(self, proxy: Proxy, scope: Message, receive: Receive, send: Send) -> None:
        self._started = perf_counter()
        self._proxy = proxy
        self._scope = scope
        self._receive = receive
        self._send = send
        self._protocol = protocol_of(scope["method"], scope["raw_path"])
        if self._protocol is None:
            proxy.stats.undecoded += 1
        self._asked: BodyRecord | None = None
        self._answered: BodyRecord | None = None

    async def answer_for_nobody(self) -> None:
        """There is no upstream yet."""
        if self._protocol is not None:
            self._proxy.capture.drop(UPSTREAM_FAILED)
        await self._say(503, "NoUpstream", "no model server has been named yet; PUT /upstream on the control port")

    async def run(self, upstream: Upstream) -> None:
        """Forward, answer, and hand what is to be logged to capture: every scoring request exactly once."""
        headers, length, upgrade = _request_headers(self._scope["headers"])
        if b"websocket" in upgrade.lower():
            await self._say(501, "UpgradeRefused", "this port forwards HTTP requests; it does not speak WebSocket")
            return
        proxy = self._proxy
        scoring = self._protocol is not None
        if scoring and (proxy.sampling_fraction == 1.0 or random.random() < proxy.sampling_fraction):  # noqa: S311
            self._asked = BodyRecord(proxy.max_logged_body)
            self._answered = BodyRecord(proxy.max_logged_body)
        client = Client(self._receive, self._asked)
        dropped: str | None = UPSTREAM_FAILED
        try:
            dropped = await self._relay(upstream, client, headers, length)
        except asyncio.CancelledError:
            dropped = CLIENT_DISCONNECTED
            if not client.gone:
                raise  # the server is shutting down
            self._observe(_CLIENT_GONE)
        finally:
            client.done()
            if scoring and dropped is not None:
                proxy.capture.drop(dropped)

    async def _relay(self, upstream: Upstream, client: Client, headers: Headers, length: int | None) -> str | None:
        """The exchange itself. Why it is not logged; None if capture has it."""
        body = await client.body(length)
        if body is None:
            self._observe(_CLIENT_GONE)
            return CLIENT_DISCONNECTED
        asked_at = perf_counter()
        try:
            answer = await self._ask(upstream, headers, body)
        except _UPSTREAM_ERRORS as error:
            if client.gone:
                self._observe(_CLIENT_GONE)
                return CLIENT_DISCONNECTED
            status, name = _blame(error)
            await self._say(status, name, f"{upstream.base}: {error or type(error).__name__}")
            return UPSTREAM_FAILED
        try:
            start = {"type": "http.response.start", "status": answer.status, "headers": _answer_headers(answer)}
            await self._send(start)
            last = await self._pass_on(answer.content)
        except _UPSTREAM_ERRORS:
            # Half an answer is out. Ending here without its end makes the server break the connection, which is the
            # only way left to tell the client.
            self._proxy.stats.broken_answers += 1
            self._observe(answer.status)
            return UPSTREAM_FAILED
        finally:
            answer.close()  # of a whole answer, the connection is back in the pool already
        took = perf_counter() - asked_at
        capture = self._proxy.capture
        dropped: str | None = None
        if capture.sync:
            dropped, spooled = self._keep(upstream, answer, took)
            if spooled is not None:
                await capture.settled(spooled)
        await self._send({"type": "http.response.body", "body": last, "more_body": False})
        self._observe(answer.status, took)
        if not capture.sync:
            dropped, _ = self._keep(upstream, answer, took)
        return dropped

    async def _ask(
        self, upstream: Upstream, headers: Headers, body: bytes | AsyncIterator[bytes]
    ) -> aiohttp.ClientResponse:
        scope = self._scope
        url = upstream.target(scope["raw_path"], scope["query_string"])
        ask = upstream.session.request
        data = body or None
        try:
            return await ask(scope["method"], url, headers=headers, data=data, allow_redirects=False)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            if not self._may_ask_again(error, body):
                raise
            return await ask(scope["method"], url, headers=headers, data=data, allow_redirects=False)

    def _may_ask_again(self, error: Exception, body: bytes | AsyncIterator[bytes]) -> bool:
        """Whether a request that found its connection closed may be sent once more.

        A server closes idle connections, and a request can cross that on its way. aiohttp repeats GET and its like
        by itself, but no POST, since a server may have acted on it before it broke off. Scoring by MLflow is a pure
        function of its input, so for it asking twice is harmless; only on a connection that had been idle, with the
        whole body still at hand, and with no byte of an answer seen. The other protocols know sequences of requests
        that a server keeps state for, so theirs are never repeated.
        """
        return (
            self._protocol == MLFLOW
            and isinstance(body, bytes)
            and not isinstance(error, aiohttp.ClientConnectorError)
            and connection_was_reused.get()
        )

    async def _pass_on(self, content: aiohttp.StreamReader) -> bytes:
        """Stream the body; its last piece is returned and not yet sent."""
        record = self._answered
        while True:
            chunk = await content.readany()
            if record is not None:
                record.add(chunk)
            if content.at_eof():
                return chunk
            await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    def _keep(
        self, upstream: Upstream, answer: aiohttp.ClientResponse, took: float
    ) -> tuple[str | None, asyncio.Future[bool] | None]:
        """Give a scoring exchange to capture: (why it is not logged, or None; what to wait for in sync mode)."""
        asked, answered = self._asked, self._answered
        if self._protocol is None:
            return None, None
        if asked is None or answered is None:
            return NOT_SAMPLED, None
        if not 200 <= answer.status < 300:
            return UPSTREAM_ERROR_STATUS, None
        if asked.too_large or answered.too_large:
            return BODY_TOO_LARGE, None
        request = {name: value for name, value in self._scope["headers"] if name in _NOTED}
        client_request_id = request.get(b"x-request-id")
        exchange = Exchange(
            timestamp_ms=time_ns() // 1_000_000 - int((perf_counter() - self._started) * 1000),
            client_request_id=None if client_request_id is None else client_request_id.decode("latin-1"),
            model_name=upstream.model_name,
            model_version=upstream.model_version,
            protocol=self._protocol,
            status_code=answer.status,
            execution_time_ms=took * 1000,
            sampling_fraction=self._proxy.sampling_fraction,
            request_type=request.get(b"content-type", b"").decode("latin-1"),
            request_encoding=request.get(b"content-encoding", b"").decode("latin-1"),
            request_body=asked.body(),
            answer_type=answer.headers.get("Content-Type", ""),
            answer_encoding=answer.headers.get("Content-Encoding", ""),
            answer_body=answered.body(),
            request_path=self._scope["raw_path"].decode("latin-1"),
            request_json_length=request.get(_JSON_LENGTH_RAW, b"").decode("latin-1"),
            answer_json_length=answer.headers.get(_JSON_LENGTH, ""),
        )
        return None, self._proxy.capture.offer(exchange)

    def _observe(self, status: int, upstream_seconds: float | None = None) -> None:
        self._proxy.stats.observe(status, perf_counter() - self._started, upstream_seconds)

    async def _say(self, status: int, error: str, detail: str) -> None:
        """Answer in our own name."""
        body = orjson.dumps({"error": error, "detail": detail})
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})
        self._observe(status)


def _request_headers(raw: RawHeaders) -> tuple[Headers, int | None, bytes]:
    """Headers to send on, the length of the body if the client says it, and what it wants to upgrade to."""
    passed: Headers = []
    length: int | None = None
    upgrade = named = b""
    for name, value in raw:
        if name in _HOP_BY_HOP:
            if name == b"connection":
                named += b"," + value
            elif name == b"upgrade":
                upgrade = value
            continue
        if name == b"content-length":
            length = int(value)
        # As UTF-8, because aiohttp writes it so: what is no UTF-8 cannot go through it.
        passed.append((name.decode("latin-1"), value.decode("utf-8", "replace")))
    if named and (also := _named_by_connection(named)):
        passed = [(name, value) for name, value in passed if name.encode("latin-1") not in also]
    return passed, length, upgrade


def _answer_headers(answer: aiohttp.ClientResponse) -> RawHeaders:
    raw = answer.raw_headers
    passed = [header for header in raw if header[0].lower() not in _HOP_BY_HOP]
    if len(passed) < len(raw) and (named := answer.headers.getall("Connection", ())):
        also = _named_by_connection(",".join(named).encode("latin-1", "replace"))
        passed = [header for header in passed if header[0].lower() not in also]
    return passed


def _named_by_connection(value: bytes) -> set[bytes]:
    """Headers that a Connection header names as its own, besides the options that are not headers."""
    return {token.strip().lower() for token in value.split(b",")} - {b"", b"close", b"keep-alive"}


def _blame(error: BaseException) -> tuple[int, str]:
    if isinstance(error, asyncio.TimeoutError):
        return 504, "UpstreamTimeout"
    if isinstance(error, aiohttp.ClientConnectorError):
        return 502, "UpstreamUnreachable"
    return 502, "UpstreamBrokeOff"
