"""The request path against a scripted server: what goes in comes out byte for byte, and failures are told apart."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import http.client
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import uvloop

from fieldrepair_service import drops
from fieldrepair_service.capture import Capture, CaptureLimits
from fieldrepair_service.exchange import UNKNOWN_MODEL, Exchange
from fieldrepair_service.field_log import FieldLog
from fieldrepair_service.metrics import create_registry
from fieldrepair_service.logging_policy import LoggingPolicy
from fieldrepair_service.proxy import Proxy
from fieldrepair_service.shipping import Shipper
from fieldrepair_service.spool import SPOOLED, Spool, read_counters
from fieldrepair_service.traffic_server import TrafficServer
from fieldrepair_service.traffic_stats import TrafficStats
from fieldrepair_service.upstream import UpstreamLimits, Upstreams

SCORES = b'{"predictions": [[0.25, 0.75]]}'
ASKED = b'{"inputs": [[1.5, 2.5]]}'


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "waited 30 s in vain"
        time.sleep(0.01)


def answer(body: bytes = b"", status: bytes = b"200 OK", *headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 " + status, *headers, b"content-length: %d" % len(body), b"", body]
    return b"\r\n".join(lines)


@dataclass
class Seen:
    """A request as the upstream received it."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes
    connection: socket.socket
    stream: BinaryIO
    on_connection: int  # the how manieth of its connection, from 0

    def header(self, name: str) -> str | None:
        return dict(self.headers).get(name)


Script = Callable[[Seen], bytes | None]


@dataclass
class RawUpstream:
    """A server that answers with whatever bytes its script returns; None closes the connection."""

    script: Script = lambda _: answer(SCORES, b"200 OK", b"content-type: application/json")
    seen: list[Seen] = field(default_factory=list[Seen])
    read_bodies: bool = True
    connections: list[socket.socket] = field(default_factory=list[socket.socket])
    listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def start(self) -> None:
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.connections.append(connection)
                threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        with suppress(OSError), connection, connection.makefile("rb") as stream:
            count = 0
            while line := stream.readline():
                headers: list[tuple[str, str]] = []
                while (raw := stream.readline()) not in (b"\r\n", b""):
                    name, _, value = raw.decode("latin-1").rstrip("\r\n").partition(": ")
                    headers.append((name, value))
                seen = Seen(line.decode().strip(), headers, b"", connection, stream, count)
                if self.read_bodies:
                    seen.body = self._body(stream, dict(headers))
                count += 1
                self.seen.append(seen)
                reply = self.script(seen)
                if reply is None:
                    return
                connection.sendall(reply)

    @staticmethod
    def _body(stream: Any, headers: dict[str, str]) -> bytes:
        lower = {name.lower(): value for name, value in headers.items()}
        if lower.get("transfer-encoding") == "chunked":
            chunks: list[bytes] = []
            while size := int(stream.readline(), 16):
                chunks.append(stream.read(size))
                stream.readline()
            stream.readline()
            return b"".join(chunks)
        return stream.read(int(lower.get("content-length", 0)))


