"""One client's connection: requests come in, are handed on in order, and answers go out; within strict limits.

Each request is begun as soon as its head is there. Of requests that a client sends without waiting for answers, one
is worked on; the others wait, and meanwhile nothing more is read.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol, cast

import httptools

from fieldrepair_service.direct_write import DirectWriter
from fieldrepair_service.http_message import HTTP2_GO_AWAY, RawHeaders
from fieldrepair_service.known_request import KnownRequest
from fieldrepair_service.repeated_head import Memory
from fieldrepair_service.request_head import Refusal, RequestHead, read_head

_LINGER_SECONDS = 2.0

# Why nothing is read from the client for now.
PIPELINED = 1
UPLOADING = 2


@dataclass(frozen=True)
class TrafficLimits:
    """What one client may take of the traffic port."""

    header_bytes: int = 64 * 1024
    """Size of a request's head: request line and header fields."""
    headers: int = 128
    """Number of header fields."""
    header_seconds: float = 10.0
    """Time for a request's head, from its first byte to its last."""
    body_seconds: float = 30.0
    """Time between two pieces of a request's body."""
    keep_alive_seconds: float = 75.0
    """Time a connection may be without a request."""
    connections: int = 4096
    """Connections at one time."""


class Serving(Protocol):
    """A request at work."""

    def start(self) -> None:
        """It is this request's turn to be answered."""
        ...

    def on_body(self, chunk: bytes) -> None:
        """A piece of the request's body, perhaps before its turn."""
        ...

    def on_request_end(self) -> None:
        """The request is whole."""
        ...

    def on_request_pause(self) -> None:
        """Nothing more of the request has come for now."""
        ...

    def on_request_broken(self, refusal: Refusal) -> None:
        """The rest of the request cannot be understood."""
        ...

    def on_client_gone(self) -> None:
        """The connection is lost."""
        ...

    def on_deadline(self) -> None:
        """The time set as the connection's deadline is over."""
        ...

    def on_answer_held(self, held: bool) -> None:
        """Whether the client takes the answer more slowly than it comes."""
        ...


class Handler(Protocol):
    """What a connection hands its requests to."""

    def begin(self, client: ClientConnection, head: RequestHead) -> Serving:
        """A request whose head has come."""
        ...

    def begin_known(self, client: ClientConnection, known: KnownRequest, data: bytes, body_at: int) -> Serving | None:
        """A request that is here whole, by a head that came before; None if it has to be begun like any other."""
        ...

    def refuse(self, client: ClientConnection, refusal: Refusal, *, head_only: bool) -> Serving:
        """A request that is not forwarded; ``head_only``: its answer has no body."""
        ...

    def opened(self, client: ClientConnection) -> bool:
        """A new connection; whether it may stay."""
        ...

    def closed(self, client: ClientConnection) -> None:
        """The connection is gone."""
        ...


