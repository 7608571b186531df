"""Capture: bounded, counted by reason, durable when asked to be, and never in the way of an answer."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from fieldrepair_service.capture import Capture, CaptureLimits
from fieldrepair_service.drops import EXCHANGE_DROPPED, NOT_SAMPLED, QUEUE_FULL, SPOOL_DAMAGED, SPOOL_FULL
from fieldrepair_service.exchange import Exchange
from fieldrepair_service.spool import SPOOLED, Spool, read_counters

Start = Callable[..., Capture]


def make_exchange(body: bytes = b"{}") -> Exchange:
    return Exchange(1, None, "m", "1", "mlflow", 200, 1.0, 1.0, "application/json", "", body, "", "", b"{}")


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "waited 30 s in vain"
        time.sleep(0.01)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "spool.db"


@pytest.fixture
def start(path: Path) -> Generator[Start]:
    started: list[Capture] = []

    def make(
        *, sync: bool = False, on_new_spool: Callable[[], None] = lambda: None, where: Path = path, **limits: int
    ) -> Capture:
        capture = Capture(where, CaptureLimits(**limits), sync=sync, on_new_spool=on_new_spool)
        started.append(capture)
        return capture

    yield make
    for capture in started:
        capture.close()


def test_what_is_offered_is_in_the_spool_soon(start: Start, path: Path) -> None:
    capture = start()
    for _ in range(5):
        assert capture.offer(make_exchange()) is None
    capture.drop(NOT_SAMPLED)
    eventually(lambda: read_counters(path)[0].get(SPOOLED) == 5)
    counts = capture.counts()
    assert (counts.accepted, counts.queued, counts.queued_bytes) == (6, 0, 0)
    assert counts.dropped[NOT_SAMPLED] == 1


def test_close_commits_what_is_queued(start: Start, path: Path) -> None:
    capture = start()
    for _ in range(3000):
        capture.offer(make_exchange())
    capture.close()
    assert read_counters(path)[0] == {SPOOLED: 3000}


def test_counting_goes_on_after_a_restart(start: Start, path: Path) -> None:
    first = start()
    first.offer(make_exchange())
    first.drop(NOT_SAMPLED)
    first.close()
    second = start()
    second.offer(make_exchange())
    second.drop(NOT_SAMPLED)
    second.close()
    assert second.counts().accepted == 4
    assert second.counts().dropped[NOT_SAMPLED] == 2
    assert read_counters(path)[0] == {SPOOLED: 2, EXCHANGE_DROPPED + NOT_SAMPLED: 2}


def test_a_full_queue_drops_and_counts(start: Start, tmp_path: Path) -> None:
    (tmp_path / "blocked").write_text("")  # a file where the folder should be: the spool cannot open
    capture = start(where=tmp_path / "blocked" / "spool.db", queue_exchanges=3)
    for _ in range(10):
        capture.offer(make_exchange())
    counts = capture.counts()
    assert counts.accepted == 10
    assert counts.queued == 3
    assert counts.dropped.total() == 7
    # The place becomes usable: what waited is not lost.
    (tmp_path / "blocked").unlink()
    eventually(lambda: read_counters(tmp_path / "blocked" / "spool.db")[0].get(SPOOLED) == 3)
    capture.offer(make_exchange())
    eventually(lambda: read_counters(tmp_path / "blocked" / "spool.db")[0].get(SPOOLED) == 4)
    counts = capture.counts()
    assert counts.accepted == 11 == 4 + counts.dropped.total()


def test_the_queue_is_bounded_in_bytes(start: Start) -> None:
    capture = start(queue_bytes=5000)
    capture.offer(make_exchange(bytes(4000)))
    capture.offer(make_exchange(bytes(4000)))
    assert capture.counts().dropped[QUEUE_FULL] == 1


def test_the_spool_is_bounded(start: Start, path: Path) -> None:
    capture = start(spool_max_bytes=200_000)
    for _ in range(20):
        capture.offer(make_exchange(bytes(50_000)))
        eventually(lambda: capture.counts().queued == 0)
    counts = capture.counts()
    assert counts.dropped[SPOOL_FULL] > 10
    eventually(lambda: read_counters(path)[0].get(SPOOLED, 0) + counts.dropped[SPOOL_FULL] == 20)
    assert read_counters(path)[1] <= 260_000


async def test_in_sync_mode_an_offer_can_be_waited_for(start: Start, path: Path) -> None:
    capture = start(sync=True)
    for _ in range(3):
        spooled = capture.offer(make_exchange())
        assert spooled is not None
        await capture.settled(spooled)
        assert spooled.result()
    assert read_counters(path)[0] == {SPOOLED: 3}
    assert capture.counts().late_sync == 0


async def test_sync_mode_does_not_wait_for_a_broken_spool(start: Start, path: Path) -> None:
    capture = start(sync=True)
    raw = sqlite3.connect(path)
    raw.execute("ALTER TABLE exchanges RENAME TO elsewhere")
    spooled = capture.offer(make_exchange())
    assert spooled is not None
    await asyncio.wait_for(capture.settled(spooled), 30)
    assert not spooled.result()
    assert capture.offer(make_exchange()) is None  # the trouble is known by now: nobody needs to wait for it
    assert capture.counts().late_sync == 2
    raw.execute("ALTER TABLE elsewhere RENAME TO exchanges")
    raw.close()
    eventually(lambda: read_counters(path)[0].get(SPOOLED) == 2)


async def test_sync_mode_does_not_wait_for_a_locked_spool(
    start: Start, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fieldrepair_service.capture._SYNC_PATIENCE", 0.1)
    capture = start(sync=True)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    spooled = capture.offer(make_exchange())
    assert spooled is not None
    await capture.settled(spooled)
    assert capture.counts().late_sync == 1
    holder.execute("COMMIT")
    holder.close()
    assert await spooled


def test_a_spool_that_breaks_while_in_use_is_replaced(start: Start, path: Path) -> None:
    told: list[bool] = []
    capture = start(on_new_spool=lambda: told.append(True))
    for _ in range(60):
        capture.offer(make_exchange(bytes(3000)))
    eventually(lambda: read_counters(path)[0].get(SPOOLED) == 60)
    writer = Spool.attach(path)
    writer.settle(writer.read(-1, limit=10, max_bytes=1 << 20)[-1].seq, {"exchanges_logged": 10})
    writer._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # pyright: ignore[reportPrivateUsage]
    writer.close()
    content = bytearray(path.read_bytes())
    content[10 * 4096 : 50 * 4096] = b"\xff" * (40 * 4096)
    path.write_bytes(content)
    capture.check_spool()
    eventually(lambda: bool(told))
    assert list(path.parent.glob("spool.db.damaged-*"))
    capture.offer(make_exchange())
    eventually(lambda: read_counters(path)[0].get(SPOOLED) == 11)
    counts = capture.counts()
    assert counts.dropped[SPOOL_DAMAGED] == 50
    # accepted = logged + dropped + waiting, also across the damage
    assert counts.accepted == 61 == 10 + 50 + 1
