"""Whatever a client writes: its request goes to the one upstream or nowhere, and both read it in the same way."""

from __future__ import annotations

import json
import socket
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.service.traffic.conftest import RawUpstream, StartTraffic, Traffic

CLOSE = b"Connection: close\r\n\r\n"


def error_in(reply: bytes) -> tuple[int, str]:
    head, _, body = reply.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]


@pytest.fixture
def elsewhere() -> Generator[RawUpstream]:
    """A server that a client would like the sidecar to call."""
    server = RawUpstream()
    server.start()
    yield server
    assert not server.connections
    server.close()


def test_a_target_never_names_the_server(traffic: Traffic, upstream: RawUpstream, elsewhere: RawUpstream) -> None:
    evil = elsewhere.url.removeprefix("http://").encode()
    sent = {
        b"http://" + evil + b"/x?a=b": ("/x?a=b", evil),
        b"http://" + evil: ("/", evil),
        b"http://" + evil + b"?a=b": ("/?a=b", evil),
        b"https://" + evil + b"//y": ("//y", evil),
        b"//" + evil + b"/x": (f"//{evil.decode()}/x", b"h"),
        b"/http://" + evil + b"/x": (f"/http://{evil.decode()}/x", b"h"),
        b"/../../x": ("/../../x", b"h"),
        b"/@" + evil: (f"/@{evil.decode()}", b"h"),
    }
    for target, (line, host) in sent.items():
        reply = traffic.talk(b"GET " + target + b" HTTP/1.1\r\nHost: h\r\n" + CLOSE)
        assert reply.startswith(b"HTTP/1.1 200"), target
        assert upstream.seen[-1].line == f"GET {line} HTTP/1.1"
        assert (upstream.seen[-1].header("host") or "").encode() == host
    assert len(upstream.seen) == len(sent)


def test_nor_does_a_header(traffic: Traffic, upstream: RawUpstream, elsewhere: RawUpstream) -> None:
    evil = elsewhere.url.removeprefix("http://").encode()
    headers = b"".join(name + b": " + evil + b"\r\n" for name in (b"Host", b"X-Forwarded-Host", b"Forwarded", b"Via"))
    assert traffic.talk(b"GET /x HTTP/1.1\r\n" + headers + CLOSE).startswith(b"HTTP/1.1 200")
    assert len(upstream.seen) == 1


def test_nor_does_a_redirect(traffic: Traffic, upstream: RawUpstream, elsewhere: RawUpstream) -> None:
    location = elsewhere.url.encode()
    upstream.script = lambda _: (
        b"HTTP/1.1 307 Temporary Redirect\r\nlocation: " + location + b"\r\ncontent-length: 0\r\n\r\n"
    )
    assert traffic.ask()[0] == 307


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (b"CONNECT evil.example:443", (501, "ConnectRefused")),
        (b"GET http://user@evil.example/", (400, "BadRequest")),
        (b"GET ftp://evil.example/", (400, "BadRequest")),
        (b"GET http://@evil.example/", (400, "BadRequest")),
        (b"GET http://h/#", (400, "BadRequest")),
        (b"GET /x#y", (400, "BadRequest")),
        (b"GET *", (400, "BadRequest")),
        (b"GET x", (400, "BadRequest")),
    ],
)
def test_targets_that_are_none(traffic: Traffic, upstream: RawUpstream, target: bytes, told: tuple[int, str]) -> None:
    assert error_in(traffic.talk(target + b" HTTP/1.1\r\nHost: h\r\n\r\n")) == told
    assert not upstream.seen


def test_a_question_about_the_server_as_a_whole(traffic: Traffic, upstream: RawUpstream) -> None:
    assert traffic.talk(b"OPTIONS * HTTP/1.1\r\nHost: h\r\n" + CLOSE).startswith(b"HTTP/1.1 200")
    assert upstream.seen[0].line == "OPTIONS * HTTP/1.1"


