"""Both sources of traffic numbers say the same of the same sidecar, and what is made of their answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Literal

import pytest

from fieldrepair_service.console.local_traffic import LocalTraffic
from fieldrepair_service.console.sidecar_addresses import parse_sidecar
from fieldrepair_service.console.sidecar_traffic import PollTimes, SidecarTraffic
from fieldrepair_service.console.throughput import Throughput
from fieldrepair_service.console.traffic import (
    Numbers,
    Served,
    SidecarReport,
    SilentSidecar,
    TrafficSource,
    TrafficView,
)
from fieldrepair_service.drops import NOT_SAMPLED
from fieldrepair_service.mirror.metrics import MirrorMetrics
from fieldrepair_service.mirror.pairing import Pairing
from fieldrepair_service.mirror.sink import Sink
from tests.console.conftest import Counted

HERE = "local"


@pytest.fixture(params=["local", "remote"])
def kind(request: pytest.FixtureRequest) -> Literal["local", "remote"]:
    return request.param


@asynccontextmanager
async def source_of(kind: str, counted: Counted) -> AsyncGenerator[TrafficSource]:
    """A source of each kind on one sidecar's numbers."""
    async with AsyncExitStack() as stack:
        if kind == HERE:
            source: TrafficSource = LocalTraffic(counted.upstreams.snapshot, counted.registry)
        else:
            port = counted.serve()
            source = SidecarTraffic([parse_sidecar(f"http://127.0.0.1:{port}")], PollTimes(pause=0.05, answer=20.0))
        await stack.enter_async_context(source.running())
        yield source


async def seen(source: TrafficSource, condition: Callable[[TrafficView], bool]) -> TrafficView:
    """The first view that is as it should be; what is asked in the background lags behind a little."""
    end = time.monotonic() + 30
    while not condition(view := await source.view()):
        assert time.monotonic() < end, view
        await asyncio.sleep(0.02)
    return view


async def test_numbers_and_version(kind: str, count: Callable[[], Counted]) -> None:
    counted = count()
    await counted.upstreams.switch("http://127.0.0.1:5003", "digits", "3")
    for status in (200, 200, 502):
        counted.stats.observe(status, 0.01, 0.005)
    counted.capture.drop(NOT_SAMPLED)
    async with source_of(kind, counted) as source:
        view = await seen(source, lambda view: view.numbers.requests == 3)
        assert view.known == len(view.reports) == 1
        assert not view.silent
        assert view.numbers == Numbers(requests=3, refused=1, dropped_requests={NOT_SAMPLED: 1})
        [share] = view.served
        assert (share.served.model_name, share.served.model_version, share.sidecars) == ("digits", "3", 1)
        assert share.served.url == ("http://127.0.0.1:5003" if kind == HERE else "")
        assert not view.unserved
        assert not view.mirrored
        assert view.draining == []
        assert view.elsewhere is (kind != HERE)
        # It goes on.
        counted.stats.observe(200, 0.01, 0.005)
        await seen(source, lambda view: view.numbers.requests == 4)
        await counted.upstreams.switch("http://127.0.0.1:5004", "digits", "4")
        await seen(source, lambda view: [one.served.model_version for one in view.served] == ["4"])


async def test_requests_in_flight_and_what_drains(kind: str, count: Callable[[], Counted]) -> None:
    counted = count()
    await counted.upstreams.switch("http://127.0.0.1:5003", "digits", "3")
    former = counted.upstreams.active
    assert former is not None
    former.in_flight = 2
    await counted.upstreams.switch("http://127.0.0.1:5004", "digits", "4")
    assert counted.upstreams.active is not None
    counted.upstreams.active.in_flight = 5
    async with source_of(kind, counted) as source:
        view = await seen(source, lambda view: bool(view.draining))
        assert [share.served.in_flight for share in view.served] == [5]
        [draining] = view.draining
        assert draining.in_flight == 2
        # Metrics do not say whose requests those are.
        assert draining.model_version == ("3" if kind == HERE else "")


async def test_a_sidecar_without_a_model_server(kind: str, count: Callable[[], Counted]) -> None:
    async with source_of(kind, count()) as source:
        view = await seen(source, lambda view: bool(view.reports))
        assert view.unserved
        assert view.served == []


async def test_a_mirror(kind: str, count: Callable[[], Counted]) -> None:
    counted = count()
    pairing = Pairing(seconds=10, most_events=10, most_bytes=1000)
    pairing.pairs = 7
    sink = Sink(pairing, counted.capture, None, model_name="digits", model_version="3")  # type: ignore[arg-type]
    counted.registry.register(MirrorMetrics(sink))
    async with source_of(kind, counted) as source:
        view = await seen(source, lambda view: bool(view.reports))
        assert view.mirrored
        assert not view.unserved
        assert view.numbers.requests == 7


def report(name: str, version: str | None, requests: int, *, at: float = 0.0, in_flight: int = 0) -> SidecarReport:
    active = None if version is None else Served("digits", version, in_flight=in_flight)
    numbers = Numbers(requests=requests, rows_logged=requests, dropped_requests={"excluded": 1})
    return SidecarReport(name, at, numbers, active)


def test_sidecars_are_added_up_and_versions_told_apart() -> None:
    view = TrafficView(
        (
            report("a", "3", 10, in_flight=1),
            report("b", "4", 20),
            report("c", "4", 30, in_flight=2),
            report("d", None, 0),
        ),
        (SilentSidecar("e", "does not answer"),),
    )
    assert view.known == 5
    assert view.numbers == Numbers(requests=60, rows_logged=60, dropped_requests={"excluded": 4})
    assert [(one.served.model_version, one.sidecars, one.served.in_flight) for one in view.served] == [
        ("4", 2, 2),
        ("3", 1, 1),
    ]
    assert not view.unserved


def test_nobody_named_and_nobody_answering_are_two_things() -> None:
    assert TrafficView().known == 0
    silent = TrafficView(silent=(SilentSidecar("a", "does not answer"),))
    assert (silent.known, silent.elsewhere, silent.unserved) == (1, True, False)


def test_rates_compare_each_sidecar_with_itself() -> None:
    throughput = Throughput(None)  # type: ignore[arg-type]  # nothing is sampled in the background here
    throughput.add(TrafficView((report("a", "3", 100, at=10.0),)))
    # b is new: what it has counted so far was not in these 10 seconds.
    throughput.add(TrafficView((report("a", "3", 150, at=20.0), report("b", "3", 9000, at=20.0))))
    # a does not answer, b goes on.
    throughput.add(TrafficView((report("b", "3", 9010, at=25.0),), (SilentSidecar("a", "does not answer"),)))
    # a is back, b began anew.
    throughput.add(TrafficView((report("a", "3", 500, at=30.0), report("b", "3", 4, at=30.0))))
    # a was not asked again since.
    throughput.add(TrafficView((report("a", "3", 500, at=30.0), report("b", "3", 9, at=35.0))))
    assert throughput.rates() == [5.0, 2.0, 0.0, 1.0]
