"""Decoded exchanges as rows of the field log."""

from __future__ import annotations

from collections import Counter
from datetime import date
from functools import lru_cache

import nanoarrow as na
import numpy as np
import numpy.typing as npt
import orjson

from fieldrepair_service.arrow_columns import arrow_column, struct_column
from fieldrepair_service.drops import NOT_FINITE, SCORES_NOT_FINITE
from fieldrepair_service.exchange import UNKNOWN_MODEL, Exchange
from fieldrepair_service.field_log_columns import COLUMN_NAMES, FIELD_LOG_COLUMNS
from fieldrepair_service.protocols import DecodedExchange

_DAY_MS = 86_400_000
_EPOCH = date(1970, 1, 1).toordinal()


def request_id(timestamp_ms: int, writer: str, seq: int) -> str:
    """A request's id: 32 hexadecimal digits of time, writer and number.

    It can be told again from the spool at any time, and it begins with the time, so that a search for some ids can
    skip the files of other times.
    """
    return f"{timestamp_ms & 0xFFFFFFFFFFFF:012x}{writer[:8]}{seq & 0xFFFFFFFFFFFF:012x}"


class RowBatch:
    """Rows of many exchanges on their way into one table.

    Columns grow as lists, and Arrow sees them once: a table for each exchange costs as much as decoding it, and a
    table of a thousand pieces as much again wherever it is used.
    """

    def __init__(self, writer: str) -> None:
        self._writer = writer
        self._columns: dict[str, list[object]] = {name: [] for name in COLUMN_NAMES}

    def __len__(self) -> int:
        return len(self._columns["row"])

    def add(self, seq: int, exchange: Exchange, decoded: DecodedExchange) -> tuple[int, Counter[str]]:
        """Add the rows of one exchange: how many there were, and how many instances were left out for which reason.

        Left out are instances with a NaN or an infinity in them or in their scores: no detector, embedding or training
        step can use them.
        """
        inputs, predictions = decoded.inputs, decoded.predictions
        finite = _finite_rows(inputs)
        kept = finite if predictions.scores is None else finite & _finite_rows(predictions.scores)
        at = np.flatnonzero(kept)
        count = len(at)
        stored = np.ascontiguousarray(inputs, inputs.dtype.newbyteorder("<"))
        columns = self._columns
        for name, value in (
            ("writer", self._writer),
            ("seq", seq),
            ("request_id", request_id(exchange.timestamp_ms, self._writer, seq)),
            ("client_request_id", exchange.client_request_id),
            ("timestamp_ms", exchange.timestamp_ms),
            ("date", _day(exchange.timestamp_ms // _DAY_MS)),
            ("model_name", _model(exchange.model_name, decoded.model_name)),
            ("model_version", _model(exchange.model_version, decoded.model_version)),
            ("protocol", exchange.protocol),
            ("status_code", exchange.status_code),
            ("execution_time_ms", exchange.execution_time_ms),
            ("sampling_fraction", exchange.sampling_fraction),
            ("dtype", inputs.dtype.name),
            ("shape", inputs.shape[1:]),
            ("headers", _headers(exchange.headers)),
            ("trace_id", exchange.trace_id or None),
            ("columns", decoded.columns),
        ):
            columns[name] += [value] * count
        columns["row"] += at.tolist()
        columns["input"] += [stored[i].tobytes() for i in at]
        for name, values in (
            ("scores", predictions.scores),
            ("predicted_class", predictions.predicted_class),
            ("confidence", predictions.confidence),
        ):
            columns[name] += [None] * count if values is None else list(values[at])
        if count == len(inputs):
            return count, Counter()
        unfit = Counter({NOT_FINITE: int((~finite).sum()), SCORES_NOT_FINITE: int((finite & ~kept).sum())})
        return count, +unfit

    def to_arrow(self) -> na.Array:
        """All of them, as a struct array of :data:`FIELD_LOG_COLUMNS`, which any Arrow library takes as a table."""
        columns = [arrow_column(self._columns[field.name], field) for field in FIELD_LOG_COLUMNS.fields]
        return na.Array(struct_column(columns, len(self), FIELD_LOG_COLUMNS))


def to_rows(writer: str, seq: int, exchange: Exchange, decoded: DecodedExchange) -> tuple[na.Array, Counter[str]]:
    """The rows of one exchange by itself, and what was left out of them; see :meth:`RowBatch.add`."""
    batch = RowBatch(writer)
    _, left_out = batch.add(seq, exchange, decoded)
    return batch.to_arrow(), left_out


@lru_cache(maxsize=8)
def _day(days: int) -> str:
    """The UTC day that is so many after 1970-01-01."""
    return date.fromordinal(_EPOCH + days).isoformat()


def _model(of_upstream: str, of_request: str) -> str:
    """Name or version to log: the upstream's where it was given one, else what the request names.

    Monitor and repair know a model by its name and version in the registry, which is what an upstream is given; a
    path has the model server's own words for it.
    """
    return of_upstream if of_upstream != UNKNOWN_MODEL else of_request or UNKNOWN_MODEL


def _headers(kept: str) -> list[tuple[str, str]] | None:
    return list(orjson.loads(kept).items()) if kept else None


def _finite_rows(values: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    if values.dtype.kind != "f":
        return np.ones(len(values), dtype=np.bool_)
    return np.isfinite(values.reshape(len(values), -1)).all(axis=1)