class ClientConnection(asyncio.Protocol):
    """The server's side of one TCP or TLS connection."""

    def __init__(self, handler: Handler, limits: TrafficLimits) -> None:
        self._handler = handler
        self.limits = limits
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._writer: DirectWriter | None = None
        self._known: KnownRequest | None = None
        self._memory = Memory()
        self._held = b""  # a known head whose body is still to come: clients like to send them one after the other
        self._current: Serving | None = None  # whose answer is next
        self._receiving: Serving | None = None  # whose body is coming in
        self._waiting: deque[Serving] = deque()
        self._url = b""
        self._headers: RawHeaders = []
        self._in_body = False
        self._in_head = False
        self._head: RequestHead | None = None  # the last that came, unless it was refused
        self._heads = 0  # that began in this turn
        self._head_bytes = self._fed = 0  # of the head that is coming in: before this turn, and in it
        self._raw_body = 0  # bytes of a body that the parser does not see
        self._holds = 0
        self._answer_held = self._advancing = self._stopping = self._broken = self._ending = False
        self.now = perf_counter()
        """When the last bytes came in."""
        self.deadline = self.now + limits.header_seconds
        """When, at the latest, something has to have happened."""

    # For the request at work.

    def write(self, data: bytes) -> None:
        """Send something to the client."""
        if self._writer is not None:
            self._writer.write(data)

    def hold(self, reason: int) -> None:
        """Read nothing more until every reason is gone."""
        if not self._holds and self._transport is not None:
            self._transport.pause_reading()
        self._holds |= reason

    def let_go(self, reason: int) -> None:
        """One reason is gone."""
        if self._holds & reason:
            self._holds &= ~reason
            if not self._holds and self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()

    def finished(self, *, close: bool) -> None:
        """The answer is whole, and the next request's turn has come."""
        self._current = None
        if close or (self._stopping and not self._waiting and self._receiving is None):
            self.end()
            return
        limits = self.limits
        if self._receiving is not None:
            patience = limits.body_seconds
        else:
            patience = limits.header_seconds if self._in_head else limits.keep_alive_seconds
        self.deadline = perf_counter() + patience
        if self._waiting or self._holds:
            self._advance()

    def end(self) -> None:
        """Close as soon as everything is sent.

        The client may still be sending. Closing on it would reset the connection and could cost it the answer, so
        what it sends is read and thrown away for a moment.
        """
        self._ending = True
        self._writer = None
        transport = self._transport
        if transport is None:
            return
        if (self._receiving is not None or self._broken) and transport.can_write_eof():
            self.deadline = perf_counter() + _LINGER_SECONDS
            transport.write_eof()
            if self._holds:
                self._holds = 0
                transport.resume_reading()
        else:
            transport.close()

    def abort(self) -> None:
        """Close at once, so that the client cannot take what it has for a whole answer."""
        self._ending = True
        if self._transport is not None:
            self._transport.abort()

    # For the server.

    def stop(self) -> None:
        """No further requests; those that have begun are finished."""
        self._take_held()
        self._stopping = True
        if self._current is None and not self._waiting and self._receiving is None and not self._in_head:
            self.end()

    def on_deadline(self) -> None:
        """The deadline has passed."""
        self._take_held()
        if self._ending or self._transport is None:
            self.abort()
        elif self._current is not None:
            self._current.on_deadline()
        elif self._in_head:
            seconds = self.limits.header_seconds
            self._refuse(408, "RequestTimeout", f"a request's head must come within {seconds:g} seconds")
        elif self._receiving is not None or self._transport.get_write_buffer_size():
            self.abort()  # it has its answer, and neither sends the rest of its request nor takes what it asked for
        else:
            self._transport.close()

    # From the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = cast(asyncio.Transport, transport)  # of a TCP or TLS connection; uvloop has its own class
        self._writer = DirectWriter(self._transport)
        if not self._handler.opened(self):
            count = self.limits.connections
            self._refuse(503, "TooManyConnections", f"this port takes {count} connections at a time")

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        if self._ending or self._broken:
            return
        now = perf_counter()
        held, self._held = self._held, b""
        if held:
            data = held + data  # a known request begins when its head came
        else:
            self.now = now
        known = self._known
        idle = self._idle()
        if known is not None and idle:
            body_at = known.body_in(data)
            request = self._handler.begin_known(self, known, data, body_at) if body_at else None
            if request is not None:
                self._current = request
                self._memory.came_again()
                return
            if not held and known.is_all_of(data):
                self._held = data
                self.deadline = now + self.limits.body_seconds
                return
        self.now = now
        self._take_apart(data, idle=idle)

    def _take_apart(self, data: bytes, *, idle: bool) -> None:
        """Give bytes to the parser, and learn from them if they began a request on an idle connection."""
        receiving = self._receiving
        if receiving is not None and (self._current is None or self._current is receiving):
            self.deadline = self.now + self.limits.body_seconds
        self._fed = len(data)
        self._heads = 0
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            if self._ending:
                pass  # what follows the last request is nobody's
            elif self._parser.get_method() == b"PRI":
                self.write(HTTP2_GO_AWAY)
                self._broken = True
                self.end()
            else:
                self._refuse(400, "BadRequest", f"this is no HTTP/1.1 request: {error}")
            return
        if self._receiving is not None:
            self._receiving.on_request_pause()
        elif self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > (limit := self.limits.header_bytes):
                self._refuse(431, "HeadersTooLarge", f"a request's head may have {limit} bytes, got more")
            return
        if idle and self._heads < 2 and self._head is not None and self._memory.may_try():
            self._known = KnownRequest.of(data, self._head)

    def _take_held(self) -> None:
        """A known head whose body does not come as one piece after it is taken apart like any other."""
        held, self._held = self._held, b""
        if held:
            self._take_apart(held, idle=False)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed, by whomever."""
        self._take_held()
        self._transport = self._writer = None
        self._ending = True
        self._handler.closed(self)
        current, self._current, self._receiving = self._current, None, None
        if current is not None:
            current.on_client_gone()
        while self._waiting:
            self._waiting.popleft().on_client_gone()

    def pause_writing(self) -> None:
        """The other side takes more slowly than we send."""
        self._answer_held = True
        if self._current is not None:
            self._current.on_answer_held(True)

    def resume_writing(self) -> None:
        """The other side has caught up."""
        self._answer_held = False
        if self._current is not None:
            self._current.on_answer_held(False)
        else:
            self._advance()

    # From the parser.

    def on_message_begin(self) -> None:
        """The first byte of a message."""
        self._url = b""
        self._headers = []
        self._head = None
        self._heads += 1
        self._in_head = True
        self._head_bytes = 0
        if self._current is None:
            self.deadline = self.now + self.limits.header_seconds

    def on_url(self, url: bytes) -> None:
        """The request's target, or a part of it."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header field, or a trailer."""
        if self._in_body:
            return  # a trailer; nobody here needs one
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._in_head, self._in_body = False, True
        if self._broken or self._ending:
            return  # the connection ends with an answer before this
        limits = self.limits
        parser = self._parser
        headers = self._headers
        method = parser.get_method()
        version = parser.get_http_version()
        keep_alive = version == "1.1" and parser.should_keep_alive() and not self._stopping
        try:
            if version not in ("1.1", "1.0"):
                raise Refusal(505, "VersionRefused", f"this port speaks HTTP/1.1, got HTTP/{version}", close=True)  # noqa: TRY301
            if len(headers) > limits.headers:
                told = f"a request may have {limits.headers} header fields, got {len(headers)}"
                raise Refusal(431, "HeadersTooLarge", told, close=True)  # noqa: TRY301 - one way out for all refusals
            if self._head_bytes + self._fed > limits.header_bytes:
                self._check_size(headers)
            head = read_head(method, self._url, headers, http11=version == "1.1", keep_alive=keep_alive)
            if parser.should_upgrade() and head.chunked:
                raise Refusal(501, "UpgradeRefused", "an upgrade with a chunked body is refused", close=True)  # noqa: TRY301
            request = self._handler.begin(self, head)
            self._head = head
            self._raw_body = (head.length or 0) if parser.should_upgrade() else 0
        except Refusal as refusal:
            self._broken = refusal.close = refusal.close or not keep_alive
            request = self._handler.refuse(self, refusal, head_only=method == b"HEAD")
        self._receiving = request
        if self._current is None and not self._answer_held and not self._waiting:
            self._current = request
            self.deadline = self.now + limits.body_seconds
            request.start()
        else:
            self._waiting.append(request)
            self.hold(PIPELINED)

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if self._receiving is not None:
            self._receiving.on_body(body)

    def on_message_complete(self) -> None:
        """The message is whole."""
        if not self._raw_body:
            self._message_complete()

    def _message_complete(self) -> None:
        receiving, self._receiving = self._receiving, None
        self._in_body = False
        if self._current is None:
            self.deadline = self.now + self.limits.keep_alive_seconds
            if self._stopping and not self._waiting:
                self.end()
        if receiving is not None:
            receiving.on_request_end()

    def _feed(self, data: bytes) -> None:
        """Parse. A request may ask for another protocol (h2c) besides; that wish is ignored, as RFC 9110 allows.

        The parser stops there, in front of the request's body.
        """
        while data and not self._ending:
            if self._raw_body:
                body, data = data[: self._raw_body], data[self._raw_body :]
                self._raw_body -= len(body)
                self.on_body(body)
                if not self._raw_body:
                    self._message_complete()
                continue
            try:
                self._parser.feed_data(data)
                data = b""
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                self._parser = httptools.HttpRequestParser(self)

    def _idle(self) -> bool:
        """Whether everything that came is answered, and the next byte begins a message that may be answered."""
        return (
            self._current is None
            and self._receiving is None
            and not (self._in_head or self._waiting or self._holds or self._answer_held or self._stopping)
        )

    def _advance(self) -> None:
        if self._advancing:
            return  # the loop below is at work further up
        self._advancing = True
        while self._current is None and self._waiting and not self._answer_held and not self._ending:
            self._current = self._waiting.popleft()
            if self._current is self._receiving:
                self.deadline = perf_counter() + self.limits.body_seconds
            self._current.start()
        self._advancing = False
        if not self._waiting:
            self.let_go(PIPELINED)

    def _check_size(self, headers: RawHeaders) -> None:
        limit = self.limits.header_bytes
        size = len(self._url) + sum(len(name) + len(value) + 4 for name, value in headers)
        if size > limit:
            told = f"a request's head may have {limit} bytes, got {size}"
            raise Refusal(431, "HeadersTooLarge", told, close=True)

    def _refuse(self, status: int, error: str, detail: str) -> None:
        """Answer what is no request, after those that were, and close."""
        self._broken = True
        refusal = Refusal(status, error, detail, close=True)
        if self._receiving is not None:
            self._receiving.on_request_broken(refusal)
            return
        refused = self._handler.refuse(self, refusal, head_only=False)
        if self._current is None:
            self._current = refused
            refused.start()
        else:
            self._waiting.append(refused)
            self.hold(PIPELINED)
