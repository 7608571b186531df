"""Requests per second over the last hour, sampled in the background."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

from fieldrepair_service.console.traffic import TrafficSource, TrafficView

SAMPLE_SECONDS = 15.0
_KEPT = 240  # an hour

_Sample = dict[str, tuple[float, int]]
"""Per sidecar: when it was asked, and its requests until then."""


class Throughput:
    """Samples a source.

    Each sidecar is compared with itself, so that one that comes, goes or does not answer for a while makes no jump;
    a counter that began anew counts as no requests.

    Args:
        source: where the requests are counted.
    """

    def __init__(self, source: TrafficSource) -> None:
        self._source = source
        self._samples: deque[_Sample] = deque(maxlen=_KEPT)

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

    def add(self, view: TrafficView) -> None:
        """Take one sample."""
        self._samples.append({report.name: (report.at, report.numbers.requests) for report in view.reports})

    def rates(self) -> list[float]:
        """Requests per second between one sample and the next, oldest first."""
        return [_rate(before, after) for before, after in itertools.pairwise(list(self._samples))]

    async def _keep_on(self) -> None:
        while True:
            self.add(await self._source.view())
            await asyncio.sleep(SAMPLE_SECONDS)


def _rate(before: _Sample, after: _Sample) -> float:
    """The sum over the sidecars that are in both samples."""
    total = 0.0
    for name, (at, count) in after.items():
        earlier, known = before.get(name, (at, count))
        if at > earlier:
            total += max(0, count - known) / (at - earlier)
    return total
