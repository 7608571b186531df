"""``python -m fieldrepair_service.shipper``: decodes what is in the spool and appends it to the field log.

A process of its own, so that decoding never holds the interpreter lock of the request path, and an input that brings
a decoder down brings down this and not the serving. It ends when its standard input does, that is, with its parent.
"""

from __future__ import annotations

import argparse
import fcntl
import logging
import signal
import sqlite3
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa

from fieldrepair_service import drops
from fieldrepair_service.errors import DecodeError, SpoolError, StoreError
from fieldrepair_service.exchange import Exchange
from fieldrepair_service.field_log import FieldLog
from fieldrepair_service.protocols import DECODERS
from fieldrepair_service.rows import to_rows
from fieldrepair_service.shipper_process import SPOOL_DAMAGED_EXIT
from fieldrepair_service.spool import Spool, Spooled, is_damage

logger = logging.getLogger(__name__)

_BATCH_BYTES = 64 << 20
_LOOK_SECONDS = 0.1
_LONGEST_PAUSE = 30.0
_SUSPECT = "suspect"  # "SEQ TIMES": the exchange that a careful shipper is decoding, and how often one has begun to
_MOST_ATTEMPTS = 2


class Shipper:
    """Moves exchanges from one spool to one field log, each exactly once."""

    def __init__(self, spool: Spool, log: FieldLog) -> None:
        self._spool = spool
        self._log = log
        self._warned: Counter[str] = Counter()

    def ship(self, limit: int, *, careful: bool = False) -> int:
        """Ship the next batch; how many exchanges it had.

        Args:
            limit: at most so many exchanges.
            careful: note which exchange is being decoded, so that one that kills this process can be told. For after
                a crash: it costs a commit each.

        Raises:
            StoreError: if the field log does not take it; then nothing has changed, and it can be tried again.
            sqlite3.Error: if the spool cannot be read or changed.
        """
        batch = self._spool.read(-1, limit=limit, max_bytes=_BATCH_BYTES)
        if not batch:
            return 0
        suspect = (self._spool.noted(_SUSPECT) or "") if careful else ""
        tables: list[pa.Table] = []
        counts: Counter[str] = Counter()
        rejected: list[tuple[int, str, str]] = []
        for each in batch:
            item = self._look_out(each, suspect) if careful else each
            table, counted, problem = self._decode(item)
            counts += counted
            if table is not None:
                tables.append(table)
            if problem:
                rejected.append((item.seq, *problem))
        if careful:
            self._spool.note(_SUSPECT, None)
        last = batch[-1].seq
        if tables:
            rows = pa.concat_tables(tables)
            self._log.append(rows, writer=self._spool.writer, last_seq=last)
        # A crash right here is the reason for (writer, last_seq): the next shipper comes by again, appends nothing,
        # and counts what it would have counted, because decoding the same bytes gives the same rows.
        self._spool.settle(last, counts, rejected)
        return len(batch)

    def _look_out(self, item: Spooled, suspect: str) -> Spooled:
        """Note what is decoded next; what was noted twice before and is still here has killed this process twice."""
        noted, _, times = suspect.partition(" ")
        attempts = int(times) if noted == str(item.seq) else 0
        if attempts >= _MOST_ATTEMPTS:
            return Spooled(item.seq, None, drops.DECODER_CRASHED)
        self._spool.note(_SUSPECT, f"{item.seq} {attempts + 1}")
        return item

    def _decode(self, item: Spooled) -> tuple[pa.Table | None, Counter[str], tuple[str, str] | None]:
        """Rows of one exchange, what to count, and (reason, detail) if it is to be kept for a person to look at."""
        if item.exchange is None:
            reason = item.problem if item.problem == drops.DECODER_CRASHED else drops.CORRUPT
            logger.error("exchange %d of the spool is set aside (%s): %s", item.seq, reason, item.problem)
            return None, Counter({drops.EXCHANGE_DROPPED + reason: 1}), (reason, item.problem)
        try:
            return (*self._rows_of(item.seq, item.exchange), None)
        except DecodeError as error:
            self._warn(error)
            return None, Counter({drops.EXCHANGE_DROPPED + error.reason: 1}), None

    def _rows_of(self, seq: int, exchange: Exchange) -> tuple[pa.Table | None, Counter[str]]:
        decoder = DECODERS.get(exchange.protocol)
        if decoder is None:
            raise DecodeError(f"no decoder for protocol {exchange.protocol!r}", reason=drops.UNKNOWN_PROTOCOL)
        rows, left_out = to_rows(self._spool.writer, seq, exchange, decoder.decode(exchange))
        counts = Counter({drops.ROW_DROPPED + reason: count for reason, count in left_out.items()})
        counts[drops.ROWS_DECODED] = rows.num_rows + left_out.total()
        counts[drops.ROWS_LOGGED] = rows.num_rows
        if rows.num_rows:
            counts[drops.EXCHANGES_LOGGED] = 1
            return rows, counts
        counts[drops.EXCHANGE_DROPPED + left_out.most_common(1)[0][0]] = 1
        return None, counts

    def _warn(self, error: DecodeError) -> None:
        """Say what cannot be read, but not once per request: the 1st, 10th, 100th, ... of each reason."""
        self._warned[error.reason] += 1
        times = self._warned[error.reason]
        if str(times).strip("0") == "1":
            logger.warning("exchange not logged (%s, %d so far): %s", error.reason, times, error)


