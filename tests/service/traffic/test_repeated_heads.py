"""Heads that come again are passed on without being parsed, and nobody can tell but by the time it takes."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fieldrepair_service.client_connection import ClientConnection, TrafficLimits
from fieldrepair_service.drops import CLIENT_DISCONNECTED
from fieldrepair_service.forwarding import Forwarding
from fieldrepair_service.http_message import RawHeaders
from fieldrepair_service.known_answer import KnownAnswer
from fieldrepair_service.known_request import KnownRequest
from fieldrepair_service.proxy import Proxy
from fieldrepair_service.repeated_head import Cut, Memory, cut, cut_own
from fieldrepair_service.spool import SPOOLED, read_counters
from tests.service.traffic.conftest import SCORES, RawUpstream, Seen, StartTraffic, Traffic, answer, eventually

JSON = b"content-type: application/json"


def _request(body: bytes, *headers: bytes, line: bytes = b"POST /invocations HTTP/1.1") -> bytes:
    return b"\r\n".join([line, b"Host: models", *headers, b"Content-Length: %d" % len(body), b"", body])


@dataclass
class Client:
    """One kept-alive connection."""

    socket: socket.socket
    received: bytes = b""  # and not yet taken

    def ask(self, *pieces: bytes) -> bytes:
        """Send, and give the whole answer as it came."""
        for piece in pieces:
            self.socket.sendall(piece)
        return self.answer()

    def answer(self) -> bytes:
        while b"\r\n\r\n" not in self.received:
            self._more()
        head = self.received.partition(b"\r\n\r\n")[0]
        size = len(head) + 4 + int(head.lower().rpartition(b"content-length: ")[2].partition(b"\r\n")[0])
        while len(self.received) < size:
            self._more()
        answer, self.received = self.received[:size], self.received[size:]
        return answer

    def _more(self) -> None:
        some = self.socket.recv(65536)
        assert some, "the connection was closed"
        self.received += some


@contextmanager
def connected(port: int) -> Generator[Client]:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        yield Client(connection)


@pytest.fixture
def client(traffic: Traffic) -> Generator[Client]:
    with connected(traffic.port) as client:
        yield client


@pytest.fixture
def known_requests(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The bodies of requests whose head was known."""
    bodies: list[bytes] = []
    whole = Forwarding.whole

    def watched(proxy: Proxy, client: ClientConnection, known: KnownRequest, data: bytes, at: int) -> Forwarding | None:
        request = whole(proxy, client, known, data, at)
        if request is not None:
            bodies.append(data[at:])
        return request

    monkeypatch.setattr(Forwarding, "whole", watched)
    return bodies


