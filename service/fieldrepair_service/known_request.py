"""A request whose head came before on its connection: what it means, and what goes on in its place."""

from __future__ import annotations

from dataclasses import replace

from fieldrepair_service.http_message import RawHeaders
from fieldrepair_service.repeated_head import Cut, cut, cut_own
from fieldrepair_service.request_head import RequestHead, onward_head
from fieldrepair_service.upstream import Upstream


class KnownRequest:
    """A request's head that the parser has understood."""

    __slots__ = ("_head", "_onward", "_upstream", "body_in", "is_all_of")

    def __init__(self, came: Cut, head: RequestHead) -> None:
        self.body_in = came.body_in
        self.is_all_of = came.is_all_of
        self._head = head
        self._upstream: Upstream | None = None
        self._onward = came

    @classmethod
    def of(cls, data: bytes, head: RequestHead) -> KnownRequest | None:
        """The head that ``data`` begins with, if it can be recognised when it comes again."""
        if head.method != b"POST" or not (head.keep_alive and head.http11):
            return None
        came = cut(data, head.headers)
        return None if came is None else cls(came, head)

    def request_to(self, upstream: Upstream, body: bytes) -> bytes:
        """The whole request as this model server gets it."""
        if self._upstream is not upstream:
            self._onward = cut_own(onward_head(self._head, upstream.prefix, upstream.authority) + b"\r\n")
            self._upstream = upstream
        return self._onward.with_length(body)

    def head(self, length: int) -> RequestHead:
        """The head as the parser would have read it, before a body of this length."""
        head = self._head
        if length == head.length:
            return head
        digits = b"%d" % length
        return replace(
            head, length=length, headers=_with_length(head.headers, digits), passed=_with_length(head.passed, digits)
        )


def _with_length(headers: RawHeaders, digits: bytes) -> RawHeaders:
    return [(name, digits if name == b"content-length" else value) for name, value in headers]