def main(arguments: list[str] | None = None) -> int:
    """Run until standard input ends; the exit status."""
    options = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s shipper: %(message)s")
    # A signal to the whole group is meant for the parent, which ends this process when it is time.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent_gone = threading.Event()
    threading.Thread(target=_watch_parent, args=(parent_gone,), daemon=True).start()
    lock = open(options.spool.with_name(options.spool.name + ".shipper-lock"), "wb")  # noqa: SIM115, PTH123 - held to the end
    fcntl.flock(lock, fcntl.LOCK_EX)  # a shipper that outlived its parent by a moment may still be at work
    try:
        return _run(options, parent_gone)
    except sqlite3.Error as error:
        logger.error("the spool %s cannot be used: %s", options.spool, error)  # noqa: TRY400 - explained
        return SPOOL_DAMAGED_EXIT if is_damage(error) else 1
    except SpoolError as error:
        logger.error("%s", error)  # noqa: TRY400 - explained
        return SPOOL_DAMAGED_EXIT


def _run(options: argparse.Namespace, parent_gone: threading.Event) -> int:
    spool = Spool.attach(options.spool)
    log: FieldLog | None = None
    shipper: Shipper | None = None
    careful: bool = options.careful
    pause = 0.0
    commits = 0
    last_flush = time.monotonic()
    deadline = float("inf")
    while True:
        if parent_gone.is_set():
            deadline = min(deadline, time.monotonic() + options.grace)
        draining = deadline < float("inf")
        waiting = spool.waiting()
        due = time.monotonic() - last_flush >= options.flush_seconds or waiting >= options.flush_exchanges
        if draining and (waiting == 0 or time.monotonic() > deadline):
            return 0
        if waiting and (due or draining or careful):
            try:
                if log is None or shipper is None:
                    log = FieldLog.open(options.field_log)
                    shipper = Shipper(spool, log)
                shipper.ship(options.flush_exchanges, careful=careful)
            except StoreError as error:
                pause = min(max(2 * pause, 0.5), _LONGEST_PAUSE)
                logger.error("%s; trying again in %.1f s", error, pause)  # noqa: TRY400 - explained
                parent_gone.wait(pause) if not draining else time.sleep(_LOOK_SECONDS)
                continue
            careful = False
            pause = 0.0
            commits += 1
            last_flush = time.monotonic()
            if options.compact_every and commits % options.compact_every == 0:
                log.compact()
        elif not draining:
            parent_gone.wait(min(_LOOK_SECONDS, options.flush_seconds))


def _watch_parent(gone: threading.Event) -> None:
    while sys.stdin.buffer.read(1024):
        pass
    gone.set()


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fieldrepair_service.shipper", description=__doc__)
    parser.add_argument("--spool", type=Path, required=True)
    parser.add_argument("--field-log", required=True)
    parser.add_argument("--flush-seconds", type=float, default=1.0)
    parser.add_argument("--flush-exchanges", type=int, default=1000)
    parser.add_argument("--compact-every", type=int, default=500)
    parser.add_argument("--grace", type=float, default=5.0)
    parser.add_argument("--careful", action="store_true")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
