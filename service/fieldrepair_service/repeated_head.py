"""Heads that come again, so that they need not be understood again.

A kept-alive connection carries much the same head with every message; what differs is the length of the body (and once
a second a server's date). Taking a head apart, and putting together the one that goes on, takes most of the time that
the sidecar adds to a prediction. So a head that the parser has understood is kept as bytes, cut in two at the digits of
its content-length. Bytes that begin with the first part, digits and the second part mean the same; a body follows.

Nothing is guessed: whatever is not this, to the byte and with its whole body, goes to the parser.
"""

from __future__ import annotations

from typing import NamedTuple

from fieldrepair_service.http_message import HOP_BY_HOP, RawHeaders

# A longer head is rare, and comparing it costs, too.
LONGEST_HEAD = 4096
_MOST_DIGITS = 10
_LENGTH = b"content-length"
# Where no head is like one before (an id in each of them), there is no point in looking on.
_TRIES = 8


class Cut(NamedTuple):
    """A head around the digits of its content-length."""

    before: bytes
    after: bytes
    """From the end of that line to the empty line that ends the head."""

    def body_in(self, data: bytes) -> int:
        """Where the body begins in bytes that are this head and one whole body; 0 if they are anything else."""
        before, after = self
        if not data.startswith(before):
            return 0
        begin = len(before)
        end = data.find(b"\r", begin, begin + _MOST_DIGITS + 1)
        if end < 0 or not data.startswith(after, end):
            return 0
        body = end + len(after)
        return body if data[begin:end] == b"%d" % (len(data) - body) else 0

    def is_all_of(self, data: bytes) -> bool:
        """Whether bytes are this head and nothing more, not even a part of the body that it speaks of."""
        before, after = self
        begin, end = len(before), len(data) - len(after)
        return (
            begin < end <= begin + _MOST_DIGITS
            and data.startswith(before)
            and data.endswith(after)
            and data[begin:end].isdigit()
        )

    def with_length(self, body: bytes) -> bytes:
        """The whole message."""
        return b"%b%d%b%b" % (self.before, len(body), self.after, body)


def cut(data: bytes, headers: RawHeaders) -> Cut | None:
    """The head that ``data`` begins with, if it can be recognised when it comes again.

    Args:
        data: begins with a head that the parser has understood.
        headers: what it made of it, names in lower case.

    Returns:
        None for a head that speaks about its connection, has no length or two, or is written in a way that leaves any
        doubt that the parser saw just these bytes (folded lines, odd spaces).
    """
    begin = data.find(b"\r\n") + 2
    end = begin + sum(len(name) + len(value) + 4 for name, value in headers) + 2
    if end > LONGEST_HEAD or not _plain(headers):
        return None
    lines = b"".join(b"%b: %b\r\n" % header for header in headers)
    if data[begin:end].lower() != lines.lower() + b"\r\n":
        return None
    for name, value in headers:
        begin += len(name) + 2
        if name == _LENGTH:
            return Cut(data[:begin], data[begin + len(value) : end]) if value.isdigit() else None
        begin += len(value) + 2
    return None


def cut_own(head: bytes) -> Cut:
    """A head of our own making, with names in lower case and one content-length."""
    begin = head.index(b"\r\ncontent-length: ") + len(b"\r\ncontent-length: ")
    return Cut(head[:begin], head[head.index(b"\r\n", begin) :])


class Memory:
    """Whether it is worth while to remember a connection's heads: not after some that never came again."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = _TRIES

    def came_again(self) -> None:
        """One did."""
        self._left = _TRIES

    def may_try(self) -> bool:
        """Whether the next one is to be remembered; counts it."""
        self._left -= 1
        return self._left >= 0


def _plain(headers: RawHeaders) -> bool:
    names = [name for name, _ in headers]
    about_connection = [value for name, value in headers if name in HOP_BY_HOP]
    kept_alive = all(value.lower() == b"keep-alive" for value in about_connection)
    return names.count(_LENGTH) == 1 and kept_alive and names.count(b"connection") == len(about_connection)