@pytest.mark.parametrize(
    "request_",
    [
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +2\r\n\r\nhi",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999\r\n\r\nhi",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nxx\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nHost: evil\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : h\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX: a\nY: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX: a\rY: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET / HTTP/1.1 \r\nHost: h\r\n\r\n",
        b"GET /\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS on a port that has none
    ],
)
def test_what_two_servers_could_read_in_two_ways_is_read_by_none(
    traffic: Traffic, upstream: RawUpstream, request_: bytes
) -> None:
    """The ways to smuggle a request past a proxy: none of them reaches the model server."""
    assert error_in(traffic.talk(request_ + b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"))[0] in (400, 501, 505)
    assert not upstream.seen


def test_a_bad_request_takes_nothing_from_the_good_ones_before_it(traffic: Traffic, upstream: RawUpstream) -> None:
    reply = traffic.talk(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\nnonsense\r\n\r\n")
    first, second = reply.index(b"HTTP/1.1 200"), reply.index(b"HTTP/1.1 400")
    assert first < second
    assert len(upstream.seen) == 1


def test_trailers_do_not_become_headers_of_the_next_request(traffic: Traffic, upstream: RawUpstream) -> None:
    chunked = b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Trailer: 1\r\n\r\n"
    traffic.talk(chunked + b"GET /y HTTP/1.1\r\nHost: h\r\n" + CLOSE)
    assert [seen.line for seen in upstream.seen] == ["POST /x HTTP/1.1", "GET /y HTTP/1.1"]
    assert [seen.header("x-trailer") for seen in upstream.seen] == [None, None]
    assert upstream.seen[0].body == b"hi"
    assert upstream.seen[0].header("content-length") == "2"


def test_the_wish_for_http_2_is_ignored_and_the_request_is_not(traffic: Traffic, upstream: RawUpstream) -> None:
    """As Java's own client words its first request."""
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    head = b"POST /invocations HTTP/1.1\r\nHost: h\r\nContent-Length: 11\r\n" + upgrade + b"\r\n"
    reply = traffic.talk(head + b"hello", b" world" + b"GET /y HTTP/1.1\r\nHost: h\r\n" + CLOSE)
    assert reply.count(b"HTTP/1.1 200") == 2
    assert [(seen.line, seen.body) for seen in upstream.seen] == [
        ("POST /invocations HTTP/1.1", b"hello world"),
        ("GET /y HTTP/1.1", b""),
    ]
    assert {name for name, _ in upstream.seen[0].headers} == {"host", "content-length"}


def test_grpc_is_refused_clearly(traffic: Traffic, upstream: RawUpstream) -> None:
    head = b"POST /inference.GRPCInferenceService/ModelInfer HTTP/1.1\r\nHost: h\r\n"
    grpc = head + b"Content-Type: application/grpc+proto\r\n"
    assert error_in(traffic.talk(grpc + b"Content-Length: 2\r\n" + CLOSE + b"hi")) == (501, "GrpcRefused")
    # gRPC's libraries speak HTTP/2 from the first byte; to these, in frames: SETTINGS, then GOAWAY that says why.
    reply = traffic.talk(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
    assert reply[:9] == b"\0\0\0\4\0\0\0\0\0"
    length, kind = int.from_bytes(reply[9:12], "big"), reply[12]
    assert (kind, len(reply)) == (7, 18 + length)
    assert int.from_bytes(reply[22:26], "big") == 0xD  # HTTP_1_1_REQUIRED
    assert b"gRPC" in reply[26:]
    assert not upstream.seen


def test_any_bytes_are_survived(start_traffic: StartTraffic, upstream: RawUpstream) -> None:
    traffic = start_traffic(upstream.url)
    words = b"GET |POST |/x| HTTP/1.1|\r\n|\n|Host: h|Content-Length: 3|Connection: upgrade|Transfer-Encoding: chunked"
    more = b"Upgrade: h2c|3\r\nabc\r\n|0\r\n\r\n|\r\n\r\n|abc|\0|\xff"
    pieces = st.sampled_from((words + b"|" + more).split(b"|"))

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(st.one_of(pieces, st.binary(max_size=8)), max_size=25))
    def throw(parts: list[bytes]) -> None:
        with socket.create_connection(("127.0.0.1", traffic.port), timeout=30) as client:
            client.sendall(b"".join(parts))
            client.shutdown(socket.SHUT_WR)
            while client.recv(65536):
                pass

    throw()
    assert traffic.ask("GET", "/x", None)[0] == 200