@pytest.fixture
def known_answers(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each answer that could be known was passed on as such."""
    passed: list[bool] = []
    on_known_answer = Forwarding.on_known_answer

    def watched(self: Forwarding, known: KnownAnswer, data: bytes, at: int) -> bool:
        passed.append(on_known_answer(self, known, data, at))
        return passed[-1]

    monkeypatch.setattr(Forwarding, "on_known_answer", watched)
    return passed


# -- what arrives ------------------------------------------------------------------------------------------------


def test_a_known_head_is_passed_on_with_each_body_and_length(
    client: Client, traffic: Traffic, upstream: RawUpstream, known_requests: list[bytes], known_answers: list[bool]
) -> None:
    upstream.script = lambda seen: answer(seen.body[::-1], b"200 OK", JSON, b"X-Model: 7")
    bodies = [b"[1]", b"[22]", b"[3]", b"[" + b"4" * 5000 + b"]", b"", b"[5]"]
    for body in bodies:
        got = client.ask(_request(body, b"Content-Type: application/json", b"X-Tag: a"))
        lines = got.partition(b"\r\n\r\n")[0].split(b"\r\n")
        assert lines == [b"HTTP/1.1 200 OK", JSON, b"x-model: 7", b"content-length: %d" % len(body)]
        assert got.endswith(b"\r\n\r\n" + body[::-1])
    eventually(lambda: known_requests == bodies[1:])
    eventually(lambda: known_answers == [True] * (len(bodies) - 1))
    assert [seen.body for seen in upstream.seen] == bodies
    expected = [("host", "models"), ("content-type", "application/json"), ("x-tag", "a")]
    for seen, body in zip(upstream.seen, bodies, strict=True):
        assert seen.line == "POST /invocations HTTP/1.1"
        assert seen.headers == [*expected, ("content-length", str(len(body)))]
    logged = traffic.spooled(len(bodies))
    assert [(each.request_body, each.answer_body) for each in logged] == [(body, body[::-1]) for body in bodies]
    assert {(each.request_type, each.answer_type) for each in logged} == {("application/json", "application/json")}
    eventually(lambda: traffic.stats.requests == {200: len(bodies)})
    assert sum(traffic.stats.upstream_seconds.counts) == len(bodies)


@pytest.mark.parametrize(
    "other",
    [
        _request(b"[2]", line=b"POST /other HTTP/1.1"),
        _request(b"[2]", b"X-Request-Id: 5"),
        _request(b"[2]", line=b"PUT /invocations HTTP/1.1"),
        b"GET /ping HTTP/1.1\r\nHost: models\r\n\r\n",
        b"POST /invocations HTTP/1.1\r\nHost: models\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n[2]\r\n0\r\n\r\n",
        _request(b"[2]").replace(b": 3", b": 03"),
    ],
)
def test_another_head_in_between_is_read_as_what_it_is(client: Client, upstream: RawUpstream, other: bytes) -> None:
    for asked in (_request(b"[1]"), _request(b"[1]"), other, _request(b"[3]")):
        client.ask(asked)
    with connected(client.socket.getpeername()[1]) as alone:
        alone.ask(other)
    mixed, lone = upstream.seen[2], upstream.seen[4]
    assert (mixed.line, mixed.headers, mixed.body) == (lone.line, lone.headers, lone.body)
    assert upstream.seen[3].body == b"[3]"


def test_pieces_and_pipelines_go_to_the_parser(
    client: Client, upstream: RawUpstream, known_requests: list[bytes]
) -> None:
    client.ask(_request(b"[1]"))
    whole = _request(b"[2]")
    for at in (1, 20, len(whole) - 4, len(whole) - 1):
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.socket.sendall(whole[:at])
        eventually(lambda: True)
        client.ask(whole[at:])
    client.socket.sendall(_request(b"[3]") + _request(b"[4]", line=b"POST /other HTTP/1.1"))
    client.answer()
    client.answer()
    client.ask(_request(b"[5]"))
    assert [seen.body for seen in upstream.seen] == [b"[1]", *[b"[2]"] * 4, b"[3]", b"[4]", b"[5]"]
    assert [seen.line for seen in upstream.seen][-3:] == [
        "POST /invocations HTTP/1.1", "POST /other HTTP/1.1", "POST /invocations HTTP/1.1"
    ]  # fmt: skip
    eventually(lambda: known_requests[-1:] == [b"[5]"])


def _send_apart(client: Client, request: bytes, *, body_until: int | None = None) -> None:
    """Head and body one after the other, as Python's own client does."""
    head, end, body = request.partition(b"\r\n\r\n")
    client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.socket.sendall(head + end)
    time.sleep(0.02)
    client.socket.sendall(body[:body_until])


def test_a_known_head_of_a_request_waits_for_its_body(
    client: Client, traffic: Traffic, upstream: RawUpstream, known_requests: list[bytes]
) -> None:
    bodies = [b"[1]", b"[22]", b"[333]"]
    for body in bodies:
        _send_apart(client, _request(body))
        client.answer()
    assert known_requests == bodies[1:]
    assert [seen.body for seen in upstream.seen] == bodies
    logged = traffic.spooled(len(bodies))
    assert [each.request_body for each in logged] == bodies
    eventually(lambda: traffic.stats.requests == {200: len(bodies)})
    assert traffic.stats.request_seconds.total >= 0.02 * len(bodies), "the time of a request begins with its head"


def test_a_known_head_without_its_body_is_a_request_that_stopped_coming(
    start_traffic: StartTraffic, upstream: RawUpstream
) -> None:
    traffic = start_traffic(upstream.url, traffic_limits=TrafficLimits(body_seconds=0.5))
    with connected(traffic.port) as client:
        client.ask(_request(b"[1]"))
        _send_apart(client, _request(b"[2]"), body_until=0)
        assert client.answer().startswith(b"HTTP/1.1 408 ")
    with connected(traffic.port) as client:
        client.ask(_request(b"[1]"))
        _send_apart(client, _request(b"[2]"), body_until=0)
    eventually(lambda: traffic.stats.requests == {200: 2, 408: 1, 499: 1})
    assert traffic.capture.counts().dropped[CLIENT_DISCONNECTED] == 2


def test_who_has_sent_a_known_head_is_answered_before_the_port_closes(
    traffic: Traffic, known_requests: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    connections: list[ClientConnection] = []

    def opened(_: Proxy, client: ClientConnection) -> bool:
        connections.append(client)
        return True

    monkeypatch.setattr(Proxy, "opened", opened)
    with connected(traffic.port) as client:
        client.ask(_request(b"[1]"))
        _send_apart(client, _request(b"[2]"), body_until=0)
        time.sleep(0.05)
        traffic.loop.call_soon_threadsafe(connections[0].stop)
        time.sleep(0.05)
        assert client.ask(b"[2]").endswith(SCORES)
        assert client.socket.recv(1) == b""
    assert known_requests == []


def test_two_requests_at_once_teach_nothing(client: Client, upstream: RawUpstream, known_requests: list[bytes]) -> None:
    """The first's request line and the second's head belong to nobody."""
    client.socket.sendall(_request(b"[1]") + _request(b"[2]", line=b"POST /v2/models/m/infer HTTP/1.1"))
    client.answer()
    client.answer()
    client.ask(_request(b"[3]"))
    assert known_requests == []
    assert upstream.seen[2].line == "POST /invocations HTTP/1.1"


def test_a_switch_sends_a_known_head_to_the_new_server(
    client: Client, start_traffic: StartTraffic, traffic: Traffic
) -> None:
    client.ask(_request(b"[1]"))
    client.ask(_request(b"[2]"))
    other = RawUpstream()
    other.start()
    traffic.switch(other.url + "/prefix", "2")
    client.ask(_request(b"[3]"))
    client.ask(_request(b"[4]"))
    assert [(seen.line, seen.body) for seen in other.seen] == [
        ("POST /prefix/invocations HTTP/1.1", b"[3]"), ("POST /prefix/invocations HTTP/1.1", b"[4]")
    ]  # fmt: skip
    assert [each.model_version for each in traffic.spooled(4)] == ["1", "1", "2", "2"]
    other.close()


def test_a_known_request_that_met_a_closed_connection_is_sent_again_with_its_own_length(
    client: Client, upstream: RawUpstream, known_requests: list[bytes]
) -> None:
    upstream.script = lambda seen: None if seen.body == b"[22]" and seen.on_connection else answer(b"{}")
    client.ask(_request(b"[1]"))
    assert client.ask(_request(b"[22]")).startswith(b"HTTP/1.1 200 OK\r\n")
    eventually(lambda: known_requests == [b"[22]"])
    assert [(seen.body, seen.header("content-length")) for seen in upstream.seen] == [
        (b"[1]", "3"), (b"[22]", "4"), (b"[22]", "4")
    ]  # fmt: skip


def test_kept_headers_are_those_of_this_request(
    start_traffic: StartTraffic, upstream: RawUpstream, known_requests: list[bytes]
) -> None:
    traffic = start_traffic(upstream.url, kept_headers=frozenset((b"content-length", b"x-tag")))
    with connected(traffic.port) as client:
        for body in (b"[1]", b"[22]"):
            client.ask(_request(body, b"X-Tag: a"))
    eventually(lambda: known_requests == [b"[22]"])
    kept = [json.loads(each.headers) for each in traffic.spooled(2)]
    assert kept == [{"x-tag": "a", "content-length": "3"}, {"x-tag": "a", "content-length": "4"}]


# -- what comes back ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "headers", "known"),
    [
        (b"200 OK", [b"date: now"], True),
        (b"200 OK", [b"date: %d"], True),  # by the second connection, which asks the same just after
        (b"20%d OK", [], True),
        (b"503 Busy", [b"retry-after: 1"], True),
        (b"200 OK", [b"connection: keep-alive, x-own", b"x-own: 1"], False),
        (b"200 OK", [b"Connection: keep-alive", b"X-Name: V"], True),
    ],
)
def test_answers_are_the_same_as_on_a_connection_of_their_own(
    client: Client, traffic: Traffic, upstream: RawUpstream, known_answers: list[bool],
    status: bytes, headers: list[bytes], known: bool,
) -> None:  # fmt: skip
    def script(seen: Seen) -> bytes:
        return answer(seen.body, *(each.replace(b"%d", seen.body) for each in (status, *headers)))

    upstream.script = script
    for n in range(4):
        got = client.ask(_request(b"%d" % n))
        with connected(traffic.port) as alone:
            assert alone.ask(_request(b"%d" % n)) == got
    if known:
        eventually(lambda: known_answers.count(True) >= 3)
    assert any(known_answers) is known


def test_a_client_that_closes_gets_its_answer_with_the_header_that_says_so(
    client: Client, traffic: Traffic, known_answers: list[bool]
) -> None:
    for _ in range(2):
        client.ask(_request(b"[1]"))
    last = traffic.talk(_request(b"[1]", b"Connection: close"))
    assert b"connection: close\r\n" in last
    eventually(lambda: known_answers == [True, False])


def test_an_answer_in_two_pieces_is_passed_on_whole(client: Client, upstream: RawUpstream) -> None:
    def in_pieces(seen: Seen) -> bytes:
        whole = answer(b"0123456789")
        seen.connection.sendall(whole[: 20 + seen.on_connection])
        return whole[20 + seen.on_connection :]

    upstream.script = in_pieces
    assert {client.ask(_request(b"[%d]" % n)).rpartition(b"\r\n")[2] for n in range(30)} == {b"0123456789"}


@pytest.mark.parametrize(("cuts", "known"), [((0,), True), ((0, 4), False), ((-3,), False), ((4,), False)])
def test_a_known_head_waits_for_its_body(
    client: Client, upstream: RawUpstream, known_answers: list[bool], cuts: tuple[int, ...], known: bool
) -> None:
    """Servers write head and body one after the other; ``cuts`` are places between pieces, from the body's begin on."""

    def in_pieces(seen: Seen) -> bytes:
        whole = answer(b"[0.25, 0.75]", b"200 OK", JSON)
        seen.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = whole.index(b"\r\n\r\n") + 4
        for begin, end in pairwise((-head, *cuts)):
            seen.connection.sendall(whole[head + begin : head + end])
            time.sleep(0.02)
        return whole[head + cuts[-1] :]

    upstream.script = in_pieces
    first = client.ask(_request(b"[1]"))
    assert [client.ask(_request(b"[1]")) for _ in range(3)] == [first] * 3
    eventually(lambda: known_answers == [True] * 3 if known else not known_answers)


@pytest.mark.parametrize("body", [b"", b"[0."])
def test_a_known_head_without_its_body_ends_like_one_that_is_not_known(
    traffic: Traffic, upstream: RawUpstream, body: bytes
) -> None:
    def breaks_off(seen: Seen) -> bytes | None:
        whole = answer(b"[0.25, 0.75]", b"200 OK", JSON)
        if seen.body == b"whole":
            return whole
        seen.connection.sendall(whole[: whole.index(b"\r\n\r\n") + 4])
        time.sleep(0.02)
        seen.connection.sendall(body)
        return None

    upstream.script = breaks_off
    unknown = traffic.talk(_request(b"broken"))
    with connected(traffic.port) as client:
        client.ask(_request(b"whole"))
        client.socket.sendall(_request(b"broken"))
        known = b""
        while len(known) < len(unknown) and (some := client.socket.recv(65536)):
            known += some
    assert known == unknown
    eventually(lambda: traffic.stats.broken_answers == 2)
    eventually(lambda: traffic.stats.requests == {200: 3})


def test_in_sync_mode_a_known_answer_waits_for_the_disk(start_traffic: StartTraffic, upstream: RawUpstream) -> None:
    traffic = start_traffic(upstream.url, sync=True)
    with connected(traffic.port) as client:
        for count in range(1, 5):
            client.ask(_request(b"[1]"))
            assert read_counters(traffic.spool)[0][SPOOLED] == count


# -- the cut itself ----------------------------------------------------------------------------------------------

_TOKEN = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12).map(str.encode)
_VALUE = st.text('abcXYZ019 ,;=/"', max_size=20).map(str.strip).map(str.encode)
_HEADERS = st.lists(st.tuples(_TOKEN, _VALUE), max_size=6)


