"""What both sides of the request path know about HTTP/1.1 messages (RFC 9110 and 9112)."""

from __future__ import annotations

from http import HTTPStatus

import orjson

RawHeaders = list[tuple[bytes, bytes]]
"""Header fields in order, names in lower case, values byte for byte."""

# Headers that speak about one connection, not about the message (RFC 9110, section 7.6.1). ``expect`` belongs here
# because it is answered where it arrives.
HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"expect")
)

STATUS_LINES = {code: b"HTTP/1.1 %d \r\n" % code for code in range(100, 1000)}
STATUS_LINES.update({each.value: b"HTTP/1.1 %d %s\r\n" % (each.value, each.phrase.encode()) for each in HTTPStatus})

WITHOUT_BODY = (204, 304)
"""Statuses of answers that have no body, whatever length they speak of (RFC 9110, section 6.4.1)."""

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"

# An HTTP/2 client reads frames, not text: empty settings, then "go away" with the error HTTP_1_1_REQUIRED and a reason,
# which gRPC's libraries show.
_GRPC_REFUSED = b"this port forwards HTTP/1.1; it does not speak HTTP/2 or gRPC"
HTTP2_GO_AWAY = (
    b"\0\0\0\4\0\0\0\0\0"
    + (8 + len(_GRPC_REFUSED)).to_bytes(3, "big")
    + b"\7\0\0\0\0\0\0\0\0\0\0\0\0\x0d"
    + _GRPC_REFUSED
)


def answer_head(status: int, headers: RawHeaders) -> list[bytes]:
    """Status line and header lines as they go on to the client, in pieces, without the empty line that ends a head."""
    out = [STATUS_LINES[status]]
    named = b""
    for name, value in headers:
        if name not in HOP_BY_HOP:
            out += (name, b": ", value, b"\r\n")
        elif name == b"connection":
            named += b"," + value
    if named and (also := named_by_connection(named)):
        kept = [(name, value) for name, value in headers if name not in HOP_BY_HOP and name not in also]
        return [STATUS_LINES[status], *(piece for name, value in kept for piece in (name, b": ", value, b"\r\n"))]
    return out


def chunk_of(body: bytes) -> bytes:
    """A piece of a body in chunked coding."""
    return b"%x\r\n%b\r\n" % (len(body), body)


def named_by_connection(value: bytes) -> set[bytes]:
    """Headers that a Connection header names as its own, besides the options that are not headers."""
    return {token.strip().lower() for token in value.split(b",")} - {b"", b"close", b"keep-alive"}


def own_answer(
    status: int, error: str, detail: str, request_id: str, *, close: bool = False, head_only: bool = False
) -> bytes:
    """An answer in the sidecar's own name."""
    body = orjson.dumps({"error": error, "detail": detail, "request_id": request_id})
    head = b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
    end = b"connection: close\r\n\r\n" if close else b"\r\n"
    return b"".join((STATUS_LINES[status], head, end, b"" if head_only else body))
