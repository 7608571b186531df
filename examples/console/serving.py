"""A control port that serves the story, in this process."""

from __future__ import annotations

import asyncio
import socket
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from examples.console.seed import Story, seed
from fieldrepair_service.capture import Capture, CaptureLimits
from fieldrepair_service.console.security import Security
from fieldrepair_service.control import create_control_app
from fieldrepair_service.control_server import ControlServer
from fieldrepair_service.drops import NOT_SAMPLED
from fieldrepair_service.metrics import create_registry
from fieldrepair_service.traffic_stats import TrafficStats
from fieldrepair_service.upstream import UpstreamLimits, Upstreams

_OPEN_SECONDS = 60.0


@dataclass(frozen=True)
class Served:
    """Where the console answers, and what is in it."""

    url: str
    story: Story | None


@contextmanager
def serve_console(port: int = 0, *, empty: bool = False, security: Security | None = None) -> Generator[Served]:
    """Serve a console on a loopback port until the block ends.

    Args:
        port: 0 for a free one.
        empty: without a story and without a model server, as on the first day.
        security: who gets in; by default everybody who gives a name.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    upstreams = Upstreams(UpstreamLimits())
    with tempfile.TemporaryDirectory(prefix="fieldrepair-console-") as folder:
        book, log = f"sqlite:///{Path(folder) / 'case_book.db'}", str(Path(folder) / "field_log")
        story = None if empty else seed(book, log)
        stats, spool = TrafficStats(), Path(folder) / "spool.db"
        capture = Capture(spool, CaptureLimits(), sync=False, on_new_spool=lambda: None)
        if not empty:
            asyncio.run_coroutine_threadsafe(upstreams.switch("http://127.0.0.1:5001", "digits", "3"), loop).result()
            _some_traffic(stats, capture)
        app = create_control_app(
            upstreams=upstreams,
            traffic_loop=loop,
            registry=create_registry(stats, capture, upstreams, spool, lambda: 1),
            not_ready=lambda: None,
            security=security or Security(None),
            case_book_url=book,
            field_log_uri=log,
            mlflow_ui_url="http://127.0.0.1:5000",
        )
        listener = socket.create_server(("127.0.0.1", port))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = ControlServer(app, listener)
        try:
            _wait_open(url)
            yield Served(url, story)
        finally:
            server.stop()
            capture.close()
            asyncio.run_coroutine_threadsafe(upstreams.close(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


def _some_traffic(stats: TrafficStats, capture: Capture) -> None:
    for number in range(4000):
        stats.observe(502 if number % 500 == 499 else 200, 0.004, 0.003)
    for _ in range(37):
        capture.drop(NOT_SAMPLED)


def _wait_open(url: str) -> None:
    """The pages answer 503 until the stores are open, and then ask for a sign-in."""
    end = time.monotonic() + _OPEN_SECONDS
    while httpx.get(f"{url}/audit").status_code == 503:
        if time.monotonic() > end:
            raise TimeoutError(f"the stores did not open within {_OPEN_SECONDS:g} s")
        time.sleep(0.1)
