"""Shipping: what is in the spool is decoded and appended to the field log, each exchange exactly once."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from fieldrepair_service import drops
from fieldrepair_service.errors import DecodeError, StoreError
from fieldrepair_service.exchange import Exchange
from fieldrepair_service.field_log_maintenance import Maintenance, Upkeep
from fieldrepair_service.field_log_writer import FieldLogWriter
from fieldrepair_service.flush_stats import FlushStats
from fieldrepair_service.memory import give_back_memory
from fieldrepair_service.protocols import DECODERS
from fieldrepair_service.redaction import decode_redacted
from fieldrepair_service.rows import RowBatch
from fieldrepair_service.spool import Spool, Spooled
from fieldrepair_service.tracing import NO_TRACING, Tracing

logger = logging.getLogger(__name__)

_BATCH_BYTES = 64 << 20
_LOOK_SECONDS = 0.1
_LONGEST_PAUSE = 30.0
_SUSPECT = "suspect"  # "SEQ TIMES": the exchange that a careful shipper is decoding, and how often one has begun to
_MOST_ATTEMPTS = 2
_MOST_TRACES = 100


class Shipper:
    """Moves exchanges from one spool to one field log, each exactly once."""

    def __init__(self, spool: Spool, log: FieldLogWriter, tracing: Tracing = NO_TRACING) -> None:
        self._spool = spool
        self._log = log
        self._tracing = tracing
        self._warned: Counter[str] = Counter()
        self._flushes = FlushStats.of(spool)

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
        began = time.perf_counter()
        batch = self._spool.read(-1, limit=limit, max_bytes=_BATCH_BYTES)
        if not batch:
            return 0
        with self._tracing.span("ship exchanges", exchanges=len(batch), trace_ids=_trace_ids(batch)) as span:
            rows = self._ship(batch, careful=careful)
            version = self._log.version
            span.set(rows=rows, field_log_version=version)
        if rows:
            self._flushes.seconds.add(time.perf_counter() - began)
            self._flushes.table_version = version
            self._flushes.keep(self._spool)
        shipped = len(batch)
        del batch
        give_back_memory()
        return shipped

    def _ship(self, batch: list[Spooled], *, careful: bool) -> int:
        """Decode, append, settle; how many rows that were."""
        suspect = (self._spool.noted(_SUSPECT) or "") if careful else ""
        rows = RowBatch(self._spool.writer)
        counts: Counter[str] = Counter()
        rejected: list[tuple[int, str, str]] = []
        for each in batch:
            item = self._look_out(each, suspect) if careful else each
            counted, problem = self._decode(item, rows)
            counts.update(counted)
            if problem:
                rejected.append((item.seq, *problem))
        if careful:
            self._spool.note(_SUSPECT, None)
        last = batch[-1].seq
        if rows:
            self._log.append(rows.to_arrow(), writer=self._spool.writer, last_seq=last)
        # A crash right here is the reason for (writer, last_seq): the next shipper comes by again, appends nothing,
        # and counts what it would have counted, because decoding the same bytes gives the same rows.
        self._spool.settle(last, counts, rejected)
        return len(rows)

    def _look_out(self, item: Spooled, suspect: str) -> Spooled:
        """Note what is decoded next; what was noted twice before and is still here has killed this process twice."""
        noted, _, times = suspect.partition(" ")
        attempts = int(times) if noted == str(item.seq) else 0
        if attempts >= _MOST_ATTEMPTS:
            return Spooled(item.seq, None, drops.DECODER_CRASHED)
        self._spool.note(_SUSPECT, f"{item.seq} {attempts + 1}")
        return item

    def _decode(self, item: Spooled, rows: RowBatch) -> tuple[Counter[str], tuple[str, str] | None]:
        """Add one exchange's rows; what to count, and (reason, detail) if it is to be kept for a person to look at."""
        if item.exchange is None:
            reason = item.problem if item.problem == drops.DECODER_CRASHED else drops.CORRUPT
            logger.error("exchange %d of the spool is set aside (%s): %s", item.seq, reason, item.problem)
            return Counter({drops.EXCHANGE_DROPPED + reason: 1}), (reason, item.problem)
        try:
            return self._add(item.seq, item.exchange, rows), None
        except DecodeError as error:
            self._warn(error)
            return Counter({drops.EXCHANGE_DROPPED + error.reason: 1}), None

    def _add(self, seq: int, exchange: Exchange, rows: RowBatch) -> Counter[str]:
        decoder = DECODERS.get(exchange.protocol)
        if decoder is None:
            raise DecodeError(f"no decoder for protocol {exchange.protocol!r}", reason=drops.UNKNOWN_PROTOCOL)
        decoded = decode_redacted(exchange) if exchange.redaction else decoder.decode(exchange)
        logged, left_out = rows.add(seq, exchange, decoded)
        counts = Counter({drops.ROW_DROPPED + reason: count for reason, count in left_out.items()})
        counts[drops.ROWS_DECODED] = logged + left_out.total()
        counts[drops.ROWS_LOGGED] = logged
        if logged:
            counts[drops.EXCHANGES_LOGGED] = 1
        else:
            counts[drops.EXCHANGE_DROPPED + left_out.most_common(1)[0][0]] = 1
        return counts

    def _warn(self, error: DecodeError) -> None:
        """Say what cannot be read, but not once per request: the 1st, 10th, 100th, ... of each reason."""
        self._warned[error.reason] += 1
        times = self._warned[error.reason]
        if str(times).strip("0") == "1":
            logger.warning("exchange not logged (%s, %d so far): %s", error.reason, times, error)


