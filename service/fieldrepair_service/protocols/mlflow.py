"""MLflow's scoring protocol: ``POST /invocations`` with JSON in one of four forms, CSV or Parquet; answered in JSON.

Forms and content types: https://mlflow.org/docs/latest/genai/serving and the scoring server of MLflow 3.
"""

from __future__ import annotations

from fieldrepair_service import drops
from fieldrepair_service.errors import DecodeError
from fieldrepair_service.exchange import Exchange
from fieldrepair_service.protocols.base import (
    DecodedExchange,
    Inputs,
    Predictions,
    as_numbers,
    as_table,
    read_outputs,
)
from fieldrepair_service.protocols.bodies import (
    as_dict,
    as_list,
    is_dict,
    is_list,
    media_type,
    only_tensor,
    parse_json,
    unpack,
)
from fieldrepair_service.protocols.named_outputs import read_named
from fieldrepair_service.protocols.tables import read_csv, read_parquet
from fieldrepair_service.routes import MLFLOW

_FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")


class MlflowScoring:
    """Decoder of MLflow's scoring protocol."""

    name = MLFLOW

    def decode(self, exchange: Exchange) -> DecodedExchange:
        """Read an exchange.

        Raises:
            DecodeError: with the reason to count it under.
        """
        request = unpack(exchange.request_body, exchange.request_encoding, drops.MALFORMED_REQUEST)
        read = _read_inputs(request, exchange.request_type)
        inputs = read.values
        if inputs.ndim == 0:
            raise DecodeError("a single value is no batch of instances", reason=drops.NO_BATCH)
        if inputs.size == 0:
            raise DecodeError(f"a batch of shape {inputs.shape} has no values", reason=drops.EMPTY)
        answer = unpack(exchange.answer_body, exchange.answer_encoding, drops.MALFORMED_ANSWER)
        predictions = read_predictions(answer, len(inputs))
        return DecodedExchange(inputs, predictions, columns=read.columns)


def _read_inputs(body: bytes, content_type: str) -> Inputs:
    kind = media_type(content_type)
    if kind == "application/json":
        return _read_json_inputs(parse_json(body, drops.MALFORMED_REQUEST))
    if kind == "text/csv":
        return read_csv(body)
    if kind == "application/vnd.apache.parquet":
        return read_parquet(body)
    raise DecodeError(f"content type {content_type!r} is not known", reason=drops.CONTENT_TYPE)


def _read_json_inputs(request: object) -> Inputs:
    fields = as_dict(request, drops.MALFORMED_REQUEST)
    forms = [form for form in _FORMS if form in fields]
    if len(forms) != 1:
        raise DecodeError(
            f"need exactly one of {', '.join(_FORMS)}, got {forms or 'none'}", reason=drops.MALFORMED_REQUEST
        )
    content = fields[forms[0]]
    if forms[0] == "dataframe_split":
        frame = as_dict(content, drops.MALFORMED_REQUEST)
        rows = as_list(frame.get("data"), drops.MALFORMED_REQUEST)
        names = frame.get("columns")
        return as_table(as_numbers(_single_cells(rows), "the rows"), names if is_list(names) else ())
    if forms[0] == "dataframe_records":
        return _read_records(as_list(content, drops.MALFORMED_REQUEST))
    if is_dict(content):
        columns = _read_columns(content)
        if columns is not None:
            return columns
        content = only_tensor(content)
    elif is_list(content) and content and is_dict(content[0]) and _is_row(content[0]):
        return _read_records(content)
    elif is_list(content) and content and is_dict(content[0]):
        content = [only_tensor(as_dict(instance, drops.MALFORMED_REQUEST)) for instance in content]
    return Inputs(as_numbers(content, "the instances"))


def _read_records(records: list[object]) -> Inputs:
    """One JSON object per instance, a name and a cell for each column."""
    values = as_numbers(_records(records), "the records")
    return as_table(values, list(as_dict(records[0], drops.MALFORMED_REQUEST)) if records else ())


def _is_row(instance: dict[str, object]) -> bool:
    """Whether an instance is a table row, with several named numbers; else its one value is a tensor."""
    return len(instance) > 1 and not any(is_list(cell) or is_dict(cell) for cell in instance.values())


def _read_columns(content: dict[str, object]) -> Inputs | None:
    """Several named lists of numbers, one per column of a table; None if it is no such thing."""
    lists = [values for values in content.values() if is_list(values)]
    if len(lists) < 2 or len(lists) < len(content) or len({len(values) for values in lists}) != 1:
        return None
    if any(is_list(cell) or is_dict(cell) for values in lists for cell in values):
        return None
    return as_table(as_numbers([list(row) for row in zip(*lists, strict=True)], "the columns"), list(content))


def read_predictions(body: bytes, count: int) -> Predictions:
    """What a JSON answer says about each of ``count`` instances.

    Raises:
        DecodeError: with the reason to count it under.
    """
    answer = parse_json(body, drops.MALFORMED_ANSWER)
    if not is_dict(answer) or "predictions" not in answer:
        raise DecodeError("the answer has no predictions", reason=drops.MALFORMED_ANSWER)
    predictions = answer["predictions"]
    if is_dict(predictions):
        predictions = _by_instance(predictions) or only_tensor(predictions)
    if not is_list(predictions):
        raise DecodeError(f"predictions are a {type(predictions).__name__}, not a list", reason=drops.OUTPUT_SHAPE)
    if len(predictions) != count:
        raise DecodeError(f"{len(predictions)} predictions for {count} instances", reason=drops.OUTPUTS_MISMATCH)
    if is_dict(predictions[0]):
        named = read_named(predictions)
        if named is not None:
            return named
        predictions = _records(predictions, drops.MALFORMED_ANSWER)
    if all(isinstance(value, str) for value in predictions):
        return Predictions(None, None, None)  # names of classes; which is which is not known here
    return read_outputs(as_numbers(predictions, "the predictions"))


def _by_instance(columns: dict[str, object]) -> list[object] | None:
    """Several named lists of one length as one JSON object for each instance; None if they are not that."""
    lists = {name: values for name, values in columns.items() if is_list(values)}
    lengths = {len(values) for values in lists.values()}
    if len(lists) < 2 or len(lists) < len(columns) or len(lengths) != 1:
        return None
    records: list[object] = [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
    return records if read_named(records) is not None else None


def _records(records: list[object], reason: str = drops.MALFORMED_REQUEST) -> list[object]:
    """Rows of data frame records, their cells in the order of the first one's columns."""
    if not records:
        return []
    names = list(as_dict(records[0], reason))
    rows: list[object] = []
    for record in records:
        cells = as_dict(record, reason)
        if cells.keys() != set(names):
            raise DecodeError("the records do not all have the same columns", reason=drops.RAGGED)
        rows.append([cells[name] for name in names])
    return _single_cells(rows)


def _single_cells(rows: list[object]) -> list[object]:
    """Rows of one column whose cells are arrays: the arrays themselves. Other rows stay as they are."""
    cells: list[object] = []
    for row in rows:
        if not (is_list(row) and len(row) == 1 and is_list(row[0])):
            return rows
        cells.append(row[0])
    return cells
