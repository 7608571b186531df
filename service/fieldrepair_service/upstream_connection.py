"""One connection to a model server: a request goes out, its answer is taken apart as it comes.

No task and no future: what comes in is passed on by calls, within the event loop's turn that brought it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

import httptools

from fieldrepair_service.direct_write import DirectWriter
from fieldrepair_service.http_message import WITHOUT_BODY, RawHeaders
from fieldrepair_service.known_answer import KnownAnswer
from fieldrepair_service.repeated_head import LONGEST_HEAD, Memory

# Of an answer's head, in bytes and in fields.
_HEAD_LIMIT = 64 * 1024
_FIELDS_LIMIT = 1000


class UpstreamError(Exception):
    """The model server did not give a whole answer."""


class Exchanging(Protocol):
    """Who asked, and is told what comes."""

    def on_answer_head(self, status: int, headers: RawHeaders, *, has_body: bool, has_length: bool) -> None:
        """The head of the answer; ``has_length``: one of the headers is the true length of the body."""
        ...

    def on_answer_body(self, chunk: bytes) -> None:
        """A piece of the body."""
        ...

    def on_known_answer(self, known: KnownAnswer, data: bytes, body_at: int) -> bool:
        """The whole answer, its head one that came before; false if it has to be given piece by piece."""
        ...

    def on_answer_pause(self) -> None:
        """Nothing more has come for now."""
        ...

    def on_answer_end(self) -> None:
        """The answer is whole; the connection is in other hands from here on."""
        ...

    def on_upstream_lost(self, error: UpstreamError, *, untouched: bool) -> None:
        """There will be no (whole) answer; ``untouched``: not one byte of it came, on a connection that was idle."""
        ...

    def on_upload_held(self, held: bool) -> None:
        """Whether the model server is slower than the request's body comes."""
        ...


