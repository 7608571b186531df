"""What the request path counts of itself: plain numbers, changed on the traffic event loop only.

Prometheus' own histograms take a lock for every number; here an observation is a few additions.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fieldrepair_service.request_log import RequestLog

# Seconds. Fine at the low end, where the sidecar's own share lies.
BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)


class Histogram:
    """Counts of observations per bucket of :data:`BUCKETS` (the last one: above all), and their sum in seconds."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds

    def cumulative(self) -> list[tuple[str, float]]:
        """(upper bound, observations up to it), as Prometheus writes histograms."""
        running = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), list(self.counts), strict=True):
            running += count
            buckets.append((bound, running))
        return buckets


class TrafficStats:
    """Requests by status code, and where their time went."""

    def __init__(self) -> None:
        self.requests: dict[int, int] = {}
        self.connections = 0  # open now
        self.broken_answers = 0
        self.request_log: RequestLog | None = None
        self.spans_dropped: Callable[[], int] | None = None  # None where requests are not traced
        self.undecoded = 0  # requests that speak none of the protocols that are decoded; forwarded, never logged
        self.request_seconds = Histogram()
        self.upstream_seconds = Histogram()
        self.overhead_seconds = Histogram()

    def observe(self, status: int, seconds: float, upstream_seconds: float | None) -> None:
        """Count one request.

        Args:
            status: what the client was told.
            seconds: from the request's arrival to the end of its answer.
            upstream_seconds: the model server's share of that; None if it gave no whole answer.
        """
        self.requests[status] = self.requests.get(status, 0) + 1
        self.request_seconds.add(seconds)
        if upstream_seconds is not None:
            self.upstream_seconds.add(upstream_seconds)
            self.overhead_seconds.add(seconds - upstream_seconds)
