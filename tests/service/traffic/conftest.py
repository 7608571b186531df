"""A traffic port, and a scripted server that stands behind it and does to it whatever a test wants."""

from __future__ import annotations

import asyncio
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import uvloop

from fieldrepair_service.capture import Capture, CaptureLimits
from fieldrepair_service.client_connection import TrafficLimits
from fieldrepair_service.exchange import Exchange
from fieldrepair_service.logging_policy import LoggingPolicy
from fieldrepair_service.proxy import Proxy
from fieldrepair_service.spool import SPOOLED, Spool, read_counters
from fieldrepair_service.traffic_server import TrafficServer
from fieldrepair_service.traffic_stats import TrafficStats
from fieldrepair_service.upstream import UpstreamLimits, Upstreams

SCORES = b'{"predictions": [[0.25, 0.75]]}'
ASKED = b'{"inputs": [[1.5, 2.5]]}'


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "waited 30 s in vain"
        time.sleep(0.01)


def answer(body: bytes = b"", status: bytes = b"200 OK", *headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 " + status, *headers, b"content-length: %d" % len(body), b"", body]
    return b"\r\n".join(lines)


@dataclass
class Seen:
    """A request as the upstream received it."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes
    connection: socket.socket
    stream: BinaryIO
    on_connection: int  # the how manieth of its connection, from 0

    def header(self, name: str) -> str | None:
        return dict(self.headers).get(name)


Script = Callable[[Seen], bytes | None]


@dataclass
class RawUpstream:
    """A server that answers with whatever bytes its script returns; None closes the connection."""

    script: Script = lambda _: answer(SCORES, b"200 OK", b"content-type: application/json")
    seen: list[Seen] = field(default_factory=list[Seen])
    read_bodies: bool = True
    connections: list[socket.socket] = field(default_factory=list[socket.socket])
    listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def start(self) -> None:
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.connections.append(connection)
                threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        with suppress(OSError, ValueError), connection, connection.makefile("rb") as stream:
            count = 0
            while line := stream.readline():
                headers: list[tuple[str, str]] = []
                while (raw := stream.readline()) not in (b"\r\n", b""):
                    name, _, value = raw.decode("latin-1").rstrip("\r\n").partition(": ")
                    headers.append((name, value))
                seen = Seen(line.decode().strip(), headers, b"", connection, stream, count)
                if self.read_bodies:
                    seen.body = self._body(stream, dict(headers))
                count += 1
                self.seen.append(seen)
                reply = self.script(seen)
                if reply is None:
                    return
                connection.sendall(reply)

    @staticmethod
    def _body(stream: Any, headers: dict[str, str]) -> bytes:
        lower = {name.lower(): value for name, value in headers.items()}
        if lower.get("transfer-encoding") == "chunked":
            chunks: list[bytes] = []
            while size := int(stream.readline(), 16):
                chunks.append(stream.read(size))
                stream.readline()
            stream.readline()
            return b"".join(chunks)
        return stream.read(int(lower.get("content-length", 0)))


@dataclass
class Traffic:
    """A running traffic port and what stands behind it."""

    port: int
    upstreams: Upstreams
    capture: Capture
    stats: TrafficStats
    spool: Path
    loop: asyncio.AbstractEventLoop

    def switch(self, url: str, version: str = "1") -> None:
        asyncio.run_coroutine_threadsafe(self.upstreams.switch(url, "fashion", version), self.loop).result(30)

    def name_upstream(self, url: str, name: str, version: str) -> None:
        asyncio.run_coroutine_threadsafe(self.upstreams.switch(url, name, version), self.loop).result(30)

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def ask(
        self, method: str = "POST", path: str = "/invocations", body: Any = ASKED, headers: dict[str, str] | None = None
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = self.connect()
        try:
            connection.request(method, path, body, headers or {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()
        finally:
            connection.close()

    def talk(self, *pieces: bytes) -> bytes:
        """Send bytes as they are, say that this was all, and give everything that comes back."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as client:
            received = b""
            with suppress(ConnectionError):
                for piece in pieces:
                    client.sendall(piece)
                while some := client.recv(65536):
                    received += some
            return received

    def spooled(self, count: int) -> list[Exchange]:
        eventually(lambda: read_counters(self.spool)[0].get(SPOOLED, 0) >= count)
        spool = Spool.attach(self.spool)
        items = spool.read(-1, limit=100_000, max_bytes=1 << 30)
        spool.close()
        return [item.exchange for item in items if item.exchange is not None]

    def dropped(self, reason: str, count: int = 1) -> None:
        eventually(lambda: self.capture.counts().dropped[reason] >= count)
        assert self.capture.counts().dropped[reason] == count


@pytest.fixture
def upstream() -> Generator[RawUpstream]:
    server = RawUpstream()
    server.start()
    yield server
    server.close()


StartTraffic = Callable[..., Traffic]


@pytest.fixture
def start_traffic(tmp_path: Path) -> Generator[StartTraffic]:
    stops: list[Callable[[], None]] = []

    def start(
        url: str | None,
        *,
        sync: bool = False,
        limits: UpstreamLimits | None = None,
        traffic_limits: TrafficLimits | None = None,
        tls: ssl.SSLContext | None = None,
        upstream_tls: ssl.SSLContext | None = None,
        **options: Any,
    ) -> Traffic:
        listener = socket.create_server(("127.0.0.1", 0))
        stats = TrafficStats()
        ready = threading.Event()
        traffic: list[Traffic] = []
        server: list[TrafficServer] = []

        async def serve() -> None:
            upstreams = Upstreams(limits or UpstreamLimits(), tls=upstream_tls)
            spool = tmp_path / f"spool-{len(stops)}.db"
            capture = Capture(spool, CaptureLimits(), sync=sync, on_new_spool=lambda: None)
            if url is not None:
                await upstreams.switch(url, "fashion", "1")
            proxy = Proxy(
                upstreams,
                capture,
                stats,
                policy=LoggingPolicy(**options),
                limits=traffic_limits or TrafficLimits(),
            )
            server.append(TrafficServer(proxy, drain_seconds=0, tls=tls))
            port = listener.getsockname()[1]
            traffic.append(Traffic(port, upstreams, capture, stats, spool, asyncio.get_running_loop()))
            ready.set()
            await server[0].serve(listener)
            await upstreams.close()
            capture.close()

        thread = threading.Thread(target=lambda: uvloop.run(serve()), daemon=True)
        thread.start()
        assert ready.wait(30)

        def stop() -> None:
            traffic[0].loop.call_soon_threadsafe(server[0].stop)
            thread.join(30)
            assert not thread.is_alive()

        stops.append(stop)
        return traffic[0]

    yield start
    for stop in stops:
        stop()


@pytest.fixture
def traffic(start_traffic: StartTraffic, upstream: RawUpstream) -> Traffic:
    return start_traffic(upstream.url)