class UpstreamConnection(asyncio.Protocol):
    """A connection that carries one exchange after the other."""

    __slots__ = (
        "_begin",
        "_begun",
        "_body_until_close",
        "_exchange",
        "_fields",
        "_give_back",
        "_head_bytes",
        "_head_only",
        "_headers",
        "_held",
        "_in_body",
        "_informational",
        "_known",
        "_memory",
        "_parser",
        "_request_whole",
        "_reusable",
        "_transport",
        "_used",
        "_whole",
        "_writer",
        "idle_since",
    )

    def __init__(self, give_back: Callable[[UpstreamConnection, bool], None]) -> None:
        """Made by the pool.

        Args:
            give_back: told when an exchange is over, and whether the connection can carry another one.
        """
        self._give_back = give_back
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._writer: DirectWriter | None = None
        self._known: KnownAnswer | None = None
        self._memory = Memory()
        self._begin = b""  # of an answer that the parser takes apart, if a head that comes again could be told by it
        self._held = b""  # a known head whose body is still to come: servers like to write them one after the other
        self._exchange: Exchanging | None = None
        self._headers: RawHeaders = []
        self._head_bytes = self._fields = 0
        self._head_only = self._in_body = self._body_until_close = self._informational = False
        self._begun = self._used = self._whole = self._reusable = False
        self._request_whole = True
        self.idle_since = 0.0

    # For the one who asks.

    @property
    def usable(self) -> bool:
        """Whether it is open."""
        return self._transport is not None and not self._transport.is_closing()

    def ask(self, exchange: Exchanging, request: bytes, *, head_only: bool, whole: bool) -> None:
        """Send a request, or its beginning (then ``whole`` is false, and :meth:`send` and :meth:`sent` follow)."""
        self.send(request)
        self.asked(exchange, head_only=head_only, whole=whole)

    def asked(self, exchange: Exchanging, *, head_only: bool, whole: bool) -> None:
        """What was just sent is this exchange's request."""
        self._exchange = exchange
        self._head_only = head_only
        self._request_whole = whole
        self._begun = self._in_body = self._body_until_close = self._whole = self._reusable = False
        self._begin = self._held = b""
        self._head_bytes = 0

    def send(self, piece: bytes) -> None:
        """Send a request, or more of it."""
        if self._writer is not None:
            self._writer.write(piece)

    def sent(self) -> None:
        """That was all of the request."""
        self._request_whole = True

    def hold(self, held: bool) -> None:
        """Whether the client is slower than the answer comes."""
        if self._transport is not None and not self._transport.is_closing():
            if held:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def drop(self) -> None:
        """End it at once; whoever asked is not told."""
        self._exchange = None
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """End an idle connection."""
        if self._transport is not None:
            self._transport.close()

    # From the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = cast(asyncio.Transport, transport)  # of a TCP or TLS connection; uvloop has its own class
        self._writer = DirectWriter(self._transport)

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        exchange = self._exchange
        if exchange is None:
            self.drop()  # nothing was asked
            return
        held, self._held = self._held, b""
        if held:
            data = held + data
        fresh = (held or not self._begun) and self._request_whole and not self._head_only
        self._begun = True
        known = self._known
        if fresh and known is not None:
            body_at = known.body_in(data)
            if body_at and exchange.on_known_answer(known, data, body_at):
                self._memory.came_again()
                self._whole = self._reusable = True
                self._complete()
                return
            if not held and known.is_all_of(data):
                self._held = data
                return
        if fresh:
            self._begin = data[:LONGEST_HEAD]
        self._parse(exchange, data)

    def _parse(self, exchange: Exchanging, data: bytes) -> None:
        if not self._in_body:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
            self._check_size()
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, UpstreamError) as error:
            self._reusable = False
            if not self._whole:
                self._lose(_cause(error))
                return
        # Only now, outside the parser: whoever is told may give this connection its next request at once.
        if self._whole:
            begin, status, headers, reusable = (
                self._begin,
                self._parser.get_status_code(),
                self._headers,
                self._reusable,
            )
            self._complete()
            if begin and reusable and self._memory.may_try():
                self._known = KnownAnswer.of(begin, status, headers)
        else:
            exchange.on_answer_pause()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed, by whomever."""
        self._transport = self._writer = None
        held, self._held = self._held, b""
        if held and self._exchange is not None:
            self._parse(self._exchange, held)
        if self._exchange is None:
            self._give_back(self, False)  # it was idle
        elif self._in_body and self._body_until_close and exc is None:
            self._reusable = False
            self._complete()
        else:
            self._lose(UpstreamError(str(exc or "the connection was closed before the answer was whole")))

    def pause_writing(self) -> None:
        """The other side takes more slowly than we send."""
        if self._exchange is not None:
            self._exchange.on_upload_held(True)

    def resume_writing(self) -> None:
        """The other side has caught up."""
        if self._exchange is not None:
            self._exchange.on_upload_held(False)

    # From the parser.

    def on_message_begin(self) -> None:
        """The first byte of a message."""
        self._headers = []
        self._fields = 0
        if self._whole:
            raise UpstreamError("the model server sent more than its answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header field, or a trailer."""
        if self._in_body:
            return  # a trailer: what the answer was like is known by now
        self._fields += 1
        if self._fields > _FIELDS_LIMIT:
            raise UpstreamError(f"the answer has more than {_FIELDS_LIMIT} header fields")
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is whole."""
        exchange = self._exchange
        if exchange is None:
            return
        status = self._parser.get_status_code()
        self._informational = status < 200
        if self._informational:
            if status == 101:
                raise UpstreamError("the model server switches to a protocol that nobody asked for")
            return
        headers = self._headers
        if self._head_bytes > _HEAD_LIMIT:  # or is it the beginning of the body that came with it?
            self._head_bytes = sum(len(name) + len(value) + 4 for name, value in headers)
            self._check_size()
        self._in_body = True
        has_length = chunked = closes = False
        for name, value in headers:
            if name == b"content-length":
                has_length = True
            elif name == b"transfer-encoding":
                if value.strip().lower() != b"chunked":
                    raise UpstreamError(f"the answer's transfer coding is {value.decode('latin-1')!r}, not 'chunked'")
                chunked = True
            elif name == b"connection":
                closes = b"close" in value.lower()
        if chunked and has_length:
            has_length = False
            headers = [header for header in headers if header[0] != b"content-length"]
        has_body = not (self._head_only or status in WITHOUT_BODY)
        self._body_until_close = has_body and not (chunked or has_length)
        exchange.on_answer_head(status, headers, has_body=has_body, has_length=has_length)
        if self._head_only:
            # The parser does not know that this was HEAD and would wait for the body that the headers speak of.
            self._reusable = not closes and self._parser.get_http_version() == "1.1"
            self._parser = httptools.HttpResponseParser(self)
            self._whole = True

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if self._whole or self._exchange is None:
            raise UpstreamError("the model server sent more than its answer")
        self._exchange.on_answer_body(body)

    def on_message_complete(self) -> None:
        """The message is whole."""
        if self._informational:
            self._informational = False
            self._head_bytes = 0
        elif not self._whole:
            self._whole = True
            self._reusable = self._parser.should_keep_alive()

    def _check_size(self) -> None:
        if self._head_bytes > _HEAD_LIMIT and not self._in_body:
            raise UpstreamError(f"the head of the answer is larger than {_HEAD_LIMIT} bytes")

    def _complete(self) -> None:
        exchange, self._exchange = self._exchange, None
        self._used = True
        self._give_back(self, self._reusable and self._request_whole and self.usable)
        if exchange is not None:
            exchange.on_answer_end()

    def _lose(self, error: UpstreamError) -> None:
        exchange, self._exchange = self._exchange, None
        if self._transport is not None:
            self._transport.abort()
        self._give_back(self, False)
        if exchange is not None:
            exchange.on_upstream_lost(error, untouched=self._used and not self._begun)


def _cause(error: BaseException) -> UpstreamError:
    """What the parser makes of an error of ours in one of its callbacks is less telling than the error itself."""
    inner = error.__context__
    if isinstance(error, UpstreamError):
        return error
    if isinstance(inner, UpstreamError):
        return inner
    return UpstreamError(f"the answer is no HTTP/1.1: {error}")
