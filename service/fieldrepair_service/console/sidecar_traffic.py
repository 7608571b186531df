"""The traffic of sidecars elsewhere: their metrics, read over the network again and again in the background."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import httpx
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from fieldrepair_service.console.sidecar_addresses import SidecarAddress, SidecarName, addresses_of
from fieldrepair_service.console.sidecar_metrics import UnusableAnswer, fetch_metrics, read_metrics
from fieldrepair_service.console.traffic import SidecarReport, SilentSidecar, TrafficView

logger = logging.getLogger(__name__)

_AT_ONCE = 32


@dataclass(frozen=True)
class PollTimes:
    """How often sidecars are asked, and how long each may take, in seconds."""

    pause: float = 5.0
    """Between two rounds."""
    answer: float = 2.0
    """For a name to be resolved, and then for a whole answer."""


class SidecarTraffic(Collector):
    """Asks every sidecar for its metrics, all at once, and adds up what they say.

    ``/metrics`` is open on every control port, so no token travels. As a collector of Prometheus, this counts the
    sidecars that answer and those that do not.

    Args:
        sidecars: what to ask. A host name stands for every address it resolves to, resolved anew in each round.
        times: how often, and how long.
        tls: how sidecars with an https URL are checked; None for the system's authorities.
    """

    def __init__(self, sidecars: Sequence[SidecarName], times: PollTimes, tls: ssl.SSLContext | None = None) -> None:
        self._sidecars = tuple(sidecars)
        self._times = times
        self._tls = tls
        self._view = TrafficView(silent=tuple(SilentSidecar(each.url, "has not been asked yet") for each in sidecars))
        self._asked = asyncio.Event()
        self._resolving: dict[SidecarName, asyncio.Task[list[SidecarAddress]]] = {}

    async def view(self) -> TrafficView:
        """The traffic as it was in the last round, which was at most a pause and an answer ago."""
        if self._sidecars:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._asked.wait(), 2 * self._times.answer)
        return self._view

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Ask round after round inside the block."""
        if not self._sidecars:
            yield
            return
        polling = asyncio.create_task(self._poll())
        try:
            yield
        finally:
            polling.cancel()
            with suppress(asyncio.CancelledError):
                await polling

    def collect(self) -> Iterator[Metric]:
        """``fieldrepair_console_sidecars`` by state."""
        family = GaugeMetricFamily("fieldrepair_console_sidecars", "Sidecars that the console asks.", labels=["state"])
        family.add_metric(["answers"], len(self._view.reports))
        family.add_metric(["silent"], len(self._view.silent))
        yield family

    async def _poll(self) -> None:
        async with httpx.AsyncClient(
            verify=True if self._tls is None else self._tls, timeout=self._times.answer, trust_env=False
        ) as client:
            while True:
                view = await self._round(client)
                self._tell(view)
                self._view = view
                self._asked.set()
                await asyncio.sleep(self._times.pause)

    async def _round(self, client: httpx.AsyncClient) -> TrafficView:
        found = await asyncio.gather(*(self._resolve(name) for name in self._sidecars))
        silent = [each for each in found if isinstance(each, SilentSidecar)]
        # Two names may lead to one control port.
        addresses = {one.url: one for each in found if not isinstance(each, SilentSidecar) for one in each}
        gate = asyncio.Semaphore(_AT_ONCE)
        answers = await asyncio.gather(*(self._ask(client, gate, one) for one in addresses.values()))
        silent += [each for each in answers if isinstance(each, SilentSidecar)]
        return TrafficView(tuple(each for each in answers if isinstance(each, SidecarReport)), tuple(silent))

    async def _resolve(self, name: SidecarName) -> list[SidecarAddress] | SilentSidecar:
        # A look-up holds a thread and cannot be broken off. One that takes longer is waited for in the next round, too:
        # a name server that hangs must not take ever more threads.
        task = self._resolving.get(name) or asyncio.create_task(addresses_of(name))
        self._resolving[name] = task
        try:
            return await asyncio.wait_for(asyncio.shield(task), self._times.answer)
        except asyncio.TimeoutError:
            return SilentSidecar(name.url, f"is not resolved within {self._times.answer:g} s")
        except (OSError, UnicodeError) as error:  # the second: a name that no host can have
            return SilentSidecar(name.url, f"cannot be resolved: {error}")
        finally:
            if task.done():
                self._resolving.pop(name, None)

    async def _ask(
        self, client: httpx.AsyncClient, gate: asyncio.Semaphore, address: SidecarAddress
    ) -> SidecarReport | SilentSidecar:
        try:
            async with gate:
                text = await asyncio.wait_for(fetch_metrics(client, address), self._times.answer)
            # On a thread: a hostile answer takes the parser a while.
            return await asyncio.to_thread(read_metrics, text, address.url)
        except asyncio.TimeoutError:
            problem = f"does not answer within {self._times.answer:g} s"
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            problem = f"does not answer: {str(error) or type(error).__name__}"
        except UnusableAnswer as error:
            problem = str(error)
        return SilentSidecar(address.url, problem)

    def _tell(self, view: TrafficView) -> None:
        """Log what has changed since the last round."""
        before = {each.name: each.problem for each in self._view.silent} if self._asked.is_set() else {}
        for each in view.silent:
            if before.pop(each.name, None) != each.problem:
                logger.warning("the sidecar %s %s", each.name, each.problem)
        answering = {report.name for report in view.reports}
        for name in before:
            logger.info("the sidecar %s %s", name, "answers again" if name in answering else "is gone")
