"""Request bodies that are tables (CSV, Parquet) as arrays, without pandas."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet

from fieldrepair_service import drops
from fieldrepair_service.errors import DecodeError
from fieldrepair_service.protocols.base import Inputs, as_numbers, as_table

# The most that a Parquet file may unpack to, read a few rows at a time: what it says about itself need not be true,
# and asking pyarrow for it (``ColumnChunkMetaData``) ends the process where a file's statistics are broken.
_MOST_BYTES = 64 << 20
_ROWS_AT_ONCE = 256


def read_csv(body: bytes) -> Inputs:
    """A CSV file with a header line: (n, columns), float32, int64 or bool, and the names in the header.

    Raises:
        DecodeError: if it is none, or has columns of text.
    """
    try:
        return _table_as_array(pa_csv.read_csv(pa.BufferReader(body), pa_csv.ReadOptions(use_threads=False)))
    except (pa.ArrowException, ValueError, KeyError) as error:
        raise DecodeError(f"not a CSV file: {error}", reason=drops.MALFORMED_REQUEST) from error


def read_parquet(body: bytes) -> Inputs:
    """A Parquet file: (n, columns) and their names, or (n, *shape) if its one column holds (nested) lists.

    Index columns that pandas wrote are left out, as pandas leaves them out on reading.

    Raises:
        DecodeError: if it is none, is huge when unpacked, or has columns of text.
    """
    try:
        file = pa_parquet.ParquetFile(pa.BufferReader(body))
        index = _pandas_index(file.schema_arrow)
        names = [name for name in file.schema_arrow.names if name not in index]
        return _table_as_array(_unpacked(file, names, max(_MOST_BYTES, 4 * len(body))))
    except (pa.ArrowException, ValueError, KeyError, OSError) as error:
        raise DecodeError(f"not a Parquet file: {error}", reason=drops.MALFORMED_REQUEST) from error


def _unpacked(file: pa_parquet.ParquetFile, names: list[str], most_bytes: int) -> pa.Table:
    batches: list[pa.RecordBatch] = []
    size = 0
    for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=names, use_threads=False):
        size += batch.nbytes
        if size > most_bytes:
            raise DecodeError(f"more than {most_bytes} bytes unpacked", reason=drops.TOO_LARGE_DECODED)
        batches.append(batch)
    return pa.Table.from_batches(batches, schema=batches[0].schema) if batches else file.read(columns=names)


def _pandas_index(schema: pa.Schema) -> set[str]:
    described = (schema.metadata or {}).get(b"pandas")
    if described is None:
        return set()
    try:
        columns = orjson.loads(described)["index_columns"]
        return {column for column in columns if isinstance(column, str)}
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return set()


def _table_as_array(table: pa.Table) -> Inputs:
    if table.num_columns == 0:
        raise DecodeError("the table has no columns", reason=drops.EMPTY)
    if table.num_columns == 1 and isinstance(table.schema.types[0], pa.ListType):
        return Inputs(as_numbers(table.column(0).to_pylist(), "the cells"))
    columns = [_column(table.column(at), name) for at, name in enumerate(table.column_names)]
    array = np.stack(columns, axis=1)
    if array.dtype.kind == "b":
        return as_table(array, table.column_names)
    with np.errstate(over="ignore"):
        numbers = array.astype(np.int64 if array.dtype.kind in "iu" else np.float32)
    return as_table(numbers, table.column_names)


def _column(column: pa.ChunkedArray, name: str) -> npt.NDArray[np.generic]:
    if column.null_count == len(column):
        return np.full(len(column), np.nan)
    values = column.to_numpy(zero_copy_only=False)
    if values.dtype.kind not in "iufb":
        raise DecodeError(f"column {name!r} is {column.type}, not numbers", reason=drops.NOT_NUMERIC)
    return values
