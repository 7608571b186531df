"""The traffic of the sidecar whose control port the console is on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

from prometheus_client import CollectorRegistry

from fieldrepair_service.console.traffic import Served, TrafficView
from fieldrepair_service.console.traffic_metrics import read_report
from fieldrepair_service.upstream import UpstreamView

Upstreams = Callable[[], Awaitable[tuple[UpstreamView | None, list[UpstreamView]]]]


class LocalTraffic:
    """Asks the sidecar in this process.

    Args:
        upstreams: gives the active upstream and the draining ones.
        registry: the sidecar's numbers.
    """

    def __init__(self, upstreams: Upstreams, registry: CollectorRegistry) -> None:
        self._upstreams = upstreams
        self._registry = registry

    async def view(self) -> TrafficView:
        """The traffic now."""
        active, draining = await self._upstreams()
        # On a thread: some of the numbers are in the spool, on a disk.
        report = await asyncio.to_thread(lambda: read_report(self._registry.collect(), name="", at=time.monotonic()))
        # The metrics name no addresses, and do not tell one draining version from another.
        report = replace(
            report,
            active=None if active is None else _served(active),
            draining=tuple(_served(each) for each in draining),
        )
        return TrafficView((report,))

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Nothing needs to be done in the background."""
        yield


def _served(view: UpstreamView) -> Served:
    return Served(view.model_name, view.model_version, view.url, view.in_flight)
