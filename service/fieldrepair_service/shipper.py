"""``python -m fieldrepair_service.shipper``: the process that writes the field log.

A process of its own, so that decoding never holds the interpreter lock of the request path, and an input that brings
a decoder down brings down this and not the serving. It ends when its standard input does, that is, with its parent.
"""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import signal
import sqlite3
import threading
from pathlib import Path

from fieldrepair_service.errors import SpoolError
from fieldrepair_service.log_format import configure_logging
from fieldrepair_service.shipper_process import SPOOL_DAMAGED_EXIT
from fieldrepair_service.spool import Spool, is_damage
from fieldrepair_service.tracing import OpenTelemetry, Tracing, open_tracing

logger = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Run until standard input ends; the exit status."""
    given = _parse(arguments)
    configure_logging(given.log_format, "shipper")
    os.nice(10)  # where processors are short, predictions go first
    # A signal to the whole group is meant for the parent, which ends this process when it is time.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent_gone = threading.Event()
    tracing = open_tracing(given.part, given.otlp_endpoint)
    threading.Thread(target=_watch_parent, args=(parent_gone, tracing), daemon=True).start()
    from fieldrepair_service.field_log_maintenance import Upkeep
    from fieldrepair_service.shipping import ShippingOptions, ship_until  # takes a moment to import

    options = ShippingOptions(
        given.field_log,
        given.flush_seconds,
        given.flush_exchanges,
        Upkeep(given.compact_every, given.retention_days, given.vacuum_hours),
        given.grace,
    )
    with given.spool.with_name(given.spool.name + ".shipper-lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a shipper that outlived its parent by a moment may still be at work
            ship_until(parent_gone, Spool.attach(given.spool), options, careful=given.careful, tracing=tracing)
        except sqlite3.Error as error:
            logger.error("the spool %s cannot be used: %s", given.spool, error)  # noqa: TRY400 - explained
            return SPOOL_DAMAGED_EXIT if is_damage(error) else 1
        except SpoolError as error:
            logger.error("%s", error)  # noqa: TRY400 - explained
            return SPOOL_DAMAGED_EXIT
        finally:
            tracing.close()
    return 0


def _watch_parent(gone: threading.Event, tracing: Tracing) -> None:
    """Wait for the parent's end. What it says until then is about requests that have a span."""
    # Not through sys.stdin: its lock, held by a thread that waits, would make the interpreter's end a crash.
    rest = b""
    while piece := os.read(0, 1 << 16):
        if isinstance(tracing, OpenTelemetry):
            *lines, rest = (rest + piece).split(b"\n")
            for line in filter(None, lines):
                _make_spans(line, tracing)
    gone.set()


def _make_spans(line: bytes, tracing: OpenTelemetry) -> None:
    from fieldrepair_service.request_spans import make_spans  # brings OpenTelemetry, which is not always installed

    make_spans(line, tracing)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fieldrepair_service.shipper", description=__doc__)
    parser.add_argument("--spool", type=Path, required=True)
    parser.add_argument("--field-log", required=True)
    parser.add_argument("--flush-seconds", type=float, default=1.0)
    parser.add_argument("--flush-exchanges", type=int, default=5000)
    parser.add_argument("--compact-every", type=int, default=100)
    parser.add_argument("--retention-days", type=int, default=0)
    parser.add_argument("--vacuum-hours", type=int, default=24)
    parser.add_argument("--grace", type=float, default=5.0)
    parser.add_argument("--careful", action="store_true")
    parser.add_argument("--part", default="sidecar", help="whose traces these are")
    parser.add_argument("--otlp-endpoint")
    parser.add_argument("--log-format", choices=["text", "json"], default="text")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
