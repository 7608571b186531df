"""The sidecar put together: traffic port, control port, capture, and the shipper that writes the field log."""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import signal
import socket

import uvloop

from fieldrepair_service.capture import Capture, CaptureLimits
from fieldrepair_service.console.security import Security
from fieldrepair_service.console_choice import why_left_out
from fieldrepair_service.control import create_control_app
from fieldrepair_service.control_server import ControlServer
from fieldrepair_service.last_upstream import LastUpstream
from fieldrepair_service.log_format import configure_logging
from fieldrepair_service.metrics import create_registry
from fieldrepair_service.proxy import Proxy
from fieldrepair_service.redactor_process import RedactorProcess, check_redactor
from fieldrepair_service.request_trace import RequestTraces
from fieldrepair_service.roles import Role
from fieldrepair_service.serving import announce, listen, sole_user_of, url_of
from fieldrepair_service.shipper_process import ShipperProcess
from fieldrepair_service.sidecar_settings import SidecarSettings
from fieldrepair_service.tls import client_context, server_context
from fieldrepair_service.tracing import open_sampler
from fieldrepair_service.traffic_server import TrafficServer
from fieldrepair_service.traffic_stats import TrafficStats
from fieldrepair_service.upstream import UpstreamLimits, Upstreams, normalise_upstream

logger = logging.getLogger(__name__)

ADDRESS_FILE = "sidecar.json"
"""File in the state folder that says where the sidecar listens: pid, traffic_url, control_url."""


def run_sidecar(settings: SidecarSettings) -> None:
    """Run until SIGTERM or SIGINT.

    Raises:
        ConfigurationError: if a port is taken, the state folder cannot be used, the upstream is no URL, or the console
            cannot be served and must be.
    """
    configure_logging(settings.log_format, "sidecar")
    if settings.upstream is not None:
        normalise_upstream(settings.upstream)
    _raise_file_limit()
    if settings.redactor is not None:
        check_redactor(settings.redactor)
    left_out = why_left_out(settings.console)
    with sole_user_of(settings.state_dir):
        tokens = settings.resolve_tokens()
        with (
            listen(settings.traffic_host, settings.traffic_port) as traffic,
            listen(settings.control_host, settings.control_port) as control,
        ):
            uvloop.run(_Sidecar(settings, tokens, left_out).run(traffic, control))


class _Sidecar:
    """One run of the sidecar."""

    def __init__(self, settings: SidecarSettings, tokens: dict[Role, str] | None, left_out: str | None) -> None:
        self._settings = settings
        self._tokens = tokens
        self._left_out = left_out
        self._spool = settings.state_dir / "spool.db"
        self._stats = TrafficStats()
        self._traffic_tls = server_context("traffic", settings.traffic_tls_cert, settings.traffic_tls_key)
        self._control_tls = server_context("control", settings.control_tls_cert, settings.control_tls_key)
        self._last_upstream = LastUpstream(settings.state_dir)
        self._upstreams = Upstreams(
            UpstreamLimits(
                settings.connect_timeout,
                settings.total_timeout,
                settings.upstream_idle_seconds,
                settings.busy_poll_seconds(),
            ),
            tls=client_context(settings.upstream_ca_file),
            on_switch=self._last_upstream.keep if settings.upstream is None else None,
        )
        self._sampler = open_sampler(settings.otlp_endpoint)
        self._draining = False
        self._shipper: ShipperProcess | None = None

    async def run(self, traffic: socket.socket, control: socket.socket) -> None:
        """Serve on both sockets until told to stop, then finish what is in flight and ship what is spooled."""
        settings = self._settings
        if settings.upstream is not None:
            await self._upstreams.switch(settings.upstream, settings.model_name, settings.model_version)
        elif (last := self._last_upstream.read()) is not None:
            await self._upstreams.switch(*last)
        redactor = None if settings.redactor is None else RedactorProcess(settings.redactor, settings.redactor_timeout)
        capture = Capture(
            self._spool,
            CaptureLimits(settings.queue_exchanges, settings.queue_bytes, settings.spool_max_bytes),
            sync=settings.durability == "sync",
            on_new_spool=self._restart_shipper,
            prepare=None if redactor is None else redactor.redact,
        )
        self._shipper = ShipperProcess(settings.shipper_options(self._spool), on_damaged_spool=capture.check_spool)
        control_server = ControlServer(
            create_control_app(
                upstreams=self._upstreams,
                traffic_loop=asyncio.get_running_loop(),
                registry=create_registry(self._stats, capture, self._upstreams, self._spool, self._shipper_starts),
                not_ready=self._not_ready,
                security=Security(self._tokens, session_seconds=round(settings.session_hours * 3600)),
                mlflow_ui_url=settings.mlflow_ui(),
                case_book_url=settings.case_book_url,
                field_log_uri=settings.field_log_uri,
                left_out=self._left_out,
                mlflow_webhook_secret=settings.webhook_secret(),
            ),
            control,
            self._control_tls,
        )
        traces = self._traces(self._shipper)
        proxy = Proxy(
            self._upstreams,
            capture,
            self._stats,
            policy=settings.policy(),
            limits=settings.traffic_limits(),
            traces=traces,
        )
        try:
            self._announce(traffic, control)
            await self._serve_traffic(proxy, traffic)
        finally:
            await self._upstreams.close()
            await asyncio.to_thread(capture.close)
            if redactor is not None:
                redactor.close()
            if traces is not None:
                await asyncio.to_thread(traces.close)
            await asyncio.to_thread(self._shipper.stop, settings.ship_seconds + 1)
            control_server.stop()  # last, so that the numbers can be read to the end
            logger.info("stopped")

    async def _serve_traffic(self, proxy: Proxy, traffic: socket.socket) -> None:
        server = TrafficServer(proxy, drain_seconds=self._settings.drain_seconds, tls=self._traffic_tls)
        loop = asyncio.get_running_loop()

        def stop() -> None:
            self._draining = True
            server.stop()  # asked twice, it does not wait for the requests in flight

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        # What exists by now stays for good. Leaving it out of every later collection keeps those short.
        gc.collect()
        gc.freeze()
        await server.serve(traffic)

    def _traces(self, shipper: ShipperProcess) -> RequestTraces | None:
        if self._sampler is None:
            return None
        traces = RequestTraces(self._sampler, shipper.send, discreet=self._settings.redactor is not None)
        self._stats.spans_dropped = lambda: traces.dropped
        return traces

    def _restart_shipper(self) -> None:
        if self._shipper is not None:
            self._shipper.restart()

    def _shipper_starts(self) -> int:
        return 0 if self._shipper is None else self._shipper.starts

    def _not_ready(self) -> str | None:
        if self._draining:
            return "draining"
        if self._upstreams.active is None:
            return "no upstream has been named yet"
        return None

    def _announce(self, traffic: socket.socket, control: socket.socket) -> None:
        announce(
            self._settings.state_dir / ADDRESS_FILE,
            traffic_url=url_of(traffic, tls=self._traffic_tls is not None),
            control_url=url_of(control, tls=self._control_tls is not None),
        )


def _raise_file_limit() -> None:
    """Each request holds two connections, and the usual limit of 1,024 open files was made for other programs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
