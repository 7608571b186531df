"""A sidecar that stays awake while the model server works: the same answers, and awake no longer than it was told."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Event
from time import perf_counter

import pytest

from fieldrepair_service import busy_polling, sidecar_settings
from fieldrepair_service.busy_polling import BusyPolling
from fieldrepair_service.sidecar_settings import SidecarSettings
from fieldrepair_service.upstream import UpstreamLimits
from tests.service.traffic.conftest import ASKED, SCORES, RawUpstream, Seen, StartTraffic, Traffic, answer, eventually


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def over_after(polling: BusyPolling, seconds: float) -> None:
    """A request is over that took so long."""
    now = perf_counter()
    polling.request_over(now, now - seconds)


def test_awake_from_the_first_request_to_the_last_answer() -> None:
    async def story() -> list[bool]:
        polling = BusyPolling(seconds=3600)
        awake = [polling.awake]
        over = partial(over_after, polling, 1.0)
        for step in (polling.request_sent, polling.request_sent, over, over):
            step()
            await turns(5)
            awake.append(polling.awake)
        polling.request_sent()  # and again for the next one
        return [*awake, polling.awake]

    assert asyncio.run(story()) == [False, True, True, True, False, True]


def test_asleep_when_the_answer_takes_longer_than_that() -> None:
    async def story() -> None:
        polling = BusyPolling(seconds=0.01)
        polling.request_sent()
        await turns(5)
        while polling.awake:  # without an end, the test's timeout would say so
            await asyncio.sleep(0.001)

    asyncio.run(story())


def test_after_a_slow_answer_asleep_until_a_quick_one() -> None:
    async def story() -> list[bool]:
        polling = BusyPolling(seconds=3600)
        awake: list[bool] = []
        for seconds in (3601.0, 3599.0, 1.0):
            polling.request_sent()
            awake.append(polling.awake)
            over_after(polling, seconds)
            await turns(5)
        return awake

    assert asyncio.run(story()) == [True, False, True]


def test_awake_between_requests_that_follow_on_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(linger: float) -> list[bool]:
        monkeypatch.setattr(busy_polling, "LINGER_SECONDS", linger)
        polling = BusyPolling(seconds=3600)
        awake: list[bool] = []
        for _ in range(2):
            polling.request_sent()
            over_after(polling, 0.001)
            await turns(5)
            awake.append(polling.awake)
        return awake

    assert asyncio.run(story(linger=3600)) == [False, True], "the second came soon after the first's answer"
    assert asyncio.run(story(linger=0)) == [False, False]


@pytest.fixture
def awake(start_traffic: StartTraffic, upstream: RawUpstream) -> Traffic:
    return start_traffic(upstream.url, limits=UpstreamLimits(busy_poll_seconds=3600))


def is_awake(traffic: Traffic) -> bool:
    polling = traffic.upstreams.polling
    return polling is not None and polling.awake


def test_awake_until_the_model_server_has_answered(awake: Traffic, upstream: RawUpstream) -> None:
    seen: list[bool] = []

    def script(_: Seen) -> bytes:
        seen.append(is_awake(awake))
        return answer(SCORES, b"200 OK", b"content-type: application/json")

    upstream.script = script
    for _ in range(20):  # the later ones by the shorter way, of heads that came before
        assert awake.ask()[2] == SCORES
    with socket.create_connection(("127.0.0.1", awake.port)) as client:
        request = (
            b"POST /invocations HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        )
        for _ in range(20):
            client.sendall(request % len(ASKED) + ASKED)
            assert client.recv(65536).endswith(SCORES)
    assert seen == [True] * 40
    eventually(lambda: not is_awake(awake))
    assert len(awake.spooled(40)) == 40


ENDS: dict[str, Callable[[Seen], bytes | None]] = {
    "the model server breaks off": lambda _: None,
    "an error of the model server": lambda _: answer(b"", b"500 Internal Server Error"),
    "half an answer": lambda seen: seen.connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nab"),
    "no HTTP": lambda _: b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
}


@pytest.mark.parametrize("end", ENDS)
def test_asleep_however_a_request_ends(awake: Traffic, upstream: RawUpstream, end: str) -> None:
    upstream.script = ENDS[end]
    awake.talk(b"POST /invocations HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
    eventually(lambda: not is_awake(awake))
    assert upstream.seen


def test_asleep_when_the_model_server_takes_too_long(start_traffic: StartTraffic, upstream: RawUpstream) -> None:
    awake = start_traffic(upstream.url, limits=UpstreamLimits(busy_poll_seconds=3600, total_timeout=0.5))
    answered = Event()
    upstream.script = lambda _: answer(SCORES) if answered.wait(30) else None
    assert awake.ask()[0] == 504
    eventually(lambda: not is_awake(awake))
    answered.set()


def test_asleep_when_the_client_is_gone(awake: Traffic, upstream: RawUpstream) -> None:
    answered = Event()
    upstream.script = lambda _: answer(SCORES) if answered.wait(30) else None
    with socket.create_connection(("127.0.0.1", awake.port)) as client:
        client.sendall(b"POST /invocations HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}")
        eventually(lambda: bool(upstream.seen))
    eventually(lambda: not is_awake(awake))
    answered.set()


def test_asleep_when_there_is_no_model_server(awake: Traffic, upstream: RawUpstream) -> None:
    upstream.close()
    assert awake.ask()[0] == 502
    eventually(lambda: not is_awake(awake))


def test_without_it_the_loop_sleeps(start_traffic: StartTraffic, upstream: RawUpstream) -> None:
    assert start_traffic(upstream.url).upstreams.polling is None


@pytest.mark.parametrize(("spare", "seconds"), [(True, 0.005), (False, 0.0)])
def test_by_default_where_a_processor_can_be_spared(
    spare: bool, seconds: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sidecar_settings, "may_spare_one", lambda: spare)
    assert SidecarSettings(state_dir=tmp_path).busy_poll_seconds() == seconds
    assert SidecarSettings(state_dir=tmp_path, busy_poll_ms=0).busy_poll_seconds() == 0
    assert SidecarSettings(state_dir=tmp_path, busy_poll_ms=20).busy_poll_seconds() == 0.02
