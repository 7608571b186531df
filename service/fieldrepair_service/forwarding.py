"""One request on its way to the model server, and the answer on its way back.

Everything on this path is paid for by every prediction, so there is nothing on it but forwarding: no task, no future,
no decoding. Client and model server call in as bytes come, and what is to be logged is handed to
:class:`~fieldrepair_service.capture.Capture` as bytes.
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import TYPE_CHECKING

from fieldrepair_service.client_connection import UPLOADING, ClientConnection
from fieldrepair_service.drops import CLIENT_DISCONNECTED, UPSTREAM_FAILED
from fieldrepair_service.exchange_record import ExchangeRecord
from fieldrepair_service.http_message import (
    CONTINUE,
    LAST_CHUNK,
    RawHeaders,
    answer_head,
    chunk_of,
    own_answer,
)
from fieldrepair_service.request_head import Refusal, RequestHead, onward_head
from fieldrepair_service.request_log import request_id_of
from fieldrepair_service.routes import MLFLOW
from fieldrepair_service.upstream import Upstream
from fieldrepair_service.upstream_connection import UpstreamConnection, UpstreamError

if TYPE_CHECKING:
    from fieldrepair_service.known_answer import KnownAnswer
    from fieldrepair_service.known_request import KnownRequest
    from fieldrepair_service.proxy import Proxy

# Up to here a request body is taken in whole before it goes on, which lets it be sent again.
_BUFFERED_BODY = 1 << 20
_SAFE_TO_REPEAT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))  # RFC 9110, section 9.2.2
_CLIENT_GONE = 499  # what nginx calls it; nobody is there to see it but the metrics
_SETTLING_SECONDS = 10.0


class Forwarding:
    """One exchange, from the request's head to the answer's last byte."""

    __slots__ = (
        "_answer_headers",
        "_asked_at",
        "_chunks",
        "_client",
        "_close",
        "_connecting",
        "_connection",
        "_has_length",
        "_head",
        "_held_up",
        "_my_turn",
        "_only_head",
        "_out",
        "_over",
        "_proxy",
        "_rechunk",
        "_record",
        "_repeatable",
        "_repeated",
        "_started",
        "_status",
        "_upstream",
        "_whole",
    )

    def __init__(self, proxy: Proxy, client: ClientConnection, head: RequestHead) -> None:
        self._started = client.now
        self._proxy = proxy
        self._client = client
        self._head = head
        self._record = ExchangeRecord(proxy.policy, proxy.capture, head)
        if self._record.protocol is None:
            proxy.stats.undecoded += 1
        self._chunks: list[bytes] = []  # of the request, not yet sent
        self._whole = self._my_turn = self._over = self._held_up = False
        self._repeatable = self._repeated = False  # whether the whole body is still at hand; whether it was needed
        self._upstream: Upstream | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._connection: UpstreamConnection | None = None
        self._asked_at = 0.0
        self._status = 0  # of the answer; 0 until its head has come
        self._answer_headers: RawHeaders = []
        self._has_length = self._rechunk = False
        self._close = not head.keep_alive
        self._out: list[bytes] = []  # of the answer, not yet sent
        self._only_head = True

    @classmethod
    def whole(
        cls, proxy: Proxy, client: ClientConnection, known: KnownRequest, data: bytes, body_at: int
    ) -> Forwarding | None:
        """A request that is here whole and whose head is known: it goes on first, and is looked at then.

        Args:
            proxy: whose it is.
            client: who asks.
            known: its head.
            data: head and body.
            body_at: where the body begins.

        Returns:
            None if no connection to a model server is at hand; then nothing has happened.
        """
        at_hand = proxy.upstreams.acquire_at_hand()
        if at_hand is None:
            return None
        upstream, connection = at_hand
        asked_at = perf_counter()
        body = data[body_at:]
        connection.send(known.request_to(upstream, body))
        self = cls(proxy, client, known.head(len(body)))
        client.deadline = asked_at + upstream.limits.total_timeout
        self._asked_at = asked_at
        self._upstream = upstream
        self._connection = connection
        self._chunks.append(body)
        self._my_turn = self._whole = self._repeatable = True
        self._record.of_request(body)
        connection.asked(self, head_only=False, whole=True)
        return self

    # -- the request comes in ------------------------------------------------------------------------------------

    def start(self) -> None:
        """It is this request's turn."""
        self._my_turn = True
        if self._whole:
            self._dispatch()
        elif self._head.expects_continue:
            self._client.write(CONTINUE)

    def on_body(self, chunk: bytes) -> None:
        """A piece of the request's body."""
        if self._over:
            return
        self._record.of_request(chunk)
        if self._connection is None:
            self._chunks.append(chunk)
        else:
            self._connection.send(chunk_of(chunk) if self._head.chunked else chunk)

    def on_request_end(self) -> None:
        """The request is whole."""
        self._whole = True
        if self._over or not self._my_turn:
            return
        if self._upstream is None:
            self._dispatch()
            return
        self._client.deadline = perf_counter() + self._upstream.limits.total_timeout
        if self._connection is not None:  # it was sent piece by piece
            if self._head.chunked:
                self._connection.send(LAST_CHUNK)
            self._connection.sent()

    def on_request_pause(self) -> None:
        """The rest of the body is not here yet: short bodies are waited for, others begin their way."""
        head = self._head
        long = head.chunked or (head.length or 0) > _BUFFERED_BODY
        if long and self._my_turn and not self._over and self._upstream is None:
            self._dispatch()

    def on_request_broken(self, refusal: Refusal) -> None:
        """The rest of the request cannot be understood."""
        if self._over:
            self._client.abort()
        elif self._upstream is None and self._my_turn:
            self._say(refusal.status, refusal.error, refusal.detail, CLIENT_DISCONNECTED, close=True)
        else:
            self.on_client_gone()
            self._client.abort()

    # -- to the model server -------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        upstream = self._upstream = self._proxy.upstreams.acquire(self._head)
        if upstream is None:
            told = "no model server has been named yet; PUT /upstream on the control port"
            self._say(503, "NoUpstream", told, UPSTREAM_FAILED)
            return
        self._asked_at = perf_counter()
        if self._whole:
            self._client.deadline = self._asked_at + upstream.limits.total_timeout
        connection = upstream.take()
        if connection is None:
            self._connect(upstream)
        else:
            self._ask(upstream, connection)

    def _connect(self, upstream: Upstream) -> None:
        if not self._whole:
            self._held_up = True
            self._client.hold(UPLOADING)
        self._connecting = asyncio.get_running_loop().create_task(self._open(upstream))

    async def _open(self, upstream: Upstream) -> None:
        try:
            connection = await upstream.connect()
        except asyncio.TimeoutError:
            told = f"{upstream.base}: no connection within {upstream.limits.connect_timeout:g} seconds"
            self._fail(504, "UpstreamTimeout", told)
        except (OSError, ValueError) as error:
            self._fail(502, "UpstreamUnreachable", f"{upstream.base}: {error}")
        else:
            self._connecting = None
            if self._over:
                connection.drop()
            else:
                self._ask(upstream, connection)

    def _ask(self, upstream: Upstream, connection: UpstreamConnection) -> None:
        head = self._head
        parts = [onward_head(head, upstream.prefix, upstream.authority)]
        if self._whole:
            body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
            parts += (b"content-length: %d\r\n\r\n" % len(body) if head.chunked else b"\r\n", body)
        else:
            parts.append(b"transfer-encoding: chunked\r\n\r\n" if head.chunked else b"\r\n")
            parts += map(chunk_of, self._chunks) if head.chunked else self._chunks
            self._chunks.clear()
            self._release_client()
        self._connection = connection
        self._repeatable = self._whole
        connection.ask(self, b"".join(parts), head_only=head.method == b"HEAD", whole=self._whole)

    def on_upload_held(self, held: bool) -> None:
        """The model server takes the body more slowly than it comes."""
        if held and not self._whole:
            self._held_up = True
            self._client.hold(UPLOADING)
        elif not held:
            self._release_client()

    def _release_client(self) -> None:
        if self._held_up:
            self._held_up = False
            self._client.let_go(UPLOADING)

    # -- the answer comes back -----------------------------------------------------------------------------------

    def on_answer_head(self, status: int, headers: RawHeaders, *, has_body: bool, has_length: bool) -> None:
        """The answer begins."""
        self._status = status
        self._answer_headers = headers
        self._has_length = has_length or not has_body
        out = self._out = answer_head(status, headers)
        if not self._has_length:
            if self._head.http11:
                self._rechunk = True
                out.append(b"transfer-encoding: chunked\r\n")
            else:
                self._close = True
        out.append(b"connection: close\r\n\r\n" if self._close else b"\r\n")

    def on_answer_body(self, chunk: bytes) -> None:
        """A piece of it."""
        self._only_head = False
        self._record.of_answer(chunk)
        self._out.append(chunk_of(chunk) if self._rechunk else chunk)

    def on_answer_pause(self) -> None:
        """That is all for now.

        Servers write head and body one after the other, and they arrive so. A head whose body follows is kept for it:
        the client could do nothing with it yet, and would be woken twice.
        """
        if self._out and not (self._only_head and self._has_length):
            self._flush()

    def _flush(self) -> None:
        self._client.write(b"".join(self._out))
        self._out.clear()

    def on_known_answer(self, known: KnownAnswer, data: bytes, body_at: int) -> bool:
        """The whole answer at once, with a head that is known; false if it has to be taken apart like any other."""
        if self._close or self._proxy.capture.sync:
            return False
        body = data[body_at:]
        self._client.write(known.answer(body))
        self._status = known.status
        self._answer_headers = known.headers
        self._has_length = True
        self._record.of_answer(body)
        return True

    def on_answer_held(self, held: bool) -> None:
        """The client takes the answer more slowly than it comes."""
        if self._connection is not None:
            self._connection.hold(held)

    def on_answer_end(self) -> None:
        """The answer is whole, and its last piece not yet sent."""
        self._connection = None
        took = perf_counter() - self._asked_at
        if self._rechunk:
            self._out.append(LAST_CHUNK)
        capture = self._proxy.capture
        if capture.sync and (spooled := self._log(took)) is not None:
            self._client.deadline = perf_counter() + _SETTLING_SECONDS
            self._connecting = asyncio.get_running_loop().create_task(self._settle(spooled, took))
            return
        if capture.sync:
            self._deliver(took)
            return
        if self._out:
            self._flush()
        self._proxy.settle_later(self, perf_counter() - self._started, took)
        self._end(close=self._close)

    def account(self, seconds: float, took: float) -> None:
        """Count and log what is answered.

        Args:
            seconds: from the request's first byte to the answer's last.
            took: the model server's share of it.
        """
        self._proxy.stats.observe(self._status, seconds, took)
        self._log(took)

    async def _settle(self, spooled: asyncio.Future[bool], took: float) -> None:
        await self._proxy.capture.settled(spooled)
        self._connecting = None
        if not self._over:
            self._deliver(took)

    def _deliver(self, took: float) -> None:
        self._flush()
        self._proxy.stats.observe(self._status, perf_counter() - self._started, took)
        self._end(close=self._close)

    # -- what goes wrong -----------------------------------------------------------------------------------------

    def on_upstream_lost(self, error: UpstreamError, *, untouched: bool) -> None:
        """The model server broke off."""
        self._connection = None
        upstream = self._upstream
        if upstream is not None and untouched and self._may_ask_again():
            self._repeated = True
            self._connect(upstream)
        elif upstream is not None:
            self._fail(502, "UpstreamBrokeOff", f"{upstream.base}: {error}")

    def _may_ask_again(self) -> bool:
        """Whether a request that found its connection closed may be sent once more.

        A server closes idle connections, and a request can cross that on its way. What RFC 9110 calls idempotent may
        be repeated; a POST may not, since a server may have acted on it before it broke off. Scoring by MLflow is a
        pure function of its input, so for it asking twice is harmless; only on a connection that had been idle, with
        the whole body still at hand, and with no byte of an answer seen. The other protocols know sequences of
        requests that a server keeps state for, so theirs are never repeated.
        """
        harmless = self._record.protocol == MLFLOW or self._head.method in _SAFE_TO_REPEAT
        return harmless and self._repeatable and not self._repeated

    def on_client_gone(self) -> None:
        """Nobody waits for the answer any more: the model server need not work on it."""
        if self._over:
            return
        settling = self._connecting is not None and self._status != 0
        self._abandon()
        self._proxy.stats.observe(_CLIENT_GONE, perf_counter() - self._started, None)
        if not settling:
            self._record.drop(CLIENT_DISCONNECTED)
        self._status = _CLIENT_GONE
        self._end(close=True)

    def on_deadline(self) -> None:
        """Time is over: the client's to send its request, or the model server's to answer it."""
        if self._over:
            return
        upstream = self._upstream
        if upstream is None or not (self._whole or self._held_up):
            seconds = self._client.limits.body_seconds
            told = f"the request's body stopped coming for {seconds:g} seconds"
            if self._status:
                self._break_off(CLIENT_DISCONNECTED)
            else:
                self._abandon()
                self._status = _CLIENT_GONE  # nothing that the model server could be blamed for
                self._say(408, "RequestTimeout", told, CLIENT_DISCONNECTED, close=True)
        else:
            told = f"{upstream.base}: no whole answer within {upstream.limits.total_timeout:g} seconds"
            self._fail(504, "UpstreamTimeout", told)

    def _fail(self, status: int, error: str, told: str) -> None:
        """There is no (whole) answer, and it is not the client's fault."""
        if self._over:
            return
        self._abandon()
        if self._status:
            self._proxy.log.say("broken_answer", self._request_id(), path=self._path(), detail=told)
            self._break_off(UPSTREAM_FAILED)
        else:
            self._say(status, error, told, UPSTREAM_FAILED)

    def _break_off(self, reason: str) -> None:
        """Half an answer is out. To break the connection is the only way left to tell the client."""
        self._abandon()
        self._proxy.stats.broken_answers += 1
        self._proxy.stats.observe(self._status, perf_counter() - self._started, None)
        self._record.drop(reason)
        self._flush()
        if self._has_length or self._rechunk:
            self._end(close=True, status=0)
        else:
            self._client.abort()  # here a proper end would look like the end of the answer
            self._end(close=True, status=0)

    def _say(self, status: int, error: str, told: str, dropped: str, *, close: bool = False) -> None:
        """Answer in our own name."""
        request_id = self._request_id()
        close = close or self._close
        head_only = self._head.method == b"HEAD"
        self._client.write(own_answer(status, error, told, request_id, close=close, head_only=head_only))
        method = self._head.method.decode("ascii")
        self._proxy.log.say(error, request_id, method=method, path=self._path(), status=status, detail=told)
        self._proxy.stats.observe(status, perf_counter() - self._started, None)
        self._record.drop(dropped)
        self._end(close=close, status=status)

    def _abandon(self) -> None:
        """Stop whatever is under way to the model server."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.drop()
        connecting, self._connecting = self._connecting, None
        if connecting is not None and connecting is not asyncio.current_task():
            connecting.cancel()

    def _end(self, *, close: bool, status: int | None = None) -> None:
        if self._over:
            return
        self._over = True
        upstream = self._upstream
        if (traces := self._proxy.traces) is not None:
            traces.leave(
                self._head, self._status if status is None else status, self._started, self._record.protocol, upstream
            )
        if upstream is not None:
            self._proxy.upstreams.release(upstream, self._status, self._asked_at)
        self._release_client()
        if self._my_turn:
            self._client.finished(close=close)

    def _log(self, took: float) -> asyncio.Future[bool] | None:
        """Offer what has passed by to the field log; what to wait for in sync mode."""
        upstream = self._upstream
        if upstream is None:
            return None
        age = perf_counter() - self._started
        return self._record.offer(
            self._head, upstream, self._status, self._answer_headers, whole=self._whole, age=age, took=took
        )

    def _request_id(self) -> str:
        return request_id_of(self._head.headers)

    def _path(self) -> str:
        return self._head.path.decode("latin-1")
