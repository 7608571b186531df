"""From the request path to the spool: a bounded queue, and a thread that commits it in groups.

The request path pays for one append to a deque. Whatever goes wrong behind it (no room, full disk, broken file)
costs exchanges of the log, which are counted by reason, and never an answer.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import sqlite3
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import TypeAlias

from fieldrepair_service.drops import (
    CAPTURE_REASONS,
    DISK_FULL,
    EXCHANGE_DROPPED,
    QUEUE_FULL,
    SPOOL_DAMAGED,
    SPOOL_ERROR,
    SPOOL_FULL,
)
from fieldrepair_service.errors import SpoolError
from fieldrepair_service.exchange import Exchange
from fieldrepair_service.spool import SETTLED, SPOOLED, Spool, is_damage, read_counters
from fieldrepair_service.traffic_stats import Histogram

logger = logging.getLogger(__name__)

_GATHER_SECONDS = 0.05
_IDLE_SECONDS = 1.0
_SYNC_PATIENCE = 2.0
_GROUP_EXCHANGES = 2_000
_PREPARED_EXCHANGES = 50  # preparing takes time, in which nothing is committed
_GROUP_BYTES = 64 << 20


Prepare: TypeAlias = Callable[[Sequence[Exchange]], list[Exchange]]


@dataclass(frozen=True)
class CaptureLimits:
    """How much may wait, and where."""

    queue_exchanges: int = 10_000
    queue_bytes: int = 256 << 20
    spool_max_bytes: int = 2 << 30


@dataclass(slots=True)
class _Waiting:
    exchange: Exchange
    size: int
    """Of its bodies when it came."""
    spooled: asyncio.Future[bool] | None = None
    prepared: bool = False


@dataclass
class _Trouble:
    """Why the spool does not take anything now, and when to try again."""

    reason: str = ""
    pause: float = 0.0

    def met(self, reason: str) -> None:
        self.reason = reason
        self.pause = min(max(2 * self.pause, _GATHER_SECONDS), 1.0)


@dataclass
class CaptureCounts:
    """What capture has seen since the spool was made: ``accepted = spooled + dropped + queued`` at rest."""

    accepted: int = 0
    dropped: Counter[str] = field(default_factory=Counter[str])
    queued: int = 0
    queued_bytes: int = 0
    late_sync: int = 0


class Capture:
    """Takes exchanges on the traffic event loop and commits them to the spool on a thread of its own."""

    def __init__(
        self,
        path: Path,
        limits: CaptureLimits,
        *,
        sync: bool,
        on_new_spool: Callable[[], None],
        prepare: Prepare | None = None,
    ) -> None:
        """Start the thread.

        Args:
            path: the spool's file.
            limits: how much may wait.
            sync: whether :meth:`offer` gives a future to wait for, and each commit waits for the disk.
            on_new_spool: called, on the thread, when a damaged spool was replaced by a new one.
            prepare: called, on the thread, with exchanges that are about to be stored; gives as many, in order, to be
                stored in their place. Must not raise.
        """
        self._path = path
        self._prepare = prepare
        self._limits = limits
        self.sync = sync
        self._on_new_spool = on_new_spool
        self._queue: deque[_Waiting] = deque()
        # Each of these is changed by one thread only: offers by the event loop's, takes by the writer's.
        self._offered_bytes = self._taken_bytes = 0
        self._accepted = 0
        self._earlier = 0  # accepted by those who used this spool before
        # With every key from the start: a Counter that grows cannot be read from another thread.
        self._refused: Counter[str] = Counter(dict.fromkeys(CAPTURE_REASONS, 0))
        self._lost: Counter[str] = Counter(dict.fromkeys(CAPTURE_REASONS, 0))
        self._saved: Counter[str] = Counter()  # of the drops, those that the spool knows
        self._seen: dict[str, int] = {}  # the spool's counters after the last commit
        self._late_sync = 0
        self.commit_seconds = Histogram()
        self._trouble = _Trouble()
        self._recheck = False
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._opened = threading.Event()
        self._spool: Spool | None = None
        self._thread = threading.Thread(target=self._run, name="fieldrepair-spool", daemon=True)
        self._thread.start()
        self._opened.wait(timeout=10)

    # On the event loop.

    def offer(self, exchange: Exchange) -> asyncio.Future[bool] | None:
        """Take an exchange; in sync mode, a future that tells when it is on disk (False: it is not)."""
        self._accepted += 1
        size = exchange.size
        limits = self._limits
        if (
            len(self._queue) >= limits.queue_exchanges
            or self._offered_bytes - self._taken_bytes + size > limits.queue_bytes
        ):
            self._refused[self._trouble.reason or QUEUE_FULL] += 1
            return None
        self._offered_bytes += size
        waiting = _Waiting(exchange, size)
        if self.sync and self._trouble.reason:
            self._late_sync += 1  # serving wins: nobody waits for a disk that is known not to take anything
        elif self.sync:
            waiting.spooled = asyncio.get_running_loop().create_future()
        self._queue.append(waiting)
        if not self._wake.is_set():
            self._wake.set()
        return waiting.spooled

    def drop(self, reason: str) -> None:
        """Count an exchange that will not be logged."""
        self._accepted += 1
        self._refused[reason] += 1

    async def settled(self, spooled: asyncio.Future[bool]) -> None:
        """Wait until an offered exchange is on disk, or until waiting longer would be worse than losing it."""
        try:
            on_disk = await asyncio.wait_for(asyncio.shield(spooled), _SYNC_PATIENCE)
        except asyncio.TimeoutError:
            on_disk = False
        if not on_disk:
            self._late_sync += 1

    # From any thread.

    def counts(self) -> CaptureCounts:
        """What has been seen and dropped on this side of the spool."""
        return CaptureCounts(
            accepted=self._earlier + self._accepted,
            dropped=self._refused + self._lost,
            queued=len(self._queue),
            queued_bytes=self._offered_bytes - self._taken_bytes,
            late_sync=self._late_sync,
        )

    def check_spool(self) -> None:
        """Look through the whole spool and replace it if it is damaged; the shipper has stumbled over it."""
        self._recheck = True
        self._wake.set()

    def close(self) -> None:
        """Commit what is queued and stop. Offers after this are not taken care of."""
        self._closing.set()
        self._wake.set()
        self._thread.join()

    # On the thread.

    def _run(self) -> None:
        self._ready()
        self._opened.set()
        while True:
            self._wake.wait(_IDLE_SECONDS)
            if self._trouble.reason:
                self._closing.wait(self._trouble.pause)
            elif not self.sync:
                self._closing.wait(_GATHER_SECONDS)  # so that one commit serves many exchanges
            self._wake.clear()
            last_round = self._closing.is_set()
            if self._recheck:
                self._recheck = False
                self._replace_if_damaged()
            while (self._queue or self._unsaved()) and self._commit_group():
                pass
            if last_round:
                break
            if self._queue:
                self._wake.set()
        self._give_up_rest()
        if self._spool is not None:
            self._spool.close()

    def _commit_group(self) -> bool:
        """Commit the front of the queue. False if the spool did not take it; then it stays in the queue."""
        group, size = self._front()
        try:
            spool = self._ready()
            if spool is None:
                self._release(group, on_disk=False)
                return False
            if group and spool.used_bytes() + size > self._limits.spool_max_bytes:
                self._take(group)
                self._lost[SPOOL_FULL] += len(group)
                self._release(group, on_disk=False)
                return True
            self._prepare_all(group)
            counts = self._unsaved()
            began = perf_counter()
            spool.write([waiting.exchange for waiting in group], counts)
            self.commit_seconds.add(perf_counter() - began)
        except sqlite3.Error as error:
            damaged = self._in_trouble(error)
            self._release(group, on_disk=False)
            if damaged:
                self._replace_if_damaged()
            return False
        if self._trouble.reason:
            logger.warning("the spool takes exchanges again after: %s", self._trouble.reason)
            self._trouble = _Trouble()
        self._saved.update(counts)
        self._seen = spool.counters()
        self._take(group)
        self._release(group, on_disk=True)
        return True

    def _prepare_all(self, group: list[_Waiting]) -> None:
        """Put what may be stored in the place of what came; once, however often the spool does not take it."""
        fresh = [waiting for waiting in group if not waiting.prepared]
        if self._prepare is None or not fresh:
            return
        for waiting, exchange in zip(fresh, self._prepare([each.exchange for each in fresh]), strict=True):
            waiting.exchange = exchange
            waiting.prepared = True

    def _front(self) -> tuple[list[_Waiting], int]:
        group: list[_Waiting] = []
        size = 0
        most = _GROUP_EXCHANGES if self._prepare is None else _PREPARED_EXCHANGES
        for waiting in list(islice(self._queue, most)):
            if group and size + waiting.exchange.size > _GROUP_BYTES:
                break
            group.append(waiting)
            size += waiting.exchange.size
        return group, size

    def _take(self, group: list[_Waiting]) -> None:
        for waiting in group:
            self._queue.popleft()
            self._taken_bytes += waiting.size

    def _release(self, group: list[_Waiting], *, on_disk: bool) -> None:
        """Tell those who wait. They wait on the event loop, which may be gone by now."""
        futures = [waiting.spooled for waiting in group if waiting.spooled is not None]
        for waiting in group:
            waiting.spooled = None
        if not futures:
            return

        def tell() -> None:
            for future in futures:
                if not future.done():
                    future.set_result(on_disk)

        loop = futures[0].get_loop()
        if not loop.is_closed():
            loop.call_soon_threadsafe(tell)

    def _unsaved(self) -> dict[str, int]:
        """Counts of drops that the spool does not know yet."""
        known = self._refused + self._lost
        return {
            EXCHANGE_DROPPED + reason: count - self._saved[EXCHANGE_DROPPED + reason]
            for reason, count in known.items()
            if count > self._saved[EXCHANGE_DROPPED + reason]
        }

    def _ready(self) -> Spool | None:
        """The open spool; None if it cannot be opened now."""
        if self._spool is None:
            try:
                self._spool = Spool.open(self._path, durable=self.sync)
            except SpoolError as error:
                self._in_trouble(error)
                return None
            if not self._seen:
                self._go_on_counting(self._spool.counters())
        return self._spool

    def _go_on_counting(self, counters: dict[str, int]) -> None:
        """Count on from where the spool's last user stopped."""
        before = Counter({str(reason): counters.get(EXCHANGE_DROPPED + reason, 0) for reason in CAPTURE_REASONS})
        self._earlier = counters.get(SPOOLED, 0) + before.total()
        self._lost.update(before)
        self._saved.update({EXCHANGE_DROPPED + reason: count for reason, count in before.items()})
        self._seen = counters

    def _in_trouble(self, error: Exception) -> bool:
        """Remember why the spool does not take anything; whether its file is broken."""
        damaged = isinstance(error, sqlite3.Error) and is_damage(error)
        reason = SPOOL_DAMAGED if damaged else DISK_FULL if _means_full(error) else SPOOL_ERROR
        if reason != self._trouble.reason:
            logger.error("the spool %s does not take exchanges (%s): %s", self._path, reason, error)
        self._trouble.met(reason)
        return damaged

    def _replace_if_damaged(self) -> None:
        """Open the spool anew, which moves a damaged file aside. What waited in it then counts as dropped."""
        counters = read_counters(self._path)[0] or self._seen
        former = self._spool
        if former is not None:
            former.close()
        self._spool = None
        try:
            spool = Spool.open(self._path, durable=self.sync, check=True)
            self._spool = spool
            if former is None or spool.writer == former.writer:
                return
            waited = counters.get(SPOOLED, 0) - counters.get(SETTLED, 0)
            logger.error("%d exchanges that waited in the damaged spool are not in the field log", waited)
            counters[SPOOLED] = counters.get(SETTLED, 0)
            self._lost[SPOOL_DAMAGED] += waited
            spool.write([], counters)
            self._seen = counters
        except (SpoolError, sqlite3.Error) as error:
            logger.error("the spool %s cannot be opened anew: %s", self._path, error)  # noqa: TRY400 - expected here
            return
        self._on_new_spool()

    def _give_up_rest(self) -> None:
        rest = len(self._queue)
        if rest:
            reason = self._trouble.reason or SPOOL_ERROR
            self._lost[reason] += rest
            logger.error("%d exchanges are dropped at the end: the spool does not take them (%s)", rest, reason)
            self._release(list(self._queue), on_disk=False)
            self._queue.clear()


def _means_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, sqlite3.Error) and "is full" in str(error):
            return True
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__
    return False
