"""Where traffic goes: the active model server, and those that still finish what they were given.

Everything here runs on the traffic event loop, so a swap is one assignment and needs no lock: a request that has
picked its upstream stays with it, and the version it logs is the version that answered.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fieldrepair_service.busy_polling import BusyPolling
from fieldrepair_service.canary import Canary, CanaryView
from fieldrepair_service.errors import ConfigurationError
from fieldrepair_service.http_url import normalise_http_url
from fieldrepair_service.upstream_connection import UpstreamConnection

if TYPE_CHECKING:
    from fieldrepair_service.request_head import RequestHead

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class UpstreamLimits:
    """Times, in seconds, that an upstream is given or waited for awake; how many idle connections to it are kept."""

    connect_timeout: float = 5.0
    total_timeout: float = 60.0
    idle_seconds: float = 4.0
    busy_poll_seconds: float = 0.0
    idle_connections: int = 256


@dataclass(frozen=True)
class UpstreamView:
    """One upstream as the control port shows it."""

    generation: int
    url: str
    model_name: str
    model_version: str
    in_flight: int


class Upstream:
    """One model server: its connections, what it serves, and how many requests it is working on."""

    def __init__(
        self,
        base: str,
        model_name: str,
        model_version: str,
        generation: int,
        limits: UpstreamLimits,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        parts = urlsplit(base)
        self.base = base
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self.prefix = parts.path.encode("latin-1", "replace")
        self.authority = parts.netloc.encode("latin-1", "replace")
        self.model_name = model_name
        self.model_version = model_version
        self.generation = generation
        self.limits = limits
        self.in_flight = 0
        self._tls = (tls or ssl.create_default_context()) if parts.scheme == "https" else None
        self._idle: list[UpstreamConnection] = []  # the one used last is at the end, and is used next
        self._closed = False
        self._sweep: asyncio.TimerHandle | None = None

    def take(self) -> UpstreamConnection | None:
        """An idle connection; None if there is none."""
        oldest = perf_counter() - self.limits.idle_seconds
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and connection.idle_since > oldest:
                return connection
            connection.close()
        return None

    async def connect(self) -> UpstreamConnection:
        """A new connection.

        Raises:
            OSError: if the model server cannot be reached, or shows no certificate to be trusted.
            asyncio.TimeoutError: if that takes too long.
        """
        connecting = asyncio.get_running_loop().create_connection(
            lambda: UpstreamConnection(self._give_back), self.host, self.port, ssl=self._tls
        )
        _, connection = await asyncio.wait_for(connecting, self.limits.connect_timeout)
        return connection

    def view(self) -> UpstreamView:
        """A copy for the control port."""
        return UpstreamView(self.generation, self.base, self.model_name, self.model_version, self.in_flight)

    def close(self) -> None:
        """Close the idle connections, and the others as they become idle."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def _give_back(self, connection: UpstreamConnection, reusable: bool) -> None:
        if not reusable:
            if connection in self._idle:  # the model server has closed it
                self._idle.remove(connection)
            connection.close()
        elif self._closed or len(self._idle) >= self.limits.idle_connections or not self.limits.idle_seconds:
            connection.close()
        else:
            connection.idle_since = perf_counter()
            self._idle.append(connection)
            if self._sweep is None:
                self._sweep = asyncio.get_running_loop().call_later(self.limits.idle_seconds, self._close_idle)

    def _close_idle(self) -> None:
        """Close what has been idle for too long, and come again while there is anything."""
        self._sweep = None
        oldest = perf_counter() - self.limits.idle_seconds
        for connection in self._idle:
            if connection.idle_since <= oldest:
                connection.close()
        self._idle = [connection for connection in self._idle if connection.idle_since > oldest]
        if self._idle:
            self._sweep = asyncio.get_running_loop().call_later(self.limits.idle_seconds / 2, self._close_idle)


