"""The traffic port: takes connections, watches their deadlines, and ends them when the sidecar is told to stop."""

from __future__ import annotations

import asyncio
import socket
import ssl
from time import perf_counter

from fieldrepair_service.proxy import Proxy

_LONGEST_LOOK = 1.0
_SHORTEST_LOOK = 0.02
_DRAIN_LOOK = 0.02
_BACKLOG = 2048


class TrafficServer:
    """Serves a proxy on a socket until :meth:`stop`, and then until the last request is answered."""

    def __init__(self, proxy: Proxy, *, drain_seconds: float, tls: ssl.SSLContext | None = None) -> None:
        """Nothing is started here.

        Args:
            proxy: what to do with requests.
            drain_seconds: how long requests in flight may take after :meth:`stop`.
            tls: certificate and key; None serves plain HTTP.
        """
        self._proxy = proxy
        self._drain_seconds = drain_seconds
        self._tls = tls
        self._stopping = asyncio.Event()
        self._forced = asyncio.Event()

    def stop(self) -> None:
        """No new connections or requests; the second time, do not wait for those in flight either."""
        if self._stopping.is_set():
            self._forced.set()
        self._stopping.set()

    async def serve(self, listener: socket.socket) -> None:
        """Serve until stopped, and end every connection."""
        proxy = self._proxy
        loop = asyncio.get_running_loop()
        patience = proxy.limits.header_seconds if self._tls else None
        server = await loop.create_server(
            proxy.connection, sock=listener, backlog=_BACKLOG, ssl=self._tls, ssl_handshake_timeout=patience
        )
        watch = loop.create_task(self._watch())
        try:
            await self._stopping.wait()
            server.close()
            for client in list(proxy.connections):
                client.stop()
            end = perf_counter() + self._drain_seconds
            while proxy.connections and perf_counter() < end and not self._forced.is_set():
                await asyncio.sleep(_DRAIN_LOOK)
        finally:
            watch.cancel()
            for client in list(proxy.connections):
                client.abort()
            while proxy.connections:
                await asyncio.sleep(0)
            proxy.settle()

    async def _watch(self) -> None:
        """One look at all deadlines now and then costs less than a timer for each."""
        limits, times = self._proxy.limits, self._proxy.upstreams.limits
        shortest = min(limits.header_seconds, limits.body_seconds, limits.keep_alive_seconds, times.total_timeout)
        pause = min(max(shortest / 10, _SHORTEST_LOOK), _LONGEST_LOOK)
        while True:
            await asyncio.sleep(pause)
            now = perf_counter()
            for client in [client for client in self._proxy.connections if client.deadline < now]:
                client.on_deadline()
