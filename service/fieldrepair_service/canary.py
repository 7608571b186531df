"""A canary: for a while a share of the traffic goes to another model server, and both sides are measured alike."""

from __future__ import annotations

import random
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

from fieldrepair_service.traffic_stats import Histogram

if TYPE_CHECKING:
    from fieldrepair_service.request_head import RequestHead
    from fieldrepair_service.upstream import Upstream, UpstreamView

CLIENT_GONE = 499
"""What is counted when the client did not wait: nobody's fault, so it is no failure of a side."""
_STEPS = 10_000


class Side:
    """What one side of a canary has done since it began."""

    __slots__ = ("failures", "requests", "seconds")

    def __init__(self) -> None:
        self.requests = 0
        self.failures = 0
        self.seconds = Histogram()

    def count(self, status: int, seconds: float) -> None:
        """Take up one request.

        Args:
            status: of the model server's answer; 0: it gave none.
            seconds: from when it was asked until its answer was whole.
        """
        if status == CLIENT_GONE:
            return
        self.requests += 1
        # MLflow's scoring server answers 400 when a model raises. What clients do wrong meets both sides alike.
        if status == 0 or status >= 400:
            self.failures += 1
        else:
            self.seconds.add(seconds)


@dataclass(frozen=True)
class SideView:
    """One side as the control port shows it."""

    requests: int
    failures: int
    """Answers with a status of 400 and more, and requests without an answer."""
    seconds: float
    """Sum over the answered ones."""
    buckets: list[tuple[str, float]]
    """(upper bound in seconds, answered requests up to it), cumulative."""

    @classmethod
    def of(cls, side: Side) -> SideView:
        """A copy."""
        return cls(side.requests, side.failures, side.seconds.total, side.seconds.cumulative())


@dataclass(frozen=True)
class CanaryView:
    """A canary as the control port shows it."""

    upstream: UpstreamView
    percent: float
    canary: SideView
    champion: SideView


class Canary:
    """Decides which requests go to the canary, and holds both sides' numbers.

    A request that names itself (``x-request-id``) goes to the same side each time it comes, also after a restart of the
    sidecar: its side follows from the name and the canary's version. Others are drawn.

    Args:
        upstream: the canary's model server.
        percent: share of the requests that it gets, in (0, 100].
    """

    def __init__(self, upstream: Upstream, percent: float) -> None:
        self.upstream = upstream
        self.percent = percent
        self.canary, self.champion = Side(), Side()
        self._share = round(percent * _STEPS / 100)
        self._salt = blake2b(upstream.model_version.encode(), digest_size=16).digest()

    def takes(self, head: RequestHead) -> bool:
        """Whether a request goes to the canary."""
        for name, value in head.headers:
            if name == b"x-request-id":
                place = int.from_bytes(blake2b(value, digest_size=8, salt=self._salt).digest(), "big")
                return place % _STEPS < self._share
        return random.randrange(_STEPS) < self._share  # noqa: S311 - nothing to guard

    def count(self, upstream: Upstream, status: int, seconds: float) -> None:
        """Take up a request that is over, on the side that had it."""
        (self.canary if upstream is self.upstream else self.champion).count(status, seconds)

    def view(self) -> CanaryView:
        """A copy for the control port."""
        return CanaryView(self.upstream.view(), self.percent, SideView.of(self.canary), SideView.of(self.champion))
