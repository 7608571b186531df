"""Every way in which HTTP/1.1 lets a model server answer, and some in which it does not."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

import pytest

from fieldrepair_service import drops
from fieldrepair_service.upstream import UpstreamLimits
from tests.service.traffic.conftest import ASKED, SCORES, RawUpstream, Seen, StartTraffic, Traffic, answer, eventually

CLOSE = b"Connection: close\r\n\r\n"


def error_of(reply: tuple[int, list[tuple[str, str]], bytes]) -> tuple[int, str]:
    return reply[0], json.loads(reply[2])["error"]


def test_interim_answers_end_here(traffic: Traffic, upstream: RawUpstream) -> None:
    upstream.script = lambda _: (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + answer(b"ok")
    )
    for _ in range(2):
        assert traffic.ask(path="/x") == (200, [("content-length", "2")], b"ok")
    assert [seen.on_connection for seen in upstream.seen] == [0, 1]


@pytest.mark.parametrize(
    ("method", "reply"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\ncontent-length: 1234\r\n\r\n"),
    ],
)
def test_answers_without_a_body_leave_the_connection_usable(
    traffic: Traffic, upstream: RawUpstream, method: str, reply: bytes
) -> None:
    upstream.script = lambda _: reply
    for _ in range(2):
        assert traffic.ask(method, "/x", None)[2] == b""
    upstream.script = lambda _: answer(b"next")
    assert traffic.ask("GET", "/x", None)[2] == b"next"
    assert [seen.on_connection for seen in upstream.seen] == [0, 1, 2]


def until_close(seen: Seen) -> None:
    seen.connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n" + SCORES)


def test_a_body_until_the_end_of_the_connection(traffic: Traffic, upstream: RawUpstream) -> None:
    upstream.script = until_close
    assert traffic.ask()[2] == SCORES
    assert traffic.spooled(1)[0].answer_body == SCORES
    reply = traffic.talk(b"GET /x HTTP/1.0\r\n\r\n")  # to whom chunked coding means nothing
    assert reply.endswith(b"connection: close\r\n\r\n" + SCORES)


def test_a_chunked_answer_to_an_old_client(traffic: Traffic, upstream: RawUpstream) -> None:
    upstream.script = lambda _: b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
    assert traffic.talk(b"GET /x HTTP/1.0\r\n\r\n") == b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nabc"
    assert upstream.seen[0].line == "GET /x HTTP/1.1"
    assert upstream.seen[0].header("host") == upstream.url.removeprefix("http://")


def test_trailers_end_here_and_are_nobodys_headers(traffic: Traffic, upstream: RawUpstream) -> None:
    upstream.script = lambda _: (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-late\r\n\r\n2\r\nab\r\n0\r\nx-late: 1\r\n\r\n"
    )
    for _ in range(2):
        status, headers, body = traffic.ask("GET", "/x", None)
        assert (status, body) == (200, b"ab")
        assert [name for name, _ in headers] == ["transfer-encoding"]
    assert [seen.on_connection for seen in upstream.seen] == [0, 1]


def test_an_answer_nobody_asked_for_goes_to_nobody(traffic: Traffic, upstream: RawUpstream) -> None:
    upstream.script = lambda _: answer(b"mine") + answer(b"nobody's")
    assert traffic.ask(path="/x")[2] == b"mine"
    upstream.script = lambda _: answer(b"mine too")
    assert traffic.ask(path="/x")[2] == b"mine too"
    assert [seen.on_connection for seen in upstream.seen] == [0, 0]


@pytest.mark.parametrize(
    "nonsense",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx-long: " + b"y" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 1001 + b"content-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: a\r\n b\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\ncontent-length: 0\r\n\r\n",
    ],
)
def test_an_answer_that_is_none_is_a_502(traffic: Traffic, upstream: RawUpstream, nonsense: bytes) -> None:
    upstream.script = lambda _: nonsense
    assert error_of(traffic.ask()) == (502, "UpstreamBrokeOff")
    traffic.dropped(drops.UPSTREAM_FAILED)


def test_header_values_pass_byte_for_byte(traffic: Traffic, upstream: RawUpstream) -> None:
    """Also those that are neither ASCII nor UTF-8; and the trace context of W3C like any other."""
    trace = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    odd = bytes(range(0x80, 0x100))
    upstream.script = lambda _: answer(b"", b"200 OK", b"x-odd: " + odd)
    reply = traffic.talk(
        b"GET /x HTTP/1.1\r\nHost: h\r\nX-Odd: " + odd + b"\r\nTraceparent: " + trace + b"\r\nTracestate: a=b,c=d\r\n"
        + CLOSE
    )  # fmt: skip
    assert b"x-odd: " + odd + b"\r\n" in reply
    seen = upstream.seen[0]
    assert (seen.header("x-odd") or "").encode("latin-1") == odd
    assert (seen.header("traceparent"), seen.header("tracestate")) == (trace.decode(), "a=b,c=d")


def test_requests_sent_at_once_are_answered_in_order(traffic: Traffic, upstream: RawUpstream) -> None:
    upstream.script = lambda seen: answer(seen.line.encode())
    requests = [b"POST /%d HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi" % number for number in range(50)]
    reply = traffic.talk(b"".join(requests) + b"GET /last HTTP/1.1\r\nHost: h\r\n" + CLOSE)
    places = [reply.index(b"POST /%d HTTP/1.1" % number) for number in range(50)]
    assert places == sorted(places)
    assert reply.endswith(b"GET /last HTTP/1.1")


def test_an_answer_before_the_end_of_the_request(traffic: Traffic, upstream: RawUpstream) -> None:
    upstream.read_bodies = False
    upstream.script = lambda _: answer(b"too much", b"413 Content Too Large")
    length = 3_000_000
    with socket.create_connection(("127.0.0.1", traffic.port), timeout=30) as client:
        client.sendall(b"POST /invocations HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % length + b"x" * 1000)
        stream = client.makefile("rb")
        assert stream.readline().startswith(b"HTTP/1.1 413")
        while stream.readline() != b"\r\n":
            pass
        assert stream.read(8) == b"too much"
        client.sendall(b"x" * (length - 1000))  # nobody wants it any more, and it is in nobody's way
        upstream.script = lambda _: answer(b"ok")
        client.sendall(b"GET /x HTTP/1.1\r\nHost: h\r\n" + CLOSE)
        assert stream.read().endswith(b"ok")
    traffic.dropped(drops.UPSTREAM_ERROR_STATUS)
    requests = [seen for seen in upstream.seen if "HTTP" in seen.line]  # besides the body, which the script left lying
    assert [seen.on_connection for seen in requests] == [0, 0]  # the first one was not fit for another request


def test_idle_connections_are_closed(start_traffic: StartTraffic, upstream: RawUpstream) -> None:
    closed = threading.Event()

    def script(seen: Seen) -> bytes | None:
        def watch() -> None:
            with suppress(OSError):
                seen.connection.recv(1, socket.MSG_PEEK)
            closed.set()

        threading.Thread(target=watch, daemon=True).start()
        return answer(b"ok")

    upstream.script = script
    traffic = start_traffic(upstream.url, limits=UpstreamLimits(idle_seconds=0.2))
    assert traffic.ask(path="/x")[2] == b"ok"
    assert closed.wait(30)
    assert traffic.ask(path="/x")[2] == b"ok"


def test_a_model_server_that_accepts_no_connection(start_traffic: StartTraffic) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        waiting = [socket.socket() for _ in range(3)]
        for each in waiting:  # fills what the kernel lets wait; further connections get no answer
            each.setblocking(False)
            each.connect_ex(address)
        traffic = start_traffic(f"http://127.0.0.1:{address[1]}", limits=UpstreamLimits(connect_timeout=0.3))
        status, error = error_of(traffic.ask())
        assert (status, error) == (504, "UpstreamTimeout")
        for each in waiting:
            each.close()
    traffic.dropped(drops.UPSTREAM_FAILED)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_idempotent_requests_that_cross_an_idle_close_are_sent_again(
    traffic: Traffic, upstream: RawUpstream, method: str
) -> None:
    upstream.script = lambda seen: answer(b"ok") if seen.on_connection == 0 else None
    for _ in range(2):
        assert traffic.ask(method, "/x", None)[2] == b"ok"
    assert [seen.on_connection for seen in upstream.seen] == [0, 1, 0]


def test_a_request_is_sent_again_only_once(traffic: Traffic, upstream: RawUpstream) -> None:
    replies: list[Callable[[Seen], bytes | None]] = [lambda _: answer(SCORES), lambda _: None, lambda _: None]
    upstream.script = lambda seen: replies.pop(0)(seen)
    assert traffic.ask()[0] == 200
    assert error_of(traffic.ask()) == (502, "UpstreamBrokeOff")
    assert replies == []


def test_a_scoring_request_that_began_to_be_answered_is_not_sent_again(traffic: Traffic, upstream: RawUpstream) -> None:
    def script(seen: Seen) -> bytes | None:
        if seen.on_connection == 0:
            return answer(SCORES)
        seen.connection.sendall(b"HTTP/1.1 2")
        return None

    upstream.script = script
    assert traffic.ask()[0] == 200
    assert error_of(traffic.ask()) == (502, "UpstreamBrokeOff")
    assert len(upstream.seen) == 2


def test_a_slow_reader_holds_up_the_model_server_and_not_memory(traffic: Traffic, upstream: RawUpstream) -> None:
    sent = [0]

    def script(seen: Seen) -> None:
        seen.connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 200000000\r\n\r\n")
        for _ in range(200):
            seen.connection.sendall(bytes(1_000_000))
            sent[0] += 1

    upstream.script = script
    with socket.create_connection(("127.0.0.1", traffic.port), timeout=30) as client:
        client.sendall(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
        before = -1
        while sent[0] != before or sent[0] == 0:  # until it is held up
            before = sent[0]
            assert not threading.Event().wait(0.3)
        assert sent[0] < 50
        received = 0
        while received < 200_000_000:
            received += len(client.recv(1 << 20))
    eventually(lambda: traffic.stats.requests == {200: 1})


def test_a_slow_model_server_holds_up_the_client_and_not_memory(traffic: Traffic, upstream: RawUpstream) -> None:
    upstream.read_bodies = False
    go_on = threading.Event()

    def script(seen: Seen) -> bytes:
        assert go_on.wait(60)
        seen.stream.read(100_000_000)
        return answer(b"ok")

    upstream.script = script
    sent = [0]
    connection = http.client.HTTPConnection("127.0.0.1", traffic.port, timeout=60)

    def upload() -> None:
        connection.putrequest("POST", "/x")
        connection.putheader("Content-Length", "100000000")
        connection.endheaders()
        for _ in range(100):
            connection.send(bytes(1_000_000))
            sent[0] += 1

    client = threading.Thread(target=upload)
    client.start()
    before = -1
    while sent[0] != before or sent[0] == 0:
        before = sent[0]
        assert not threading.Event().wait(0.3)
    assert sent[0] < 50
    go_on.set()
    client.join(60)
    assert connection.getresponse().read() == b"ok"
    connection.close()


def test_a_prefix_of_the_upstream(start_traffic: StartTraffic, upstream: RawUpstream) -> None:
    traffic = start_traffic(f"{upstream.url}/models/digits/")
    assert traffic.ask()[2] == SCORES
    assert upstream.seen[0].line == "POST /models/digits/invocations HTTP/1.1"
    assert traffic.spooled(1)[0].request_body == ASKED
