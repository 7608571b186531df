"""A request's first part, understood: where it is to go, which headers go with it, and how its body comes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import httptools

from fieldrepair_service.http_message import HOP_BY_HOP, RawHeaders, named_by_connection

if TYPE_CHECKING:
    from fieldrepair_service.request_trace import RequestTrace

_LOOKED_AT = HOP_BY_HOP | {b"content-length", b"content-type", b"host"}


class Refusal(Exception):  # noqa: N818 - it is an answer
    """A request that is not forwarded: the status, the error's name and what to tell the client.

    Args:
        status: HTTP status.
        error: name of the error, for programs.
        detail: what came and what was expected, for people.
        close: whether nothing after this can be understood, so that the connection has to end.
    """

    def __init__(self, status: int, error: str, detail: str, *, close: bool = False) -> None:
        super().__init__(detail)
        self.status, self.error, self.detail, self.close = status, error, detail, close


@dataclass(slots=True)
class RequestHead:
    """A request without its body."""

    method: bytes
    path: bytes
    """As the client wrote it, without the query."""
    target: bytes
    """Path and query."""
    headers: RawHeaders
    """All of them, as they came."""
    passed: RawHeaders
    """Those that go on to the model server."""
    length: int | None
    """Length of the body, where the client says it."""
    chunked: bool
    """Whether the body comes in chunked coding; without this and a length there is none."""
    expects_continue: bool
    has_host: bool
    http11: bool
    """Whether the client understands chunked coding."""
    keep_alive: bool
    """Whether the client may send another request on this connection."""
    trace: RequestTrace | None = None
    """The span it is, if it is traced."""


def read_head(method: bytes, url: bytes, headers: RawHeaders, *, http11: bool, keep_alive: bool) -> RequestHead:
    """Understand a request's head.

    Raises:
        Refusal: if this is nothing that can be forwarded.
    """
    passed: RawHeaders = []
    length: int | None = None
    chunked = expects_continue = False
    named = b""
    hosts = 0
    for header in headers:
        name, value = header
        if name in _LOOKED_AT:
            if name == b"content-length":
                length = int(value)  # the parser has made sure that this is a number
            elif name == b"host":
                hosts += 1
            elif name == b"content-type":
                if value[:16].lower() == b"application/grpc":
                    raise Refusal(501, "GrpcRefused", "this port forwards HTTP/1.1; it does not speak gRPC")
            else:
                if name == b"connection":
                    named += b"," + value
                elif name == b"transfer-encoding":
                    _check_coding(value)
                    chunked = True
                elif name == b"upgrade":
                    if b"websocket" in value.lower():
                        told = "this port forwards HTTP requests; it does not speak WebSocket"
                        raise Refusal(501, "UpgradeRefused", told)
                elif name == b"expect":
                    expects_continue = value.lower() == b"100-continue"
                continue
        passed.append(header)
    if hosts > 1:
        raise Refusal(400, "BadRequest", f"a request has one Host header, got {hosts}", close=True)
    if named and (also := named_by_connection(named)):
        passed = [header for header in passed if header[0] not in also]
    if url[:1] == b"/" and b"#" not in url:
        target = url
    else:
        target, authority = _origin_form(method, url)
        if authority:
            passed = [(b"host", authority), *(header for header in passed if header[0] != b"host")]
            hosts = 1
    path = target.partition(b"?")[0]
    return RequestHead(
        method, path, target, headers, passed, length, chunked, expects_continue, hosts == 1, http11, keep_alive
    )


def onward_head(head: RequestHead, prefix: bytes, authority: bytes) -> bytes:
    """Request line and header lines for a model server; the empty line that ends a head is not there.

    Args:
        head: the request's.
        prefix: what the model server has in front of every path.
        authority: the model server's, for a request without a Host header.
    """
    parts = [head.method, b" ", prefix, head.target, b" HTTP/1.1\r\n"]
    if not head.has_host:
        parts += (b"host: ", authority, b"\r\n")
    for name, value in head.passed:
        parts += (name, b": ", value, b"\r\n")
    return b"".join(parts)


def _check_coding(value: bytes) -> None:
    if value.strip().lower() != b"chunked":
        coding = value.decode("latin-1")
        told = f"a request body may come in the transfer coding 'chunked' only, got {coding!r}"
        raise Refusal(501, "TransferCodingRefused", told, close=True)


def _origin_form(method: bytes, url: bytes) -> tuple[bytes, bytes]:
    """(path and query, authority) of a target in absolute form, as a client sends it that takes us for its proxy.

    Where the request goes is not up to the client: the authority ends up in the Host header, and nowhere else.
    """
    shown = url[:200].decode("latin-1")
    if method == b"CONNECT":
        raise Refusal(501, "ConnectRefused", f"this port is no tunnel; CONNECT {shown!r} is refused", close=True)
    if url == b"*" and method == b"OPTIONS":
        return url, b""
    try:
        parts = httptools.parse_url(url)
    except httptools.HttpParserInvalidURLError as error:
        raise Refusal(400, "BadRequest", f"{shown!r} is no request target", close=True) from error
    if b"#" in url or parts.schema not in (b"http", b"https"):
        raise Refusal(400, "BadRequest", f"a request target is a path or an http URL, got {shown!r}", close=True)
    _, _, rest = url.partition(b"://")
    authority = rest.partition(b"?")[0].partition(b"/")[0]
    if b"@" in authority:
        raise Refusal(400, "BadRequest", f"a request target has no user name, got {shown!r}", close=True)
    target = rest[len(authority) :]
    return (target if target.startswith(b"/") else b"/" + target), authority