@given(_HEADERS, _HEADERS, st.binary(max_size=300), st.binary(max_size=300))
def test_a_cut_finds_the_body_of_its_head_and_of_nothing_else(
    first: RawHeaders, second: RawHeaders, body: bytes, other: bytes
) -> None:
    headers = [*first, (b"content-length", b"%d" % len(body)), *second]
    head = b"POST /x HTTP/1.1\r\n" + b"".join(name.title() + b": " + value + b"\r\n" for name, value in headers)
    found = cut(head + b"\r\n" + body, headers)
    if found is None:  # names may repeat or speak about the connection
        names = [name for name, _ in headers]
        assert names.count(b"content-length") > 1 or {b"te", b"upgrade", b"trailer", b"connection", b"expect"} & {
            *names
        }
        return
    whole = found.with_length(other)
    assert whole.endswith(b"\r\n\r\n" + other)
    assert whole[found.body_in(whole) :] == other
    assert found.body_in(whole) > 0
    assert found.body_in(whole + b"x") == 0
    assert found.body_in(whole[:-1]) == 0
    begin = found.body_in(whole)
    assert found.is_all_of(whole[:begin])
    assert found.is_all_of(whole) is (not other)
    assert not found.is_all_of(whole[: begin - 1])


@given(st.binary(max_size=60), st.integers(0, 100), st.integers(0, 255))
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_one_changed_byte_of_the_head_is_another_head(body: bytes, at: int, byte: int) -> None:
    headers = [(b"host", b"m"), (b"content-length", b"%d" % len(body)), (b"x-tag", b"a")]
    head = b"POST /x HTTP/1.1\r\n" + b"".join(b"%b: %b\r\n" % each for each in headers) + b"\r\n"
    found = cut(head + body, headers)
    assert found is not None
    at %= len(head)
    changed = head[:at] + bytes([byte]) + head[at + 1 :]
    if changed != head:
        assert found.body_in(changed + body) == 0


