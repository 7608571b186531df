"""The sidecar's numbers for the overview: what was answered, logged and dropped, and how much at present."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

SAMPLE_SECONDS = 15.0
_KEPT = 240  # an hour


@dataclass(frozen=True)
class Numbers:
    """Counters since the sidecar's start, or for the log since the state folder's."""

    requests: int = 0
    refused: int = 0
    """Requests answered with a status of 400 and more."""
    rows_logged: int = 0
    waiting: int = 0
    """Exchanges that are not in the field log yet."""
    dropped_requests: dict[str, int] = field(default_factory=dict[str, int])
    """By reason, only those that happened."""
    dropped_rows: dict[str, int] = field(default_factory=dict[str, int])


def read_numbers(registry: CollectorRegistry) -> Numbers:
    """The present numbers."""
    samples = [sample for family in registry.collect() for sample in family.samples]

    def by(name: str, label: str) -> dict[str, int]:
        return {s.labels.get(label, ""): int(s.value) for s in samples if s.name == name and s.value > 0}

    def total(*names: str) -> int:
        return sum(int(s.value) for s in samples if s.name in names)

    codes = by("fieldrepair_requests_total", "code")
    return Numbers(
        requests=sum(codes.values()),
        refused=sum(count for code, count in codes.items() if code >= "400"),
        rows_logged=total("fieldrepair_rows_logged_total"),
        waiting=total("fieldrepair_queue_depth", "fieldrepair_spool_exchanges"),
        dropped_requests=by("fieldrepair_exchanges_dropped_total", "reason"),
        dropped_rows=by("fieldrepair_rows_dropped_total", "reason"),
    )


class Throughput:
    """Requests per second over the last hour, sampled in the background.

    Args:
        registry: the sidecar's numbers.
        clock: monotonic seconds.
    """

    def __init__(self, registry: CollectorRegistry, clock: Callable[[], float] = time.monotonic) -> None:
        self._registry = registry
        self._clock = clock
        self._samples: deque[tuple[float, int]] = deque(maxlen=_KEPT)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Sample inside the block."""
        task = asyncio.create_task(self._keep_on())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def numbers(self) -> Numbers:
        """The present numbers."""
        return read_numbers(self._registry)

    def sample(self) -> None:
        """Take one sample."""
        self._samples.append((self._clock(), self.numbers().requests))

    def rates(self) -> list[float]:
        """Requests per second between one sample and the next, oldest first."""
        taken = list(self._samples)
        return [
            max(0.0, (count - before) / max(1e-9, at - earlier))
            for (earlier, before), (at, count) in itertools.pairwise(taken)
        ]

    async def _keep_on(self) -> None:
        while True:
            await asyncio.to_thread(self.sample)
            await asyncio.sleep(SAMPLE_SECONDS)