def _trace_ids(batch: list[Spooled]) -> list[str]:
    """Traces that the requests of a batch belong to, the first hundred."""
    found = {each.exchange.trace_id: None for each in batch if each.exchange is not None and each.exchange.trace_id}
    return list(found)[:_MOST_TRACES]


@dataclass(frozen=True)
class ShippingOptions:
    """When to ship, and how much at once."""

    field_log: str
    flush_seconds: float = 1.0
    flush_exchanges: int = 5000
    upkeep: Upkeep = field(default_factory=Upkeep)
    grace: float = 5.0


def ship_until(
    ended: threading.Event,
    spool: Spool,
    options: ShippingOptions,
    *,
    careful: bool = False,
    tracing: Tracing = NO_TRACING,
) -> None:
    """Ship what comes in until ``ended`` is set, and then for ``grace`` seconds what is still there.

    Raises:
        sqlite3.Error: if the spool cannot be read or changed.
    """
    log: FieldLogWriter | None = None
    shipper: Shipper | None = None
    pause = 0.0
    maintenance: Maintenance | None = None
    last_flush = time.monotonic()
    deadline = float("inf")
    while True:
        if ended.is_set():
            deadline = min(deadline, time.monotonic() + options.grace)
        draining = deadline < float("inf")
        waiting = spool.waiting()
        due = time.monotonic() - last_flush >= options.flush_seconds or waiting >= options.flush_exchanges
        if draining and (waiting == 0 or time.monotonic() > deadline):
            return
        if waiting and (due or draining or careful):
            try:
                if log is None or shipper is None:
                    log = FieldLogWriter.open(options.field_log)
                    shipper = Shipper(spool, log, tracing)
                    maintenance = Maintenance(log, options.upkeep, spool.writer)
                shipper.ship(options.flush_exchanges, careful=careful)
            except StoreError as error:
                pause = min(max(2 * pause, 0.5), _LONGEST_PAUSE)
                logger.error("%s; trying again in %.1f s", error, pause)  # noqa: TRY400 - explained
                ended.wait(pause) if not draining else time.sleep(_LOOK_SECONDS)
                continue
            careful = False
            pause = 0.0
            last_flush = time.monotonic()
            if maintenance is not None and not draining:
                _maintain(maintenance)
        elif not draining:
            if maintenance is not None:
                maintenance.look()
            ended.wait(min(_LOOK_SECONDS, options.flush_seconds))


def _maintain(maintenance: Maintenance) -> None:
    try:
        maintenance.committed()
    except StoreError as error:
        logger.warning("the field log's small files are not merged now: %s", error)
    maintenance.look()
