"""Where traffic goes: the active model server, and those that still finish what they were given.

Everything here runs on the traffic event loop, so a swap is one assignment and needs no lock: a request that has
picked its upstream stays with it, and the version it logs is the version that answered.
"""

from __future__ import annotations

import asyncio
import logging
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakSet

import aiohttp
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from yarl import URL

from fieldrepair_service.errors import ConfigurationError

logger = logging.getLogger(__name__)

# A client's headers go out as they came: aiohttp must not add the ones it would like to see.
_NEVER_ADDED = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
_HEADER_LIMIT = 64 * 1024
_CACHED_URLS = 256

connection_was_reused: ContextVar[bool] = ContextVar("connection_was_reused", default=False)
"""Whether this task's last upstream connection had carried a request before."""


@dataclass(frozen=True)
class UpstreamLimits:
    """Times, in seconds, that an upstream is given."""

    connect_timeout: float = 5.0
    total_timeout: float = 60.0
    idle_seconds: float = 4.0


@dataclass(frozen=True)
class UpstreamView:
    """One upstream as the control port shows it."""

    generation: int
    url: str
    model_name: str
    model_version: str
    in_flight: int


class _Connector(aiohttp.TCPConnector):
    """A connection pool that tells whether a connection is fresh; see :data:`connection_was_reused`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._used: WeakSet[object] = WeakSet()

    async def connect(self, req: ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout) -> Connection:
        connection = await super().connect(req, traces, timeout)
        protocol = connection.protocol
        reused = protocol in self._used
        connection_was_reused.set(reused)
        if not reused:
            self._used.add(protocol)
        return connection


class Upstream:
    """One model server: its connections, what it serves, and how many requests it is working on."""

    __slots__ = ("_urls", "base", "generation", "in_flight", "model_name", "model_version", "session")

    def __init__(self, base: str, model_name: str, model_version: str, generation: int, limits: UpstreamLimits) -> None:
        self.base = base
        self.model_name = model_name
        self.model_version = model_version
        self.generation = generation
        self.in_flight = 0
        self._urls: dict[tuple[bytes, bytes], URL] = {}
        self.session = aiohttp.ClientSession(
            connector=_Connector(limit=0, keepalive_timeout=limits.idle_seconds, ttl_dns_cache=10),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=limits.total_timeout, connect=limits.connect_timeout),
            auto_decompress=False,
            skip_auto_headers=_NEVER_ADDED,
            max_line_size=_HEADER_LIMIT,
            max_field_size=_HEADER_LIMIT,
            read_bufsize=256 * 1024,
            trust_env=False,
        )

    def target(self, raw_path: bytes, query: bytes) -> URL:
        """The URL of a request target at this upstream, byte for byte as the client wrote it."""
        url = self._urls.get((raw_path, query))
        if url is None:
            text = self.base + raw_path.decode("latin-1")
            url = URL(f"{text}?{query.decode('latin-1')}" if query else text, encoded=True)
            if len(self._urls) < _CACHED_URLS:
                self._urls[raw_path, query] = url
        return url

    def view(self) -> UpstreamView:
        """A copy for the control port."""
        return UpstreamView(self.generation, self.base, self.model_name, self.model_version, self.in_flight)


class Upstreams:
    """The active upstream and the draining ones. Every method belongs to the traffic event loop."""

    def __init__(self, limits: UpstreamLimits) -> None:
        self._limits = limits
        self._generation = 0
        self._draining: list[Upstream] = []
        self._closing: set[asyncio.Task[None]] = set()
        self.active: Upstream | None = None

    @property
    def draining(self) -> list[Upstream]:
        """Former upstreams that are still working on requests."""
        return list(self._draining)

    def acquire(self) -> Upstream | None:
        """The upstream for one request, which must be given back with :meth:`release`; None if there is none yet."""
        upstream = self.active
        if upstream is not None:
            upstream.in_flight += 1
        return upstream

    def release(self, upstream: Upstream) -> None:
        """One request is over. The last one out of a draining upstream closes its connections."""
        upstream.in_flight -= 1
        if upstream.in_flight == 0 and upstream is not self.active:
            self._retire(upstream)

    async def switch(self, url: str, model_name: str, model_version: str) -> UpstreamView:
        """Send all new requests to another upstream; the ones in flight finish where they are.

        Raises:
            ConfigurationError: if the URL cannot be an upstream.
        """
        base = normalise_upstream(url)
        self._generation += 1
        former = self.active
        self.active = Upstream(base, model_name, model_version, self._generation, self._limits)
        if former is not None:
            self._draining.append(former)
            if former.in_flight == 0:
                self._retire(former)
        logger.info("traffic goes to %s, %s version %s", base, model_name, model_version)
        return self.active.view()

    async def snapshot(self) -> tuple[UpstreamView | None, list[UpstreamView]]:
        """The active upstream and the draining ones, as the control port shows them."""
        return (self.active.view() if self.active else None), [upstream.view() for upstream in self._draining]

    async def close(self) -> None:
        """Close every connection."""
        upstreams = [*self._draining, *([self.active] if self.active else [])]
        self._draining.clear()
        self.active = None
        await asyncio.gather(*self._closing, *(upstream.session.close() for upstream in upstreams))

    def _retire(self, upstream: Upstream) -> None:
        if upstream not in self._draining:
            return
        self._draining.remove(upstream)
        task = asyncio.get_running_loop().create_task(upstream.session.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def normalise_upstream(url: str) -> str:
    """The URL without a trailing slash.

    Raises:
        ConfigurationError: if it is not ``http(s)://host[:port][/prefix]``.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable, parts = False, None
    if not usable or parts is None or parts.query or parts.fragment or parts.username or parts.password:
        raise ConfigurationError(f"an upstream must look like http://host:port, got {url!r}")
    return url.rstrip("/")