@pytest.mark.parametrize(
    ("lines", "headers"),
    [
        (b"Host: m\r\n\r\n", [(b"host", b"m")]),  # no length
        (b"Content-Length: 1\r\nContent-Length: 1\r\n\r\n", [(b"content-length", b"1")] * 2),
        (b"Content-Length:  1\r\n\r\n", [(b"content-length", b"1")]),  # an odd space
        (b"Content-Length: 1\n\n", [(b"content-length", b"1")]),
        (b"Content-Length: 1\r\nConnection: close\r\n\r\n", [(b"content-length", b"1"), (b"connection", b"close")]),
        (b"Content-Length: 1\r\nTE: trailers\r\n\r\n", [(b"content-length", b"1"), (b"te", b"trailers")]),
        (b"Content-Length: 1\r\nA: " + b"x" * 5000 + b"\r\n\r\n", [(b"content-length", b"1"), (b"a", b"x" * 5000)]),
    ],
)
def test_what_leaves_any_doubt_is_not_cut(lines: bytes, headers: RawHeaders) -> None:
    assert cut(b"POST /x HTTP/1.1\r\n" + lines + b"1", headers) is None


def test_digits_are_digits() -> None:
    found = Cut(b"POST /x HTTP/1.1\r\ncontent-length: ", b"\r\n\r\n")
    for digits in (b"+1", b"-1", b"1_0", b" 1", b"", b"0x1", b"\xd9\xa1", b"1" * 11):
        assert found.body_in(found.before + digits + found.after + b"1") == 0
    assert found.body_in(found.before + b"1" + found.after + b"1") == len(found.before) + 5


def test_a_head_of_our_own_is_cut_at_its_length() -> None:
    head = b"HTTP/1.1 200 OK\r\nx: content-length: 9\r\ncontent-length: 12\r\nb: c\r\n\r\n"
    assert cut_own(head) == Cut(head[:55], b"\r\nb: c\r\n\r\n")


def test_a_connection_whose_heads_never_come_again_is_not_looked_at_for_ever() -> None:
    memory = Memory()
    assert [memory.may_try() for _ in range(10)] == [True] * 8 + [False] * 2
    memory.came_again()
    assert memory.may_try()
