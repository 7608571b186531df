"""Reading the data files of one snapshot of the field log: some of their rows, and the next ones among them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from fieldrepair_service.data_files import DataFile
from fieldrepair_service.errors import StoreError
from fieldrepair_service.field_rows import FIELD_LOG_SCHEMA, Cursor

KEY_COLUMNS = ["writer", "seq", "row", "timestamp_ms"]


@dataclass(frozen=True)
class ReadableFile(DataFile):
    """A data file that Arrow can read."""

    fragment: ds.FileFragment


def in_time(since_ms: int | None, until_ms: int | None) -> ds.Expression:
    """Rows asked for at or after ``since_ms`` and before ``until_ms``."""
    chosen = ds.scalar(True)
    if since_ms is not None:
        chosen = chosen & (ds.field("timestamp_ms") >= since_ms)
    if until_ms is not None:
        chosen = chosen & (ds.field("timestamp_ms") < until_ms)
    return chosen


def after(cursor: Mapping[str, Sequence[int]]) -> ds.Expression:
    """Rows that a reader at ``cursor`` has not taken yet."""
    known = ds.field("writer").isin(pa.array(list(cursor), pa.string()))
    chosen = ~known
    for writer, (seq, row) in cursor.items():
        later = (ds.field("seq") > seq) | ((ds.field("seq") == seq) & (ds.field("row") > row))
        chosen = chosen | ((ds.field("writer") == writer) & later)
    return chosen


def up_to(ends: Cursor) -> ds.Expression:
    """Rows of the cursor's writers up to where it stands."""
    chosen = ds.scalar(False)
    for writer, (seq, row) in ends.items():
        sooner = (ds.field("seq") < seq) | ((ds.field("seq") == seq) & (ds.field("row") <= row))
        chosen = chosen | ((ds.field("writer") == writer) & sooner)
    return chosen


def of_model(name: str | None, version: str | None) -> ds.Expression:
    """Rows of a model, or model version."""
    chosen = ds.scalar(True)
    if name is not None:
        chosen = chosen & (ds.field("model_name") == name)
    if version is not None:
        chosen = chosen & (ds.field("model_version") == version)
    return chosen


def is_relevant(file: DataFile, cursor: Mapping[str, Sequence[int]], name: str | None, version: str | None) -> bool:
    """Whether the file may hold rows of the model that a reader at ``cursor`` has not taken yet."""
    if name is not None and not file.may_hold("model_name", name):
        return False
    if version is not None and not file.may_hold("model_version", version):
        return False
    writer, highest = file.low["writer"], file.high["seq"]
    if isinstance(writer, str) and writer == file.high["writer"] and writer in cursor and isinstance(highest, int):
        return highest >= cursor[writer][0]  # a file of one writer, wholly before the cursor, is done with
    return True


def next_keys(files: list[ReadableFile], schema: pa.Schema, wanted: ds.Expression, limit: int) -> pa.Table:
    """Keys of the next ``limit`` rows. Files come oldest first; reading stops as soon as those rows are certain."""
    keys = empty(KEY_COLUMNS)
    for at, file in enumerate(files):
        keys = pa.concat_tables([keys, read_file(file, schema, KEY_COLUMNS, wanted)])
        if keys.num_rows < limit:
            continue
        # A row is certain once no unread file can hold an earlier one of its writer.
        rest = files[at + 1 :]
        writers: list[str] = keys.column("writer").unique().to_pylist()
        bounds = {
            writer: min((f.first("seq") for f in rest if f.may_hold("writer", writer)), default=None)
            for writer in writers
        }
        chosen = ds.scalar(False)
        for writer, bound in bounds.items():
            here = ds.field("writer") == writer
            chosen = chosen | (here if bound is None else here & (ds.field("seq") < bound))
        certain = keys.filter(chosen)
        if certain.num_rows >= limit:
            return in_reading_order(certain).slice(0, limit)
    return in_reading_order(keys).slice(0, limit)


def streams_in(file: ReadableFile, schema: pa.Schema) -> set[tuple[str, str]]:
    """Every (model_name, model_version) in the file."""
    columns = ["model_name", "model_version"]
    table = file.fragment.to_table(schema=schema, columns=columns)
    names, versions = (table.column(name).to_pylist() for name in columns)
    return set(zip(names, versions, strict=True))


def in_reading_order(table: pa.Table) -> pa.Table:
    """Each writer's rows by (seq, row); writers merged by the latest timestamp seen so far in each."""
    if table.num_rows == 0:
        return table
    table = table.sort_by([("writer", "ascending"), ("seq", "ascending"), ("row", "ascending")])
    times = np.array(table.column("timestamp_ms").to_numpy(), dtype=np.int64)
    writers = table.column("writer").to_numpy(zero_copy_only=False)
    starts = np.flatnonzero(np.r_[True, writers[1:] != writers[:-1]])
    for start, stop in zip(starts, np.r_[starts[1:], len(times)], strict=True):
        times[start:stop] = np.maximum.accumulate(times[start:stop])
    return table.take(np.argsort(times, kind="stable"))


def column_names(columns: Sequence[str] | None, always: Sequence[str] = tuple(KEY_COLUMNS)) -> list[str]:
    """The columns asked for, with those that are always read, in the schema's order."""
    if columns is None:
        return FIELD_LOG_SCHEMA.names
    unknown = set(columns) - set(FIELD_LOG_SCHEMA.names)
    if unknown:
        raise ValueError(f"the field log has no column {', '.join(sorted(unknown))}")
    return [name for name in FIELD_LOG_SCHEMA.names if name in columns or name in always]


def read_file(file: ReadableFile, schema: pa.Schema, names: list[str], chosen: ds.Expression) -> pa.Table:
    """Some rows and columns of one file. Raises StoreError if it cannot be read."""
    try:
        rows = file.fragment.to_table(schema=schema, columns=names, filter=chosen)
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"the field log's file {file.path} cannot be read: {error}") from error
    # Depending on version and storage, strings and binaries are read back as views.
    return rows.cast(_schema_of(names))


def _schema_of(names: list[str]) -> pa.Schema:
    return pa.schema([FIELD_LOG_SCHEMA.field(name) for name in names])


def batches_of(
    file: ReadableFile, schema: pa.Schema, names: list[str], chosen: ds.Expression, batch_rows: int
) -> Iterator[pa.Table]:
    """Some rows and columns of one file in pieces of at most ``batch_rows``.

    Raises:
        StoreError: if it cannot be read.
    """
    try:
        for batch in file.fragment.to_batches(
            schema=schema, columns=names, filter=chosen, batch_size=batch_rows, batch_readahead=1, use_threads=False
        ):
            if batch.num_rows:
                yield pa.Table.from_batches([batch]).cast(_schema_of(names))
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"the field log's file {file.path} cannot be read: {error}") from error


def empty(names: list[str]) -> pa.Table:
    """No rows of these columns."""
    return pa.Table.from_pylist([], schema=_schema_of(names))
