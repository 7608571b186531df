"""A canary on the traffic port: the share it gets, who goes there, what is counted, and how it ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Generator
from typing import Any

import pytest

from fieldrepair_service.canary import CanaryView
from fieldrepair_service.errors import ConfigurationError
from tests.service.traffic.conftest import RawUpstream, StartTraffic, Traffic, answer, eventually

JSON = b"content-type: application/json"


def replying(version: str) -> RawUpstream:
    scores = b'{"predictions": [[%s]]}' % version.encode()
    server = RawUpstream(script=lambda _: answer(scores, b"200 OK", JSON))
    server.start()
    return server


@pytest.fixture
def second() -> Generator[RawUpstream]:
    server = replying("2")
    yield server
    server.close()


def run(traffic: Traffic, work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run_coroutine_threadsafe(work, traffic.loop).result(30)


def begin(traffic: Traffic, url: str, percent: float, version: str = "2") -> CanaryView:
    return run(traffic, traffic.upstreams.start_canary(url, "fashion", version, percent))


def end(traffic: Traffic) -> None:
    async def end() -> None:
        traffic.upstreams.end_canary()

    run(traffic, end())


def canary_of(traffic: Traffic) -> CanaryView:
    canary = traffic.upstreams.canary
    assert canary is not None
    return canary.view()


def ask(traffic: Traffic, name: str | None = None) -> tuple[int, bool]:
    """(status, whether the canary answered)."""
    headers = {"Content-Type": "application/json", **({"X-Request-Id": name} if name else {})}
    status, _, body = traffic.ask(headers=headers)
    return status, b"[[2]]" in body


def test_a_share_of_the_requests_goes_there_and_each_is_logged_with_who_answered(
    traffic: Traffic, second: RawUpstream
) -> None:
    begin(traffic, second.url, 30)
    told = {f"r{number}": ask(traffic, f"r{number}")[1] for number in range(200)}
    share = sum(told.values()) / len(told)
    assert 0.18 < share < 0.42  # 4 standard deviations of 200 draws
    logged = {each.client_request_id: each.model_version for each in traffic.spooled(200)}
    assert logged == {name: "2" if there else "1" for name, there in told.items()}
    eventually(lambda: canary_of(traffic).canary.requests + canary_of(traffic).champion.requests == 200)
    view = canary_of(traffic)
    assert view.canary.requests == sum(told.values())
    assert (view.canary.failures, view.champion.failures) == (0, 0)
    assert view.canary.buckets[-1] == ("+Inf", view.canary.requests)

    # The same name goes the same way: also with a canary of this version that begins anew, as after a restart.
    end(traffic)
    begin(traffic, second.url, 30)
    assert {name: ask(traffic, name)[1] for name in list(told)[:60]} == {name: told[name] for name in list(told)[:60]}


def test_requests_without_a_name_are_drawn(traffic: Traffic, second: RawUpstream) -> None:
    begin(traffic, second.url, 50)
    there = sum(ask(traffic)[1] for _ in range(100))
    assert 25 < there < 75  # 5 standard deviations
    begin(traffic, second.url, 100)
    assert all(ask(traffic)[1] for _ in range(10))


def test_failures_are_counted_on_the_side_that_failed(traffic: Traffic, second: RawUpstream) -> None:
    begin(traffic, second.url, 100)
    assert ask(traffic) == (200, True)
    second.script = lambda _: answer(b"no", b"500 Internal Server Error")
    assert ask(traffic)[0] == 500
    second.script = lambda _: answer(b"no", b"400 Bad Request")  # MLflow's word for a model that raises
    assert ask(traffic)[0] == 400
    second.script = lambda _: None  # it closes the connection
    assert ask(traffic)[0] == 502
    eventually(lambda: canary_of(traffic).canary.requests == 4)  # counted when the answer is on its way
    view = canary_of(traffic)
    assert (view.canary.failures, view.champion.requests) == (3, 0)
    assert view.canary.buckets[-1][1] == 1  # only answers have a time


def test_what_is_in_flight_finishes_where_it_is(traffic: Traffic, second: RawUpstream) -> None:
    hold = threading.Event()

    def slowly(_: object) -> bytes:
        hold.wait(20)
        return answer(b'{"predictions": [[2]]}', b"200 OK", JSON)

    second.script = slowly
    begin(traffic, second.url, 100)
    told: list[tuple[int, bool]] = []
    asking = threading.Thread(target=lambda: told.append(ask(traffic)))
    asking.start()
    eventually(lambda: len(second.seen) == 1)
    end(traffic)
    assert ask(traffic) == (200, False)  # new ones go to the champion
    assert [(old.model_version, old.in_flight) for old in traffic.upstreams.draining] == [("2", 1)]
    hold.set()
    asking.join(20)
    assert told == [(200, True)]
    eventually(lambda: not traffic.upstreams.draining)


def test_a_switch_ends_the_canary(traffic: Traffic, second: RawUpstream) -> None:
    begin(traffic, second.url, 1)
    traffic.switch(second.url, "2")
    assert traffic.upstreams.canary is None
    assert ask(traffic) == (200, True)


def test_what_cannot_be_a_canary_is_refused(start_traffic: StartTraffic, traffic: Traffic, second: RawUpstream) -> None:
    for percent in (0, -1, 100.5):
        with pytest.raises(ConfigurationError, match="more than 0 and at most 100 percent"):
            begin(traffic, second.url, percent)
    with pytest.raises(ConfigurationError, match="must look like"):
        begin(traffic, "ftp://host", 5)
    with pytest.raises(ConfigurationError, match="no upstream yet"):
        begin(start_traffic(None), second.url, 5)
