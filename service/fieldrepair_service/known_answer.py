"""An answer whose head came before on its connection: what it means, and what the client gets in its place."""

from __future__ import annotations

from fieldrepair_service.http_message import WITHOUT_BODY, RawHeaders, answer_head
from fieldrepair_service.repeated_head import Cut, cut, cut_own


class KnownAnswer:
    """An answer's head that the parser has understood."""

    __slots__ = ("_onward", "body_in", "headers", "is_all_of", "status")

    def __init__(self, came: Cut, status: int, headers: RawHeaders) -> None:
        self.body_in = came.body_in
        self.is_all_of = came.is_all_of
        self.status = status
        self.headers = headers
        """As they came first: the content-length is another one now."""
        self._onward = cut_own(b"".join((*answer_head(status, headers), b"\r\n")))

    @classmethod
    def of(cls, data: bytes, status: int, headers: RawHeaders) -> KnownAnswer | None:
        """The head that ``data`` begins with, if it can be recognised when it comes again."""
        if status in WITHOUT_BODY:
            return None
        came = cut(data, headers)
        return None if came is None else cls(came, status, headers)

    def answer(self, body: bytes) -> bytes:
        """The whole answer as the client gets it."""
        return self._onward.with_length(body)
