"""What goes into the traffic port comes out at the model server byte for byte, and so does the answer."""

from __future__ import annotations

import gzip
import hashlib
import json
import socket
import threading
from collections.abc import Iterator

import pytest

from fieldrepair_service import drops
from tests.service.traffic.conftest import ASKED, RawUpstream, Seen, Traffic, answer

# -- byte for byte -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE"])
@pytest.mark.parametrize("path", ["/", "/invocations", "/a%2Fb/../c//d;p=1?x=%20&y=a+b&x=2", "/%C3%A4?q=%FF"])
def test_any_method_and_path_arrive_as_they_were_sent(
    traffic: Traffic, upstream: RawUpstream, method: str, path: str
) -> None:
    body = None if method == "GET" else b"\x00\xffbytes"
    status, _, _ = traffic.ask(method, path, body)
    assert status == 200
    assert upstream.seen[0].line == f"{method} {path} HTTP/1.1"
    assert upstream.seen[0].body == (body or b"")


def test_request_headers_arrive_as_they_were_sent(traffic: Traffic, upstream: RawUpstream) -> None:
    sent = [
        (b"host", b"models.example:8080"),
        (b"x-b", b"1"),
        (b"x-a", b"2"),
        (b"x-b", b"3"),
        (b"cookie", b"a=1; b=2"),
        (b"accept-encoding", b"br"),
        (b"x-long", b"y" * 30_000),
        (b"x-utf8", "ä".encode()),
        (b"authorization", b"Bearer secret"),
        (b"content-length", b"2"),
    ]
    head = b"POST /x HTTP/1.1\r\n" + b"".join(name + b": " + value + b"\r\n" for name, value in sent)
    with socket.create_connection(("127.0.0.1", traffic.port)) as client:
        client.sendall(head + b"\r\nhi")
        assert client.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")
    assert [(n.lower().encode(), v.encode("latin-1")) for n, v in upstream.seen[0].headers] == sent


def test_answers_come_back_as_they_were_given(traffic: Traffic, upstream: RawUpstream) -> None:
    body = gzip.compress(b"compressed stays compressed")
    headers = [b"set-cookie: a=1", b"x-odd: \xe4", b"set-cookie: b=2", b"content-encoding: gzip", b"etag: W/1"]
    upstream.script = lambda _: answer(body, b"418 I'm a teapot", *headers)
    with socket.create_connection(("127.0.0.1", traffic.port)) as client:
        client.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
        received = b""
        while not received.endswith(body):
            received += client.recv(65536)
    assert received == answer(body, b"418 I'm a Teapot", *headers)


def test_answers_without_a_body(traffic: Traffic, upstream: RawUpstream) -> None:
    upstream.script = lambda _: b"HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n"
    status, headers, body = traffic.ask("HEAD", "/x", None)
    assert (status, headers, body) == (200, [("content-length", "1234")], b"")
    for code in (b"204 No Content", b"304 Not Modified"):
        upstream.script = lambda _, code=code: b"HTTP/1.1 " + code + b"\r\netag: 1\r\n\r\n"
        status, headers, body = traffic.ask("GET", "/x", None)
        assert (status, headers, body) == (int(code[:3]), [("etag", "1")], b"")


def test_redirects_and_cookies_are_the_clients_business(traffic: Traffic, upstream: RawUpstream) -> None:
    upstream.script = lambda _: answer(b"", b"302 Found", b"location: /elsewhere", b"set-cookie: a=1")
    for _ in range(2):
        status, headers, _ = traffic.ask("GET", "/x", None)
        assert status == 302
        assert ("location", "/elsewhere") in headers
    assert [seen.header("cookie") for seen in upstream.seen] == [None, None]


def test_headers_of_one_connection_stay_there(traffic: Traffic, upstream: RawUpstream) -> None:
    upstream.script = lambda _: answer(
        b"ok", b"200 OK", b"Connection: keep-alive, X-Mine", b"Keep-Alive: timeout=5", b"X-Mine: 1", b"X-Yours: 2"
    )
    sent = {"Connection": "keep-alive, X-Hop", "X-Hop": "1", "TE": "trailers", "Upgrade": "h2c", "X-End": "2"}
    status, headers, _ = traffic.ask("GET", "/x", None, sent)
    assert status == 200
    assert sorted(name for name, _ in headers) == ["content-length", "x-yours"]
    arrived = {name.lower() for name, _ in upstream.seen[0].headers}
    assert arrived == {"host", "accept-encoding", "x-end"}


def test_expect_100_is_answered_here(traffic: Traffic, upstream: RawUpstream) -> None:
    with socket.create_connection(("127.0.0.1", traffic.port)) as client:
        client.sendall(b"POST /x HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 100")
        client.sendall(b"hi")
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
    assert upstream.seen[0].body == b"hi"
    assert upstream.seen[0].header("expect") is None


def test_a_websocket_is_refused_clearly(traffic: Traffic, upstream: RawUpstream) -> None:
    status, _, body = traffic.ask("GET", "/ws", None, {"Connection": "Upgrade", "Upgrade": "websocket"})
    assert status == 501
    assert json.loads(body)["error"] == "UpgradeRefused"
    assert not upstream.seen


# -- streaming ---------------------------------------------------------------------------------------------------


def test_an_answer_streams(traffic: Traffic, upstream: RawUpstream) -> None:
    go_on = threading.Event()

    def script(seen: Seen) -> bytes:
        seen.connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        assert go_on.wait(30)
        return b"6\r\nsecond\r\n0\r\n\r\n"

    upstream.script = script
    connection = traffic.connect()
    connection.request("POST", "/invocations", ASKED, {"Content-Type": "application/json"})
    response = connection.getresponse()
    assert response.read(5) == b"first"
    go_on.set()
    assert response.read() == b"second"
    connection.close()
    assert traffic.spooled(1)[0].answer_body == b"firstsecond"


def test_a_request_streams(traffic: Traffic, upstream: RawUpstream) -> None:
    upstream.read_bodies = False
    arrived = threading.Event()

    def script(seen: Seen) -> bytes:
        assert [seen.stream.readline() for _ in range(2)] == [b"5\r\n", b"first\r\n"]
        arrived.set()
        assert [seen.stream.readline() for _ in range(4)] == [b"6\r\n", b"second\r\n", b"0\r\n", b"\r\n"]
        return answer(b"ok")

    upstream.script = script

    def pieces() -> Iterator[bytes]:
        yield b"first"
        assert arrived.wait(30)
        yield b"second"

    connection = traffic.connect()
    connection.request("POST", "/x", pieces(), {"Transfer-Encoding": "chunked"}, encode_chunked=True)
    assert connection.getresponse().read() == b"ok"
    connection.close()


@pytest.mark.parametrize("chunked", [False, True])
def test_large_bodies_pass_and_are_not_logged(traffic: Traffic, upstream: RawUpstream, chunked: bool) -> None:
    piece, count = bytes(range(256)) * 4096, 100  # 100 MB each way
    upstream.script = lambda seen: answer(seen.body)

    def pieces() -> Iterator[bytes]:
        for _ in range(count):
            yield piece

    headers = {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(count * len(piece))}
    connection = traffic.connect()
    connection.request("POST", "/invocations", pieces(), headers, encode_chunked=chunked)
    response = connection.getresponse()
    digest = hashlib.sha256()
    while received := response.read(1 << 20):
        digest.update(received)
    connection.close()
    assert digest.digest() == hashlib.sha256(piece * count).digest()
    traffic.dropped(drops.BODY_TOO_LARGE)
