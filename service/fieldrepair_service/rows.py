"""Decoded exchanges as rows of the field log."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timezone

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from fieldrepair_service.drops import NOT_FINITE, SCORES_NOT_FINITE
from fieldrepair_service.exchange import UNKNOWN_MODEL, Exchange
from fieldrepair_service.field_rows import FIELD_LOG_SCHEMA
from fieldrepair_service.protocols import DecodedExchange


def request_id(timestamp_ms: int, writer: str, seq: int) -> str:
    """A request's id: 32 hexadecimal digits of time, writer and number.

    It can be told again from the spool at any time, and it begins with the time, so that a search for some ids can
    skip the files of other times.
    """
    return f"{timestamp_ms & 0xFFFFFFFFFFFF:012x}{writer[:8]}{seq & 0xFFFFFFFFFFFF:012x}"


def to_rows(writer: str, seq: int, exchange: Exchange, decoded: DecodedExchange) -> tuple[pa.Table, Counter[str]]:
    """The rows of one exchange, and how many of its instances were left out for which reason.

    Left out are instances with a NaN or an infinity in them or in their scores: no detector, embedding or training
    step can use them.
    """
    inputs, predictions = decoded.inputs, decoded.predictions
    finite = _finite_rows(inputs)
    kept = finite if predictions.scores is None else finite & _finite_rows(predictions.scores)
    dropped = Counter({NOT_FINITE: int((~finite).sum()), SCORES_NOT_FINITE: int((finite & ~kept).sum())})
    at = np.flatnonzero(kept)
    count = len(at)
    stored = np.ascontiguousarray(inputs.astype(inputs.dtype.newbyteorder("<"), copy=False))
    day = datetime.fromtimestamp(exchange.timestamp_ms / 1000, timezone.utc).date().isoformat()
    columns: dict[str, object] = {
        "writer": [writer] * count,
        "seq": [seq] * count,
        "row": at.astype(np.int32),
        "request_id": [request_id(exchange.timestamp_ms, writer, seq)] * count,
        "client_request_id": [exchange.client_request_id] * count,
        "timestamp_ms": [exchange.timestamp_ms] * count,
        "date": [day] * count,
        "model_name": [_model(exchange.model_name, decoded.model_name)] * count,
        "model_version": [_model(exchange.model_version, decoded.model_version)] * count,
        "protocol": [exchange.protocol] * count,
        "status_code": [exchange.status_code] * count,
        "execution_time_ms": [exchange.execution_time_ms] * count,
        "sampling_fraction": [exchange.sampling_fraction] * count,
        "input": [stored[i].tobytes() for i in at],
        "dtype": [inputs.dtype.name] * count,
        "shape": [list(inputs.shape[1:])] * count,
        "scores": _optional(None if predictions.scores is None else list(predictions.scores[at]), count),
        "predicted_class": _optional(
            None if predictions.predicted_class is None else predictions.predicted_class[at].tolist(), count
        ),
        "confidence": _optional(None if predictions.confidence is None else predictions.confidence[at].tolist(), count),
        "headers": [_headers(exchange.headers)] * count,
        "trace_id": [exchange.trace_id or None] * count,
        "columns": [None if decoded.columns is None else list(decoded.columns)] * count,
    }
    return pa.Table.from_pydict(columns, schema=FIELD_LOG_SCHEMA), +dropped


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
    return np.isfinite(values.reshape(len(values), -1).astype(np.float64)).all(axis=1)


def _optional(values: list[object] | None, count: int) -> list[object]:
    return [None] * count if values is None else values
