"""Request bodies that are tables (CSV, Parquet) as arrays, without pandas and pyarrow."""

from __future__ import annotations

import csv
import io
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from arro3.core import DataType, Schema, Table
from deltalake import QueryBuilder

from fieldrepair_service import drops
from fieldrepair_service.errors import DecodeError
from fieldrepair_service.protocols.base import Inputs, as_numbers, as_table
from fieldrepair_service.query_engine import raised_as

# What pandas, with which MLflow reads CSV, takes for a missing value.
_MISSING = {
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
}  # fmt: skip
# The most that a Parquet file may unpack to, read a few rows at a time: what it says about itself need not be true.
_MOST_BYTES = 64 << 20
_PARQUET_SESSION = {
    "datafusion.execution.batch_size": "256",
    "datafusion.execution.collect_statistics": "false",  # they may be broken, and nobody asks for them
    "datafusion.execution.parquet.skip_metadata": "false",  # pandas says there which columns are its index
    "datafusion.execution.target_partitions": "1",
}


def read_csv(body: bytes) -> Inputs:
    """A CSV file with a header line: (n, columns), float32, int64 or bool, and the names in the header.

    Raises:
        DecodeError: if it is none, or has columns of text.
    """
    try:
        lines = csv.reader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True)
        names = next(lines, list[str]())
        rows = [line for line in lines if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DecodeError(f"not a CSV file: {error}", reason=drops.MALFORMED_REQUEST) from error
    if not names:
        raise DecodeError("not a CSV file: it has no header line", reason=drops.MALFORMED_REQUEST)
    for at, row in enumerate(rows, start=1):
        if len(row) != len(names):
            problem = f"row {at} has {len(row)} cells, the header {len(names)}"
            raise DecodeError(f"not a CSV file: {problem}", reason=drops.MALFORMED_REQUEST)
    cells = [[_number(cell, name) for cell, name in zip(row, names, strict=True)] for row in rows]
    return as_table(as_numbers(cells, "the cells"), names)


def _number(cell: str, column: str) -> bool | int | float | None:
    if cell in _MISSING:
        return None
    try:
        return int(cell) if cell.lstrip("+-").isdecimal() else float(cell)
    except ValueError:
        pass
    known = {"true": True, "false": False}.get(cell.lower())
    if known is None:
        raise DecodeError(f"column {column!r} has {cell[:40]!r}, not a number", reason=drops.NOT_NUMERIC)
    return known


def read_parquet(body: bytes) -> Inputs:
    """A Parquet file: (n, columns) and their names, or (n, *shape) if its one column holds (nested) lists.

    Index columns that pandas wrote are left out, as pandas leaves them out on reading.

    Raises:
        DecodeError: if it is none, is huge when unpacked, or has columns of text.
    """
    with raised_as(lambda problem: DecodeError(f"not a Parquet file: {problem}", reason=drops.MALFORMED_REQUEST)):
        return _table_as_array(_unpacked(body, max(_MOST_BYTES, 4 * len(body))))


def _unpacked(body: bytes, most_bytes: int) -> Table:
    """The columns that count, read by the query engine that deltalake brings: the only reader of Parquet here."""
    with NamedTemporaryFile(suffix=".parquet") as file:
        file.write(body)
        file.flush()
        engine = QueryBuilder(_PARQUET_SESSION)
        engine.execute(f"CREATE EXTERNAL TABLE body STORED AS PARQUET LOCATION '{file.name}'").read_all()
        batches: Any = engine.execute("SELECT * FROM body")
        index = _pandas_index(batches.schema)
        names = [name for name in batches.schema.names if name not in index]
        _refuse_text(batches.schema, names)
        kept: list[Any] = []
        size = 0
        for batch in batches:
            size += batch.nbytes
            if size > most_bytes:
                raise DecodeError(f"more than {most_bytes} bytes unpacked", reason=drops.TOO_LARGE_DECODED)
            kept.append(batch.select(names))
        return Table.from_batches(kept, schema=Schema([batches.schema.field(name) for name in names]))


def _pandas_index(schema: Schema) -> set[str]:
    described = schema.metadata.get(b"pandas")
    if described is None:
        return set()
    try:
        columns = orjson.loads(described)["index_columns"]
        return {column for column in columns if isinstance(column, str)}
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return set()


def _refuse_text(schema: Schema, names: list[str]) -> None:
    if not names:
        raise DecodeError("the table has no columns", reason=drops.EMPTY)
    for name in names:
        kind = schema.field(name).type
        if not (_is_number(kind) or (len(names) == 1 and _is_list(kind))):
            raise DecodeError(f"column {name!r} is {kind}, not numbers", reason=drops.NOT_NUMERIC)


def _is_number(kind: DataType) -> bool:
    return any(
        test(kind) for test in (DataType.is_integer, DataType.is_floating, DataType.is_boolean, DataType.is_null)
    )


def _is_list(kind: DataType) -> bool:
    return any(test(kind) for test in (DataType.is_list, DataType.is_large_list, DataType.is_fixed_size_list))


def _table_as_array(table: Table) -> Inputs:
    names = list(table.column_names)
    if _is_list(table.schema.field(0).type):
        column: Any = table.column(0)
        return Inputs(as_numbers(column.to_pylist(), "the cells"))
    array = np.stack([_column(table.column(at)) for at in range(table.num_columns)], axis=1)
    if array.dtype.kind == "b":
        return as_table(array, names)
    with np.errstate(over="ignore"):
        numbers = array.astype(np.int64 if array.dtype.kind in "iu" else np.float32)
    return as_table(numbers, names)


def _column(column: Any) -> npt.NDArray[np.generic]:
    if column.null_count or DataType.is_null(column.type):
        return np.array(column.to_pylist(), dtype=np.float64)  # None becomes NaN
    return column.to_numpy()
