"""Failures of model servers and of clients are told apart, and cost no more than they must."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time

import pytest

from fieldrepair_service import drops
from fieldrepair_service.upstream import UpstreamLimits
from tests.service.traffic.conftest import ASKED, SCORES, RawUpstream, Seen, StartTraffic, Traffic, answer, eventually

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
