"""What the overview shows of the traffic, and the one interface that it comes through.

There are two sources: :class:`~fieldrepair_service.console.local_traffic.LocalTraffic`, the sidecar whose control port
the console is on, and :class:`~fieldrepair_service.console.sidecar_traffic.SidecarTraffic`, sidecars that are asked
over the network.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Served:
    """A model version that requests are sent to."""

    model_name: str
    model_version: str
    url: str = ""
    """Where its server listens; empty where that is not known."""
    in_flight: int = 0
    """Requests that it has not answered yet."""


@dataclass(frozen=True)
class Numbers:
    """Counters since a sidecar's start, or for the log since its state folder's."""

    requests: int = 0
    """Requests; of a mirror, those whose answer came."""
    refused: int = 0
    """Requests answered with a status of 400 and more."""
    rows_logged: int = 0
    waiting: int = 0
    """Exchanges that are not in the field log yet."""
    dropped_requests: dict[str, int] = field(default_factory=dict[str, int])
    """By reason, only those that happened."""
    dropped_rows: dict[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True)
class SidecarReport:
    """What one sidecar, or mirror, says of itself."""

    name: str
    """Address of its control port; empty for the one that this process is."""
    at: float
    """When it said so, monotonic seconds."""
    numbers: Numbers
    active: Served | None = None
    """Where it sends new requests; None while it has no upstream, and always for a mirror."""
    draining: tuple[Served, ...] = ()
    """Versions that finish what they were sent. Names are empty where only the number of requests is known."""
    mirror: bool = False
    """Whether it takes copies of the traffic, and stands before no model server."""


@dataclass(frozen=True)
class SilentSidecar:
    """A sidecar that gave no answer that can be read."""

    name: str
    """Address of its control port."""
    problem: str
    """What was tried and what came of it."""


@dataclass(frozen=True)
class ServedShare:
    """A model version, and how many sidecars send their requests to it."""

    served: Served
    """With the requests in flight of all of them."""
    sidecars: int


@dataclass(frozen=True)
class TrafficView:
    """The traffic through all sidecars that the console knows, at one moment."""

    reports: tuple[SidecarReport, ...] = ()
    silent: tuple[SilentSidecar, ...] = ()

    @property
    def known(self) -> int:
        """How many sidecars there are; 0 where none was named."""
        return len(self.reports) + len(self.silent)

    @property
    def elsewhere(self) -> bool:
        """Whether they are other processes, which may not answer."""
        return bool(self.silent) or any(report.name for report in self.reports)

    @property
    def mirrored(self) -> bool:
        """Whether copies of the traffic are what comes in."""
        return any(report.mirror for report in self.reports)

    @property
    def unserved(self) -> bool:
        """Whether sidecars answer, and none of them knows a model server."""
        return bool(self.reports) and not self.mirrored and not self.served

    @property
    def numbers(self) -> Numbers:
        """The sum over the sidecars that answer."""
        every = [report.numbers for report in self.reports]
        return Numbers(
            requests=sum(each.requests for each in every),
            refused=sum(each.refused for each in every),
            rows_logged=sum(each.rows_logged for each in every),
            waiting=sum(each.waiting for each in every),
            dropped_requests=_sum(each.dropped_requests for each in every),
            dropped_rows=_sum(each.dropped_rows for each in every),
        )

    @property
    def served(self) -> list[ServedShare]:
        """Versions that new requests are sent to, that of most sidecars first; several while a rollout is under way."""
        return _shares(report.active for report in self.reports if report.active is not None)

    @property
    def draining(self) -> list[Served]:
        """Versions that finish what they were sent."""
        return [share.served for share in _shares(one for report in self.reports for one in report.draining)]


class TrafficSource(Protocol):
    """Where the overview's traffic comes from."""

    async def view(self) -> TrafficView:
        """The traffic now, or as it was a moment ago. Who does not answer is in it as such; nothing is raised."""
        ...

    def running(self) -> AbstractAsyncContextManager[None]:
        """Whatever the source does in the background, inside the block."""
        ...


def _shares(every: Iterable[Served]) -> list[ServedShare]:
    """One share per version, the largest first."""
    grouped: dict[tuple[str, str], list[Served]] = {}
    for one in every:
        grouped.setdefault((one.model_name, one.model_version), []).append(one)
    shares = [
        ServedShare(Served(name, version, _common(group), sum(one.in_flight for one in group)), len(group))
        for (name, version), group in grouped.items()
    ]
    return sorted(shares, key=lambda share: (-share.sidecars, share.served.model_name, share.served.model_version))


def _common(group: list[Served]) -> str:
    """The address that all have; empty if they differ."""
    urls = {one.url for one in group}
    return urls.pop() if len(urls) == 1 else ""


def _sum(every: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for each in every:
        total.update(each)
    return dict(total)
