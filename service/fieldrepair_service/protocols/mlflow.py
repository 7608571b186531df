"""MLflow's scoring protocol: ``POST /invocations`` with JSON in one of four forms, CSV or Parquet; answered in JSON.

Forms and content types: https://mlflow.org/docs/latest/genai/serving and the scoring server of MLflow 3.
"""

from __future__ import annotations

import json
import zlib
from typing import TypeGuard

import numpy as np
import numpy.typing as npt
import orjson

from fieldrepair_service import drops
from fieldrepair_service.errors import DecodeError
from fieldrepair_service.exchange import Exchange
from fieldrepair_service.protocols.base import DecodedExchange, Predictions, as_numbers, read_scores
from fieldrepair_service.protocols.tables import read_csv, read_parquet

_FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")
_MOST_UNPACKED = 256 << 20


class MlflowScoring:
    """Decoder of MLflow's scoring protocol."""

    name = "mlflow"

    def decode(self, exchange: Exchange) -> DecodedExchange:
        """Read an exchange.

        Raises:
            DecodeError: with the reason to count it under.
        """
        request = _unpack(exchange.request_body, exchange.request_encoding)
        inputs = _read_inputs(request, exchange.request_type)
        if inputs.ndim == 0:
            raise DecodeError("a single value is no batch of instances", reason=drops.NO_BATCH)
        if inputs.size == 0:
            raise DecodeError(f"a batch of shape {inputs.shape} has no values", reason=drops.EMPTY)
        answer = _unpack(exchange.answer_body, exchange.answer_encoding)
        predictions = _read_predictions(answer, len(inputs))
        return DecodedExchange(inputs, predictions)


def _unpack(body: bytes, encoding: str) -> bytes:
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise DecodeError(f"content encoding {encoding!r} is not known", reason=drops.CONTENT_TYPE)
    unpacker = zlib.decompressobj(wbits=47 if encoding != "deflate" else 15)
    try:
        unpacked = unpacker.decompress(body, _MOST_UNPACKED)
    except zlib.error as error:
        raise DecodeError(f"not {encoding}: {error}", reason=drops.MALFORMED_REQUEST) from error
    if unpacker.unconsumed_tail:
        raise DecodeError(f"more than {_MOST_UNPACKED} bytes unpacked", reason=drops.TOO_LARGE_DECODED)
    return unpacked


def _read_inputs(body: bytes, content_type: str) -> npt.NDArray[np.generic]:
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/json":
        return _read_json_inputs(_parse(body, drops.MALFORMED_REQUEST))
    if kind == "text/csv":
        return read_csv(body)
    if kind == "application/vnd.apache.parquet":
        return read_parquet(body)
    raise DecodeError(f"content type {content_type!r} is not known", reason=drops.CONTENT_TYPE)


def _parse(body: bytes, reason: str) -> object:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        pass
    try:
        # The scoring server takes NaN and Infinity, which orjson rightly refuses; so that they can be counted as such.
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"not JSON: {error}", reason=reason) from error


def _read_json_inputs(request: object) -> npt.NDArray[np.generic]:
    fields = _dict(request)
    forms = [form for form in _FORMS if form in fields]
    if len(forms) != 1:
        raise DecodeError(
            f"need exactly one of {', '.join(_FORMS)}, got {forms or 'none'}", reason=drops.MALFORMED_REQUEST
        )
    content = fields[forms[0]]
    if forms[0] == "dataframe_split":
        rows = _list(_dict(content).get("data"))
        return as_numbers(_single_cells(rows), "the rows")
    if forms[0] == "dataframe_records":
        return as_numbers(_records(_list(content)), "the records")
    if _is_dict(content):
        content = _only_tensor(content)
    elif _is_list(content) and content and _is_dict(content[0]):
        content = [_only_tensor(_dict(instance)) for instance in content]
    return as_numbers(content, "the instances")


def _read_predictions(body: bytes, count: int) -> Predictions:
    answer = _parse(body, drops.MALFORMED_ANSWER)
    if not _is_dict(answer) or "predictions" not in answer:
        raise DecodeError("the answer has no predictions", reason=drops.MALFORMED_ANSWER)
    predictions = answer["predictions"]
    if _is_dict(predictions):
        predictions = _only_tensor(predictions)
    if not _is_list(predictions):
        raise DecodeError(f"predictions are a {type(predictions).__name__}, not a list", reason=drops.OUTPUT_SHAPE)
    if len(predictions) != count:
        raise DecodeError(f"{len(predictions)} predictions for {count} instances", reason=drops.OUTPUTS_MISMATCH)
    if _is_dict(predictions[0]):
        predictions = _records(predictions, drops.MALFORMED_ANSWER)
    if all(isinstance(value, str) for value in predictions):
        return Predictions(None, None, None)  # names of classes; which is which is not known here
    return _read_outputs(as_numbers(predictions, "the predictions"))


def _read_outputs(outputs: npt.NDArray[np.generic]) -> Predictions:
    whole = outputs.dtype.kind in "ib"
    if whole and (outputs.ndim == 1 or (outputs.ndim == 2 and outputs.shape[1] == 1)):
        classes = outputs.reshape(-1).astype(np.int64)
        if np.abs(classes).max() > np.iinfo(np.int32).max:
            raise DecodeError("a predicted class is beyond 32 bits", reason=drops.OUTPUT_SHAPE)
        return Predictions(None, classes.astype(np.int32), None)
    if outputs.ndim == 1:
        outputs = outputs.reshape(-1, 1)
    if outputs.ndim != 2 or outputs.shape[1] == 0:
        raise DecodeError(f"predictions of shape {outputs.shape} are not scores", reason=drops.OUTPUT_SHAPE)
    return read_scores(outputs.astype(np.float32))


def _is_dict(value: object) -> TypeGuard[dict[str, object]]:
    return isinstance(value, dict)


def _is_list(value: object) -> TypeGuard[list[object]]:
    return isinstance(value, list)


def _dict(value: object, reason: str = drops.MALFORMED_REQUEST) -> dict[str, object]:
    if not _is_dict(value):
        raise DecodeError(f"expected a JSON object, got a {type(value).__name__}", reason=reason)
    return value


def _list(value: object) -> list[object]:
    if not _is_list(value):
        raise DecodeError(f"expected a list, got a {type(value).__name__}", reason=drops.MALFORMED_REQUEST)
    return value


def _only_tensor(tensors: dict[str, object]) -> object:
    if len(tensors) != 1:
        raise DecodeError(f"expected one named tensor, got {len(tensors)}", reason=drops.SEVERAL_TENSORS)
    return next(iter(tensors.values()))


def _records(records: list[object], reason: str = drops.MALFORMED_REQUEST) -> list[object]:
    """Rows of data frame records, their cells in the order of the first one's columns."""
    if not records:
        return []
    names = list(_dict(records[0], reason))
    rows: list[object] = []
    for record in records:
        cells = _dict(record, reason)
        if cells.keys() != set(names):
            raise DecodeError("the records do not all have the same columns", reason=drops.RAGGED)
        rows.append([cells[name] for name in names])
    return _single_cells(rows)


def _single_cells(rows: list[object]) -> list[object]:
    """Rows of one column whose cells are arrays: the arrays themselves. Other rows stay as they are."""
    cells: list[object] = []
    for row in rows:
        if not (_is_list(row) and len(row) == 1 and _is_list(row[0])):
            return rows
        cells.append(row[0])
    return cells