@dataclass
class Traffic:
    """A running traffic port and what stands behind it."""

    port: int
    upstreams: Upstreams
    capture: Capture
    stats: TrafficStats
    spool: Path
    loop: asyncio.AbstractEventLoop

    def switch(self, url: str, version: str = "1") -> None:
        asyncio.run_coroutine_threadsafe(self.upstreams.switch(url, "fashion", version), self.loop).result(30)

    def name_upstream(self, url: str, name: str, version: str) -> None:
        asyncio.run_coroutine_threadsafe(self.upstreams.switch(url, name, version), self.loop).result(30)

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def ask(
        self, method: str = "POST", path: str = "/invocations", body: Any = ASKED, headers: dict[str, str] | None = None
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = self.connect()
        try:
            connection.request(method, path, body, headers or {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()
        finally:
            connection.close()

    def spooled(self, count: int) -> list[Exchange]:
        eventually(lambda: read_counters(self.spool)[0].get(SPOOLED, 0) >= count)
        spool = Spool.attach(self.spool)
        items = spool.read(-1, limit=100_000, max_bytes=1 << 30)
        spool.close()
        return [item.exchange for item in items if item.exchange is not None]

    def dropped(self, reason: str, count: int = 1) -> None:
        eventually(lambda: self.capture.counts().dropped[reason] >= count)
        assert self.capture.counts().dropped[reason] == count


@pytest.fixture
def upstream() -> Generator[RawUpstream]:
    server = RawUpstream()
    server.start()
    yield server
    server.close()


StartTraffic = Callable[..., Traffic]


@pytest.fixture
def start_traffic(tmp_path: Path) -> Generator[StartTraffic]:
    stops: list[Callable[[], None]] = []

    def start(url: str | None, *, sync: bool = False, limits: UpstreamLimits | None = None, **options: Any) -> Traffic:
        listener = socket.create_server(("127.0.0.1", 0))
        stats = TrafficStats()
        ready = threading.Event()
        traffic: list[Traffic] = []
        server: list[TrafficServer] = []

        async def serve() -> None:
            upstreams = Upstreams(limits or UpstreamLimits())
            spool = tmp_path / f"spool-{len(stops)}.db"
            capture = Capture(spool, CaptureLimits(), sync=sync, on_new_spool=lambda: None)
            if url is not None:
                await upstreams.switch(url, "fashion", "1")
            proxy = Proxy(upstreams, capture, stats, policy=LoggingPolicy(**options))
            server.append(TrafficServer(proxy, drain_seconds=0))
            port = listener.getsockname()[1]
            traffic.append(Traffic(port, upstreams, capture, stats, spool, asyncio.get_running_loop()))
            ready.set()
            await server[0].serve(listener)
            await upstreams.close()
            capture.close()

        thread = threading.Thread(target=lambda: uvloop.run(serve()), daemon=True)
        thread.start()
        assert ready.wait(30)

        def stop() -> None:
            traffic[0].loop.call_soon_threadsafe(server[0].stop)
            thread.join(30)
            assert not thread.is_alive()

        stops.append(stop)
        return traffic[0]

    yield start
    for stop in stops:
        stop()


@pytest.fixture
def traffic(start_traffic: StartTraffic, upstream: RawUpstream) -> Traffic:
    return start_traffic(upstream.url)


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


# -- in our own name ---------------------------------------------------------------------------------------------


def error_of(reply: tuple[int, list[tuple[str, str]], bytes]) -> tuple[int, str]:
    status, headers, body = reply
    assert ("content-type", "application/json") in headers
    told = json.loads(body)
    assert told["detail"]
    return status, told["error"]


def test_no_upstream_yet(start_traffic: StartTraffic) -> None:
    traffic = start_traffic(None)
    assert error_of(traffic.ask()) == (503, "NoUpstream")
    traffic.dropped(drops.UPSTREAM_FAILED)


def test_an_upstream_that_is_not_there(start_traffic: StartTraffic) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free = listener.getsockname()[1]
    traffic = start_traffic(f"http://127.0.0.1:{free}")
    assert error_of(traffic.ask()) == (502, "UpstreamUnreachable")
    traffic.dropped(drops.UPSTREAM_FAILED)
    assert traffic.stats.requests == {502: 1}


def test_an_upstream_that_breaks_off_before_its_answer(traffic: Traffic, upstream: RawUpstream) -> None:
    upstream.script = lambda _: None
    assert error_of(traffic.ask()) == (502, "UpstreamBrokeOff")
    assert error_of(traffic.ask(path="/other")) == (502, "UpstreamBrokeOff")
    assert len(upstream.seen) == 2  # on fresh connections: nothing was asked twice
    traffic.dropped(drops.UPSTREAM_FAILED)


def test_an_upstream_that_talks_nonsense(traffic: Traffic, upstream: RawUpstream) -> None:
    upstream.script = lambda _: b"SSH-2.0-OpenSSH\r\n\r\n"
    assert error_of(traffic.ask())[0] == 502


def test_an_upstream_that_is_too_slow(start_traffic: StartTraffic, upstream: RawUpstream) -> None:
    forever = threading.Event()
    upstream.script = lambda _: answer(b"late") if forever.wait(30) else None
    traffic = start_traffic(upstream.url, limits=UpstreamLimits(total_timeout=0.2))
    assert error_of(traffic.ask()) == (504, "UpstreamTimeout")
    forever.set()
    traffic.dropped(drops.UPSTREAM_FAILED)


@pytest.mark.parametrize(
    "half", [b"content-length: 100\r\n\r\nhalf an answer", b"transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"]
)
def test_half_an_answer_ends_in_a_broken_connection(traffic: Traffic, upstream: RawUpstream, half: bytes) -> None:
    def script(seen: Seen) -> None:
        seen.connection.sendall(b"HTTP/1.1 200 OK\r\n" + half)

    upstream.script = script
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        traffic.ask()
    traffic.dropped(drops.UPSTREAM_FAILED)
    assert traffic.stats.broken_answers == 1
    upstream.script = lambda _: answer(b"ok")
    assert traffic.ask(path="/x")[2] == b"ok"


def close_at_second_request(seen: Seen) -> bytes | None:
    return answer(SCORES) if seen.on_connection == 0 else None


def test_a_scoring_request_that_crosses_an_idle_close_is_sent_again(traffic: Traffic, upstream: RawUpstream) -> None:
    upstream.script = close_at_second_request
    assert traffic.ask()[0] == 200
    assert traffic.ask()[0] == 200
    assert [seen.on_connection for seen in upstream.seen] == [0, 1, 0]
    assert upstream.seen[1].body == upstream.seen[2].body == ASKED
    assert len(traffic.spooled(2)) == 2


@pytest.mark.parametrize("path", ["/other", "/v2/models/digits/infer", "/predictions/digits"])
def test_no_other_post_is_sent_twice(traffic: Traffic, upstream: RawUpstream, path: str) -> None:
    """In the other protocols a server may keep state from request to request."""
    upstream.script = close_at_second_request
    assert traffic.ask(path=path)[0] == 200
    assert traffic.ask(path=path)[0] == 502
    assert len(upstream.seen) == 2


# -- the client hangs up -----------------------------------------------------------------------------------------


def test_a_client_that_hangs_up_ends_the_upstreams_work(traffic: Traffic, upstream: RawUpstream) -> None:
    asked, noticed = threading.Event(), threading.Event()

    def script(seen: Seen) -> None:
        asked.set()
        if seen.connection.recv(1) == b"":
            noticed.set()

    upstream.script = script
    connection = traffic.connect()
    connection.request("POST", "/invocations", ASKED, {"Content-Type": "application/json"})
    assert asked.wait(30)
    connection.close()
    assert noticed.wait(30)
    traffic.dropped(drops.CLIENT_DISCONNECTED)
    assert traffic.stats.requests == {499: 1}
    eventually(lambda: traffic.upstreams.active is not None and traffic.upstreams.active.in_flight == 0)


@pytest.mark.parametrize("length", [b"100", b"2000000"])
def test_a_client_that_hangs_up_in_its_request(traffic: Traffic, upstream: RawUpstream, length: bytes) -> None:
    with socket.create_connection(("127.0.0.1", traffic.port)) as client:
        client.sendall(b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: " + length + b"\r\n\r\nhalf")
        time.sleep(0.05)
    traffic.dropped(drops.CLIENT_DISCONNECTED)
    assert traffic.ask(path="/x")[0] == 200


# -- what is logged ----------------------------------------------------------------------------------------------


def test_a_scoring_exchange_is_captured_whole(traffic: Traffic) -> None:
    before = time.time_ns() // 1_000_000
    traffic.ask(headers={"Content-Type": "application/json; charset=utf-8", "X-Request-Id": "abc"})
    exchange = traffic.spooled(1)[0]
    assert before - 1 <= exchange.timestamp_ms <= time.time_ns() // 1_000_000
    assert exchange.client_request_id == "abc"
    assert (exchange.model_name, exchange.model_version, exchange.protocol) == ("fashion", "1", "mlflow")
    assert (exchange.status_code, exchange.sampling_fraction) == (200, 1.0)
    assert exchange.execution_time_ms > 0
    assert exchange.request_type == "application/json; charset=utf-8"
    assert exchange.answer_type == "application/json"
    assert (exchange.request_body, exchange.answer_body) == (ASKED, SCORES)


def test_only_scoring_is_captured(traffic: Traffic, upstream: RawUpstream) -> None:
    traffic.ask("GET", "/ping", None)
    traffic.ask("GET", "/invocations", None)
    traffic.ask("POST", "/v2/models", b"{}")
    assert traffic.capture.counts().accepted == 0
    upstream.script = lambda _: answer(b"no", b"400 Bad Request")
    traffic.ask()
    traffic.dropped(drops.UPSTREAM_ERROR_STATUS)
    assert traffic.capture.counts().accepted == 1
    assert traffic.stats.requests == {200: 3, 400: 1}


def test_sampling(start_traffic: StartTraffic, upstream: RawUpstream) -> None:
    traffic = start_traffic(upstream.url, sampling_fraction=0.5)
    for _ in range(60):
        assert traffic.ask()[2] == SCORES
    eventually(lambda: traffic.capture.counts().accepted == 60)
    left_out = traffic.capture.counts().dropped[drops.NOT_SAMPLED]
    assert 5 < left_out < 55
    exchanges = traffic.spooled(60 - left_out)
    assert {exchange.sampling_fraction for exchange in exchanges} == {0.5}
    assert len(exchanges) == 60 - left_out


def test_too_large_a_body_is_counted(start_traffic: StartTraffic, upstream: RawUpstream) -> None:
    traffic = start_traffic(upstream.url, max_logged_body=1000)
    assert traffic.ask(body=b" " * 1001)[2] == SCORES
    upstream.script = lambda _: answer(b" " * 1001)
    assert len(traffic.ask()[2]) == 1001
    traffic.dropped(drops.BODY_TOO_LARGE, 2)


def test_in_sync_mode_an_answer_is_on_disk_before_it_is_whole(
    start_traffic: StartTraffic, upstream: RawUpstream
) -> None:
    traffic = start_traffic(upstream.url, sync=True)
    connection = traffic.connect()
    for count in range(1, 21):
        connection.request("POST", "/invocations", ASKED, {"Content-Type": "application/json"})
        assert connection.getresponse().read() == SCORES
        assert read_counters(traffic.spool)[0][SPOOLED] == count
    connection.close()
    assert traffic.capture.counts().late_sync == 0


@pytest.mark.parametrize("sync", [False, True])
def test_requests_of_every_protocol_end_in_the_field_log(
    start_traffic: StartTraffic, upstream: RawUpstream, tmp_path: Path, sync: bool
) -> None:
    """With what their decoders need of path and headers, under the model they name where the upstream has no name."""
    traffic = start_traffic(None, sync=sync)
    traffic.name_upstream(upstream.url, UNKNOWN_MODEL, UNKNOWN_MODEL)
    v2_head = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}]}'
    v2_answer = (
        b'{"outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}]}'
    )
    asked, scores = struct.pack("<2f", 1.5, 2.5), struct.pack("<2f", 0.25, 0.75)
    length = b"Inference-Header-Content-Length: %d" % len(v2_answer)
    json_type = b"content-type: application/json"
    replies = {
        "/v2/models/digits/versions/7/infer": answer(v2_answer + scores, b"200 OK", length),
        "/predictions/digits/2.0": answer(b"[[0.25, 0.75]]", b"200 OK", json_type),
        "/invocations": answer(SCORES, b"200 OK", json_type),
    }
    upstream.script = lambda seen: replies[seen.line.split()[1]]
    as_json = {"Content-Type": "application/json"}
    traffic.ask(path="/invocations")
    traffic.ask(
        path="/v2/models/digits/versions/7/infer",
        body=v2_head + asked,
        headers={"Inference-Header-Content-Length": str(len(v2_head)), "Content-Type": "application/octet-stream"},
    )
    traffic.ask(path="/predictions/digits/2.0", body=b"[[1.5, 2.5]]", headers=as_json)
    exchanges = traffic.spooled(3)
    assert [each.protocol for each in exchanges] == ["mlflow", "open_inference", "torchserve"]
    assert [each.request_path for each in exchanges] == ["/invocations", *list(replies)[:2]]
    spool, log = Spool.attach(traffic.spool), FieldLog.open(tmp_path / "field_log")
    assert Shipper(spool, log).ship(10) == 3
    spool.close()
    rows = log.read_after({}, limit=10)
    assert rows.inputs().tolist() == [[1.5, 2.5]] * 3
    assert rows.scores().tolist() == [[0.25, 0.75]] * 3
    assert [(row["protocol"], row["model_name"], row["model_version"]) for row in rows.to_table().to_pylist()] == [
        ("mlflow", UNKNOWN_MODEL, UNKNOWN_MODEL),
        ("open_inference", "digits", "7"),
        ("torchserve", "digits", "2.0"),
    ]
    assert traffic.stats.undecoded == 0


def test_requests_in_no_known_protocol_are_passed_on_and_counted(traffic: Traffic, upstream: RawUpstream) -> None:
    for method, path in (("POST", "/v2/models/digits/generate"), ("GET", "/v2/models/digits/infer"), ("GET", "/ping")):
        status, _, body = traffic.ask(method, path, None)
        assert (status, body) == (200, SCORES)
    traffic.ask()
    registry = create_registry(traffic.stats, traffic.capture, traffic.upstreams, traffic.spool, lambda: 1)
    assert registry.get_sample_value("fieldrepair_undecoded_requests_total") == 3
    assert len(traffic.spooled(1)) == 1
    assert traffic.capture.counts().accepted == 1


# -- the swap ----------------------------------------------------------------------------------------------------


def test_a_swap_under_load_fails_nobody_and_is_logged_truly(start_traffic: StartTraffic) -> None:
    servers = {str(version): RawUpstream() for version in range(1, 4)}
    for version, server in servers.items():
        server.script = lambda _, version=version: answer(json.dumps({"predictions": [int(version)]}).encode())
        server.start()
    traffic = start_traffic(servers["1"].url)
    stop = threading.Event()
    failures: list[object] = []
    answers: list[bytes] = []

    def ask(connection: http.client.HTTPConnection) -> None:
        try:
            connection.request("POST", "/invocations", ASKED, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answers.append(response.read())
            if response.status != 200:
                failures.append((response.status, answers[-1]))
        except (OSError, http.client.HTTPException) as error:
            failures.append(error)

    def hammer() -> None:
        connection = traffic.connect()
        while not stop.is_set():
            ask(connection)
        connection.close()

    threads = [threading.Thread(target=hammer) for _ in range(4)]
    for thread in threads:
        thread.start()
    for swap in range(12):
        eventually(lambda swap=swap: len(answers) > 40 * (swap + 1))
        version = str(swap % 3 + 1)
        traffic.switch(servers[version].url, version)
    stop.set()
    for thread in threads:
        thread.join(30)
    assert not failures
    eventually(lambda: not traffic.upstreams.draining)
    exchanges = traffic.spooled(len(answers))
    assert len(exchanges) == len(answers)
    assert {json.loads(exchange.answer_body)["predictions"][0] for exchange in exchanges} == {1, 2, 3}
    for exchange in exchanges:
        assert json.loads(exchange.answer_body)["predictions"] == [int(exchange.model_version)]
    for server in servers.values():
        server.close()


def test_a_request_in_flight_finishes_where_it_is(start_traffic: StartTraffic, upstream: RawUpstream) -> None:
    go_on, asked = threading.Event(), threading.Event()

    def script(_: Seen) -> bytes | None:
        asked.set()
        return answer(b"from the old one") if go_on.wait(30) else None

    upstream.script = script
    newer = RawUpstream(script=lambda _: answer(b"from the new one"))
    newer.start()
    traffic = start_traffic(upstream.url)
    replies: list[bytes] = []
    waiting = threading.Thread(target=lambda: replies.append(traffic.ask(path="/x")[2]))
    waiting.start()
    assert asked.wait(30)
    traffic.switch(newer.url, "2")
    assert traffic.ask(path="/x")[2] == b"from the new one"
    assert [(old.model_version, old.in_flight) for old in traffic.upstreams.draining] == [("1", 1)]
    go_on.set()
    waiting.join(30)
    assert replies == [b"from the old one"]
    eventually(lambda: not traffic.upstreams.draining)
    newer.close()
