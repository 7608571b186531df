"""What one client may take of the traffic port, however it goes about it."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import suppress

import pytest

from fieldrepair_service import drops
from fieldrepair_service.client_connection import TrafficLimits
from fieldrepair_service.spool import SPOOLED, read_counters
from tests.service.traffic.conftest import RawUpstream, StartTraffic, Traffic, answer, eventually

HEAD = b"POST /invocations HTTP/1.1\r\nHost: h\r\n"


def error_in(reply: bytes) -> tuple[int, str]:
    head, _, body = reply.partition(b"\r\n\r\n")
    assert b"connection: close" in head
    return int(head.split()[1]), json.loads(body)["error"]


def is_closed(client: socket.socket) -> bool:
    return client.recv(1000) == b""


@pytest.mark.parametrize(
    "pieces",
    [
        [b"GET /x HTTP/1.1\r\nHost: h\r\nX-Long: " + b"y" * 5000 + b"\r\n\r\n"],
        [b"GET /x HTTP/1.1\r\nHost: h\r\nX-Endless: ", *[b"y" * 1000] * 5],
        [b"GET /" + b"x" * 5000],
        [b"GET /x HTTP/1.1\r\n" + b"x: y\r\n" * 800 + b"\r\n"],
    ],
)
def test_a_head_that_is_too_large(start_traffic: StartTraffic, upstream: RawUpstream, pieces: list[bytes]) -> None:
    limits = TrafficLimits(header_bytes=4000, headers=1000)
    assert error_in(start_traffic(upstream.url, traffic_limits=limits).talk(*pieces)) == (431, "HeadersTooLarge")
    assert not upstream.seen


def test_a_head_as_large_as_it_may_be(start_traffic: StartTraffic, upstream: RawUpstream) -> None:
    """A body that comes with it is not counted as a part of it."""
    traffic = start_traffic(upstream.url, traffic_limits=TrafficLimits(header_bytes=4000))
    head = b"POST /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 9000\r\nX-Long: " + b"y" * 3800
    assert traffic.talk(head + b"\r\n\r\n" + b"z" * 9000).startswith(b"HTTP/1.1 200")
    assert upstream.seen[0].body == b"z" * 9000


def test_too_many_header_fields(traffic: Traffic, upstream: RawUpstream) -> None:
    reply = traffic.talk(b"GET /x HTTP/1.1\r\nHost: h\r\n" + b"a: b\r\n" * 128 + b"\r\n")
    assert error_in(reply) == (431, "HeadersTooLarge")
    assert "128 header fields, got 129" in json.loads(reply.partition(b"\r\n\r\n")[2])["detail"]
    assert not upstream.seen


def test_a_head_that_trickles_in(start_traffic: StartTraffic, upstream: RawUpstream) -> None:
    """Each byte keeps the connection busy, and none of them makes the time for the whole longer."""
    traffic = start_traffic(upstream.url, traffic_limits=TrafficLimits(header_seconds=0.5))
    with socket.create_connection(("127.0.0.1", traffic.port), timeout=30) as client:
        stop = threading.Event()

        def trickle() -> None:
            client.sendall(HEAD + b"X-Slow: ")
            with suppress(OSError):
                while not stop.wait(0.05):
                    client.sendall(b"y")

        threading.Thread(target=trickle, daemon=True).start()
        reply = b""
        while b"\r\n\r\n" not in reply or not reply.endswith(b"}"):
            reply += client.recv(1000)
        stop.set()
    assert error_in(reply) == (408, "RequestTimeout")
    assert not upstream.seen


def test_a_connection_that_never_says_anything_is_closed(start_traffic: StartTraffic, upstream: RawUpstream) -> None:
    traffic = start_traffic(upstream.url, traffic_limits=TrafficLimits(header_seconds=0.3))
    with socket.create_connection(("127.0.0.1", traffic.port), timeout=30) as client:
        assert is_closed(client)


def test_an_idle_connection_is_closed(start_traffic: StartTraffic, upstream: RawUpstream) -> None:
    traffic = start_traffic(upstream.url, traffic_limits=TrafficLimits(keep_alive_seconds=0.3))
    with socket.create_connection(("127.0.0.1", traffic.port), timeout=30) as client:
        client.sendall(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
        assert is_closed(client)


def test_a_body_that_stops_coming(start_traffic: StartTraffic, upstream: RawUpstream) -> None:
    traffic = start_traffic(upstream.url, traffic_limits=TrafficLimits(body_seconds=0.3))
    assert error_in(traffic.talk(HEAD + b"Content-Length: 100\r\n\r\nhalf")) == (408, "RequestTimeout")
    assert not upstream.seen
    traffic.dropped(drops.CLIENT_DISCONNECTED)


def test_a_streamed_body_that_stops_coming(start_traffic: StartTraffic, upstream: RawUpstream) -> None:
    """It is on its way to the model server already, whose connection is then closed."""
    traffic = start_traffic(upstream.url, traffic_limits=TrafficLimits(body_seconds=0.3))
    reply = traffic.talk(HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
    assert error_in(reply) == (408, "RequestTimeout")
    traffic.dropped(drops.CLIENT_DISCONNECTED)
    active = traffic.upstreams.active
    assert active is not None
    eventually(lambda: active.in_flight == 0)


def test_more_connections_than_there_is_room_for(start_traffic: StartTraffic, upstream: RawUpstream) -> None:
    traffic = start_traffic(upstream.url, traffic_limits=TrafficLimits(connections=2))
    inside = [socket.create_connection(("127.0.0.1", traffic.port), timeout=30) for _ in range(2)]
    eventually(lambda: traffic.stats.connections == 2)
    assert error_in(traffic.talk()) == (503, "TooManyConnections")
    inside[0].close()
    eventually(lambda: traffic.stats.connections == 1)
    assert traffic.ask("GET", "/x", None)[0] == 200
    inside[1].close()


def test_a_client_that_asks_and_never_listens(traffic: Traffic, upstream: RawUpstream) -> None:
    """It has no more worked on for it than it takes."""
    upstream.script = lambda _: answer(bytes(1_000_000))
    with socket.create_connection(("127.0.0.1", traffic.port), timeout=60) as client:
        client.sendall(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n" * 100)
        before = -1
        while len(upstream.seen) != before or before == 0:
            before = len(upstream.seen)
            time.sleep(0.3)
        assert before < 30
        client.sendall(b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        received = 0
        while some := client.recv(1 << 20):
            received += len(some)
    assert received > 101_000_000
    assert len(upstream.seen) == 101


def test_a_client_that_hangs_up_with_requests_waiting(traffic: Traffic, upstream: RawUpstream) -> None:
    """While requests wait, nothing is read, so this is noticed late; and each of them is counted once all the same."""
    asked, go_on = threading.Event(), threading.Event()

    def script(_: object) -> bytes | None:
        asked.set()
        return answer(b"ok") if go_on.wait(30) else None

    upstream.script = script
    with socket.create_connection(("127.0.0.1", traffic.port), timeout=30) as client:
        client.sendall((HEAD + b"Content-Length: 2\r\n\r\nhi") * 3)
        assert asked.wait(30)
    go_on.set()
    eventually(lambda: traffic.stats.connections == 0 and sum(traffic.stats.requests.values()) == 3)
    counts = traffic.capture.counts()
    assert counts.accepted == 3
    eventually(lambda: read_counters(traffic.spool)[0].get(SPOOLED, 0) + counts.dropped.total() == 3)
