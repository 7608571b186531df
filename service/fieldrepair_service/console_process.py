"""``fieldrepair console`` as a process: one port, and sidecars elsewhere that it asks."""

from __future__ import annotations

import logging
import signal
import threading

from fieldrepair_service.build_info import process_registry
from fieldrepair_service.console.security import Security
from fieldrepair_service.console.sidecar_addresses import parse_sidecar
from fieldrepair_service.console.sidecar_traffic import PollTimes, SidecarTraffic
from fieldrepair_service.console_app import create_console_app
from fieldrepair_service.console_choice import require_packages
from fieldrepair_service.console_settings import ConsoleSettings
from fieldrepair_service.control_server import ControlServer
from fieldrepair_service.errors import ServerEnded
from fieldrepair_service.log_format import configure_logging
from fieldrepair_service.serving import announce, listen, make_state_dir, url_of
from fieldrepair_service.stores import Stores
from fieldrepair_service.tls import client_context, server_context

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0

ADDRESS_FILE = "console.json"
"""File in the state folder that says where the console listens: pid, control_url."""


def run_console(settings: ConsoleSettings) -> None:
    """Run until SIGTERM or SIGINT.

    Raises:
        ConfigurationError: if packages are missing, the port is taken, or a certificate or the state folder cannot be
            used.
        ServerEnded: if the server cannot go on.
    """
    configure_logging(settings.log_format, "console")
    # One line for every look at a sidecar would bury what the console says itself.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    require_packages("fieldrepair console")
    make_state_dir(settings.state_dir)
    tokens = settings.resolve_tokens()
    tls = server_context("control", settings.control_tls_cert, settings.control_tls_key)
    traffic = SidecarTraffic(
        [parse_sidecar(url) for url in settings.sidecars],
        PollTimes(settings.sidecars_poll_seconds, settings.sidecars_answer_seconds),
        client_context(settings.sidecars_ca_file),
    )
    registry = process_registry()
    registry.register(traffic)
    app = create_console_app(
        security=Security(tokens, session_seconds=round(settings.session_hours * 3600)),
        stores=Stores(settings.case_book_url, settings.field_log_uri),
        traffic=traffic,
        registry=registry,
        mlflow_ui_url=settings.mlflow_ui(),
    )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    with listen(settings.control_host, settings.control_port) as control:
        server = ControlServer(app, control, tls)
        announce(settings.state_dir / ADDRESS_FILE, control_url=url_of(control, tls=tls is not None))
        while not stop.wait(_LOOK_SECONDS):
            if not server.serving:  # whoever started this process is to know, and to start it again
                raise ServerEnded("the console's server has ended by itself; what it logged says why")
        server.stop()
    logger.info("stopped")