class Upstreams:
    """The active upstream, perhaps a canary, and the draining ones. Every method belongs to the traffic event loop."""

    def __init__(
        self,
        limits: UpstreamLimits,
        *,
        tls: ssl.SSLContext | None = None,
        on_switch: Callable[[UpstreamView], None] | None = None,
    ) -> None:
        """Without an upstream at first.

        Args:
            limits: times that each upstream is given.
            tls: how to check upstreams with an https URL; None takes the system's certificate authorities.
            on_switch: told of each new upstream, on another thread, when traffic goes there already.
        """
        self.limits = limits
        self._tls = tls
        self._on_switch = on_switch
        self._generation = 0
        self._draining: list[Upstream] = []
        self.active: Upstream | None = None
        self.canary: Canary | None = None
        self.polling = BusyPolling(limits.busy_poll_seconds) if limits.busy_poll_seconds else None
        """Keeps the event loop awake while requests wait; None if it sleeps until something comes."""

    @property
    def draining(self) -> list[Upstream]:
        """Former upstreams that are still working on requests."""
        return list(self._draining)

    def acquire(self, head: RequestHead) -> Upstream | None:
        """The upstream for one request, which must be given back with :meth:`release`; None if there is none yet."""
        upstream = self.active
        if self.canary is not None and self.canary.takes(head):
            upstream = self.canary.upstream
        if upstream is not None:
            self._enter(upstream)
        return upstream

    def acquire_at_hand(self) -> tuple[Upstream, UpstreamConnection] | None:
        """The upstream for one request and an idle connection to it, without a look at the request.

        None if there is no such connection, or while a canary runs, which decides by the request.
        """
        upstream = self.active
        if upstream is None or self.canary is not None or (connection := upstream.take()) is None:
            return None
        self._enter(upstream)
        return upstream, connection

    def _enter(self, upstream: Upstream) -> None:
        upstream.in_flight += 1
        if self.polling is not None:
            self.polling.request_sent()

    def release(self, upstream: Upstream, status: int, asked_at: float) -> None:
        """One request is over. The last one out of a draining upstream closes its connections.

        Args:
            upstream: where it was.
            status: of the model server's answer; 0: it gave none; 499: the client did not wait for it.
            asked_at: when the model server was asked, by ``perf_counter``.
        """
        upstream.in_flight -= 1
        now = perf_counter()
        if self.polling is not None:
            self.polling.request_over(now, asked_at)
        if self.canary is not None:
            self.canary.count(upstream, status, now - asked_at)
        if upstream.in_flight == 0 and upstream is not self.active:
            self._retire(upstream)

    async def switch(self, url: str, model_name: str, model_version: str) -> UpstreamView:
        """Send all new requests to another upstream; the ones in flight finish where they are. It ends a canary.

        Raises:
            ConfigurationError: if the URL cannot be an upstream.
        """
        base = normalise_upstream(url)
        self.end_canary()
        former = self.active
        self.active = self._make(base, model_name, model_version)
        self._drain(former)
        logger.info("traffic goes to %s, %s version %s", base, model_name, model_version)
        view = self.active.view()
        if self._on_switch is not None:
            await asyncio.to_thread(self._on_switch, view)
        return view

    async def start_canary(self, url: str, model_name: str, model_version: str, percent: float) -> CanaryView:
        """Send a share of the new requests to a second upstream until :meth:`switch` or :meth:`end_canary`.

        The one that is there already, with another share or not, goes on with its connections and begins to count anew.

        Raises:
            ConfigurationError: if the URL cannot be an upstream, the share is none, or there is no upstream yet.
        """
        base = normalise_upstream(url)
        if not 0 < percent <= 100:
            raise ConfigurationError(f"a canary gets more than 0 and at most 100 percent, got {percent:g}")
        if self.active is None:
            raise ConfigurationError("there is no upstream yet that a canary could stand beside")
        former = self.canary.upstream if self.canary is not None else None
        known = former is not None and (former.base, former.model_name, former.model_version) == (
            base, model_name, model_version
        )  # fmt: skip
        upstream = former if former is not None and known else self._make(base, model_name, model_version)
        self.canary = Canary(upstream, percent)
        if former is not upstream:
            self._drain(former)
        logger.info("%g %% of the traffic go to %s, %s version %s", percent, base, model_name, model_version)
        return self.canary.view()

    def end_canary(self) -> UpstreamView | None:
        """Send all new requests to the active upstream; those at the canary finish there.

        Returns:
            The canary's upstream; None if there was no canary.
        """
        if self.canary is None:
            return None
        former, self.canary = self.canary.upstream, None
        logger.info("the canary of version %s is over", former.model_version)
        self._drain(former)
        return former.view()

    def _make(self, base: str, model_name: str, model_version: str) -> Upstream:
        self._generation += 1
        return Upstream(base, model_name, model_version, self._generation, self.limits, self._tls)

    def _drain(self, former: Upstream | None) -> None:
        if former is not None:
            self._draining.append(former)
            if former.in_flight == 0:
                self._retire(former)

    async def snapshot(self) -> tuple[UpstreamView | None, list[UpstreamView]]:
        """The active upstream and the draining ones, as the control port shows them."""
        return (self.active.view() if self.active else None), [upstream.view() for upstream in self._draining]

    async def close(self) -> None:
        """Close every connection that is idle."""
        self.end_canary()
        for upstream in [*self._draining, *([self.active] if self.active else [])]:
            upstream.close()
        self._draining.clear()
        self.active = None

    def _retire(self, upstream: Upstream) -> None:
        if upstream in self._draining:
            self._draining.remove(upstream)
            upstream.close()


def normalise_upstream(url: str) -> str:
    """The URL without a trailing slash.

    Raises:
        ConfigurationError: if it is not ``http(s)://host[:port][/prefix]``.
    """
    return normalise_http_url(url, "an upstream")
