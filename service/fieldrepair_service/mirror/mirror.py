"""The mirror put together: the sink, the control port, capture, and the shipper that writes the field log."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from time import monotonic

import uvicorn
import uvloop
from fastapi import FastAPI

from fieldrepair_service.capture import Capture, CaptureLimits
from fieldrepair_service.console.security import Security
from fieldrepair_service.console_choice import why_left_out
from fieldrepair_service.control import create_control_app
from fieldrepair_service.control_server import ControlServer
from fieldrepair_service.log_format import configure_logging
from fieldrepair_service.metrics import create_registry
from fieldrepair_service.mirror.metrics import MirrorMetrics
from fieldrepair_service.mirror.pairing import Pairing
from fieldrepair_service.mirror.settings import MirrorSettings
from fieldrepair_service.mirror.sink import Sink
from fieldrepair_service.redactor_process import RedactorProcess, check_redactor
from fieldrepair_service.roles import Role
from fieldrepair_service.serving import TrafficServer, announce, listen, sole_user_of, url_of
from fieldrepair_service.shipper_process import ShipperProcess
from fieldrepair_service.tls import server_context
from fieldrepair_service.tracing import check_tracing
from fieldrepair_service.traffic_stats import TrafficStats
from fieldrepair_service.upstream import UpstreamLimits, Upstreams

logger = logging.getLogger(__name__)

ADDRESS_FILE = "mirror.json"
"""File in the state folder that says where the mirror listens: pid, events_url, control_url."""

_EXPIRE_SECONDS = 1.0


def run_mirror(settings: MirrorSettings) -> None:
    """Run until SIGTERM or SIGINT.

    Raises:
        ConfigurationError: if a port is taken, the state folder cannot be used, or the console cannot be served and
            must be.
    """
    configure_logging(settings.log_format, "mirror")
    if settings.redactor is not None:
        check_redactor(settings.redactor)
    check_tracing(settings.otlp_endpoint)
    left_out = why_left_out(settings.console)
    with sole_user_of(settings.state_dir):
        tokens = settings.resolve_tokens()
        with (
            listen(settings.events_host, settings.events_port) as events,
            listen(settings.control_host, settings.control_port) as control,
        ):
            uvloop.run(_Mirror(settings, tokens, left_out).run(events, control))


class _Mirror:
    """One run of the mirror."""

    def __init__(self, settings: MirrorSettings, tokens: dict[Role, str] | None, left_out: str | None) -> None:
        self._settings = settings
        self._tokens = tokens
        self._left_out = left_out
        self._spool = settings.state_dir / "spool.db"
        self._draining = False
        self._shipper: ShipperProcess | None = None

    async def run(self, events: socket.socket, control: socket.socket) -> None:
        """Serve on both sockets until told to stop, then ship what is spooled."""
        settings = self._settings
        redactor = None if settings.redactor is None else RedactorProcess(settings.redactor, settings.redactor_timeout)
        capture = Capture(
            self._spool,
            CaptureLimits(settings.queue_exchanges, settings.queue_bytes, settings.spool_max_bytes),
            sync=settings.durability == "sync",
            on_new_spool=self._restart_shipper,
            prepare=None if redactor is None else redactor.redact,
        )
        self._shipper = ShipperProcess(
            [*settings.shipper_options(self._spool), "--part=mirror"], on_damaged_spool=capture.check_spool
        )
        pairing = Pairing(
            seconds=settings.pair_seconds, most_events=settings.pair_events, most_bytes=settings.pair_bytes
        )
        sink = Sink(
            pairing,
            capture,
            settings.policy(),
            model_name=settings.model_name,
            model_version=settings.model_version,
        )
        tls = server_context("control", settings.control_tls_cert, settings.control_tls_key)
        control_server = ControlServer(self._control_app(capture, sink), control, tls)
        expiring = asyncio.create_task(_expire(pairing))
        try:
            self._announce(events, control)
            await self._serve(sink, events)
        finally:
            expiring.cancel()
            pairing.close()
            await asyncio.to_thread(capture.close)
            if redactor is not None:
                redactor.close()
            await asyncio.to_thread(self._shipper.stop, settings.ship_seconds + 1)
            control_server.stop()  # last, so that the numbers can be read to the end
            logger.info("stopped")

    def _control_app(self, capture: Capture, sink: Sink) -> FastAPI:
        settings = self._settings
        # The control app of the sidecar, of one that has no model server behind it.
        nothing = Upstreams(UpstreamLimits())
        registry = create_registry(TrafficStats(), capture, nothing, self._spool, self._shipper_starts)
        registry.register(MirrorMetrics(sink))
        app = create_control_app(
            upstreams=nothing,
            traffic_loop=asyncio.get_running_loop(),
            registry=registry,
            not_ready=lambda: "draining" if self._draining else None,
            security=Security(self._tokens, session_seconds=round(settings.session_hours * 3600)),
            mlflow_ui_url=settings.mlflow_ui(),
            case_book_url=settings.case_book_url,
            field_log_uri=settings.field_log_uri,
            left_out=self._left_out,
        )
        steering = ("/upstream", "/canary")
        app.router.routes[:] = [route for route in app.router.routes if getattr(route, "path", "") not in steering]
        return app

    async def _serve(self, sink: Sink, events: socket.socket) -> None:
        config = uvicorn.Config(
            sink,  # type: ignore[arg-type]  # a raw ASGI app; uvicorn's own types want typed messages
            http="httptools",
            ws="none",
            lifespan="off",
            loop="none",
            access_log=False,
            log_config=None,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=max(1, round(self._settings.drain_seconds)),
        )
        server = TrafficServer(config)
        loop = asyncio.get_running_loop()

        def stop() -> None:
            server.force_exit = self._draining  # asked twice: do not wait for the events on their way
            self._draining = True
            server.should_exit = True

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        await server.serve(sockets=[events])

    def _restart_shipper(self) -> None:
        if self._shipper is not None:
            self._shipper.restart()

    def _shipper_starts(self) -> int:
        return 0 if self._shipper is None else self._shipper.starts

    def _announce(self, events: socket.socket, control: socket.socket) -> None:
        announce(
            self._settings.state_dir / ADDRESS_FILE,
            events_url=url_of(events),
            control_url=url_of(control, tls=self._settings.control_tls_cert is not None),
        )


async def _expire(pairing: Pairing) -> None:
    """Give up what has waited too long also while no events come in."""
    while True:
        await asyncio.sleep(_EXPIRE_SECONDS)
        pairing.expire(monotonic())
