"""The field log: a Delta table of every field input, its prediction and who made it. Append-only, many writers.

Writers append idempotently: each commit carries (writer, last_seq) as a Delta application transaction, so a batch
that is offered twice, after a crash say, is written once. Readers keep a :data:`Cursor` of their own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import cast
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from fieldrepair_service.errors import RowsNotFound, StoreError
from fieldrepair_service.field_rows import FIELD_LOG_SCHEMA, Cursor, FieldRows

__all__ = ["FIELD_LOG_SCHEMA", "Cursor", "FieldLog", "FieldRows"]

logger = logging.getLogger(__name__)

# What the Delta log keeps minima and maxima of; the readers below skip whole files by them.
_SKIP_BY = ("writer", "seq", "request_id", "timestamp_ms", "model_name", "model_version")
_KEY_COLUMNS = ["writer", "seq", "row", "timestamp_ms"]
_CREATE_ATTEMPTS = 20
_APPEND_ATTEMPTS = 10


@dataclass(frozen=True)
class _File:
    """One data file of a snapshot, and what the Delta log knows of the rows in it (None: unknown)."""

    fragment: ds.FileFragment
    low: Mapping[str, str | int | None]
    high: Mapping[str, str | int | None]

    def may_hold(self, column: str, value: str | int) -> bool:
        low, high = self.low[column], self.high[column]
        return low is None or high is None or (low <= value <= high)  # type: ignore[operator]

    def first(self, column: str) -> int:
        value = self.low[column]
        return value if isinstance(value, int) else -1


class FieldLog:
    """A Delta table of :data:`FIELD_LOG_SCHEMA`, partitioned by day. Safe to use from several threads."""

    def __init__(self, table: DeltaTable) -> None:
        self._table = table
        self._lock = threading.Lock()  # a DeltaTable's snapshot is moved forward in place
        self._streams_by_file: dict[str, set[tuple[str, str]]] = {}  # a data file never changes

    @classmethod
    def open(cls, uri: str | Path, storage_options: dict[str, str] | None = None) -> FieldLog:
        """Open the log, creating it if it is not there. Several processes may do so at once.

        Args:
            uri: local folder or ``s3://bucket/path``.
            storage_options: credentials and endpoints for object stores; default: the environment's.

        Raises:
            StoreError: if the place cannot be reached, or holds a table that is not a field log.
        """
        where = str(uri)
        table = _open_or_create(where, storage_options)
        present = {field.name for field in table.schema().fields}
        missing = [name for name in FIELD_LOG_SCHEMA.names if name not in present]
        if missing:
            raise StoreError(f"the Delta table at {where} is not a field log: it has no column {', '.join(missing)}")
        return cls(table)

    def append(self, rows: pa.Table, *, writer: str, last_seq: int) -> bool:
        """Append rows of one writer, once.

        Args:
            rows: table of :data:`FIELD_LOG_SCHEMA`, all of ``writer``, with seq up to ``last_seq``.
            writer: id of the writing spool.
            last_seq: the last exchange this append settles; rows up to the log's own ``last_seq(writer)`` are skipped.

        Returns:
            True if anything was written, False if the log already had all of it.

        Raises:
            StoreError: if the store does not take the commit. Offering the same rows again is safe.
        """
        rows = rows.select(FIELD_LOG_SCHEMA.names).cast(FIELD_LOG_SCHEMA)
        for attempt in range(_APPEND_ATTEMPTS):
            written = self._try_append(rows, writer, last_seq)
            if written is not None:
                return written
            time.sleep(0.02 * 2 ** min(attempt, 5))
        raise StoreError(
            f"could not append to the field log: other writers were first {_APPEND_ATTEMPTS} times in a row"
        )

    def _try_append(self, rows: pa.Table, writer: str, last_seq: int) -> bool | None:
        """Whether rows were written; None if another process moved the table (or settled this batch) in between."""
        properties = CommitProperties(app_transactions=[Transaction(writer, last_seq)])
        with self._lock:
            try:
                self._table.update_incremental()
                done = self._table.transaction_version(writer)
                if done is not None and last_seq <= done:
                    return False
                new = rows if done is None else rows.filter(ds.field("seq") > done)
                write_deltalake(self._table, new, mode="append", commit_properties=properties)
            except CommitFailedError as error:
                logger.info("appending to the field log gave way to another writer: %s", error)
                return None
            except (DeltaError, OSError) as error:
                raise StoreError(f"could not append to the field log: {error}") from error
        return True

    def last_seq(self, writer: str) -> int | None:
        """The last exchange of ``writer`` that the log has settled; None if it has never written here."""
        with self._current() as table:
            return table.transaction_version(writer)

    def read_after(
        self,
        cursor: Mapping[str, Sequence[int]],
        *,
        limit: int,
        model_name: str | None = None,
        model_version: str | None = None,
        columns: Sequence[str] | None = None,
    ) -> FieldRows:
        """The next rows after ``cursor``: each writer's in its own order, writers merged by timestamp.

        Args:
            cursor: where the reader stands; ``{}`` is the beginning.
            limit: at most so many rows.
            model_name: only rows of this model.
            model_version: only rows that this version answered.
            columns: columns to read besides those of the cursor (writer, seq, row, timestamp_ms); default all.
                Leaving out ``input`` makes a large read cheap.

        Memory is bounded by ``limit`` and the size of single files: only key columns are read at first, file by
        file from the oldest, until the next ``limit`` rows are certain.
        """
        if limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        dataset, files = self._files()
        wanted = _after(cursor) & _of_model(model_name, model_version)
        files = [f for f in files if _relevant(f, cursor, model_name, model_version)]
        keys = _next_keys(files, dataset.schema, wanted, limit)
        names = _column_names(columns)
        if keys.num_rows == 0:
            return FieldRows(_empty(names))
        # Each writer's chosen rows are exactly its first unread ones, so a range names them.
        ends = FieldRows(keys).cursor_after({})
        chosen = wanted & _up_to(ends)
        pieces = [
            _read(f, dataset.schema, names, chosen)
            for f in files
            if any(f.may_hold("writer", writer) and f.first("seq") <= seq for writer, (seq, _) in ends.items())
        ]
        return FieldRows(_in_reading_order(pa.concat_tables([_empty(names), *pieces])))

    def read_rows(self, keys: Sequence[tuple[str, int]], columns: Sequence[str] | None = None) -> FieldRows:
        """Rows by (request_id, row), in the order asked.

        Raises:
            RowsNotFound: naming keys that are not in the log.
        """
        names = _column_names(columns, ("request_id", "row"))
        if not keys:
            return FieldRows(_empty(names))
        requests = sorted({request for request, _ in keys})
        rows = sorted({row for _, row in keys})
        dataset, files = self._files()
        pieces: list[pa.Table] = []
        for file in files:
            here = [request for request in requests if file.may_hold("request_id", request)]
            if here:
                chosen = ds.field("request_id").isin(here) & ds.field("row").isin(pa.array(rows, pa.int32()))
                pieces.append(_read(file, dataset.schema, names, chosen))
        found = pa.concat_tables([_empty(names), *pieces])
        index = {key: at for at, key in enumerate(FieldRows(found).keys)}
        missing = [key for key in keys if key not in index]
        if missing:
            shown = ", ".join(f"({request}, {row})" for request, row in missing[:5])
            raise RowsNotFound(f"the field log has no {len(missing)} of {len(keys)} rows asked for: {shown}", missing)
        return FieldRows(found.take([index[key] for key in keys]))

    def count(self, *, model_name: str | None = None, model_version: str | None = None) -> int:
        """How many rows the log has, of one model or model version if given."""
        dataset, _ = self._files()
        return dataset.count_rows(filter=_of_model(model_name, model_version))

    def streams(self) -> list[tuple[str, str]]:
        """Every (model_name, model_version) that has rows, sorted. Cheap to ask often: files are looked into once."""
        dataset, files = self._files()
        known = self._streams_by_file
        self._streams_by_file = {
            file.fragment.path: known.get(file.fragment.path) or _streams_in(file, dataset.schema) for file in files
        }
        return sorted(set[tuple[str, str]]().union(*self._streams_by_file.values()))

    def compact(self) -> None:
        """Merge small files into large ones; readers' cursors stay valid. Giving way to another writer is no error."""
        with self._current() as table:
            try:
                table.optimize.compact()
            except CommitFailedError as error:
                logger.info("compaction of the field log gave way to another process: %s", error)

    def vacuum(self, older_than: timedelta = timedelta(days=7)) -> int:
        """Delete files that no current row is in and that are older than ``older_than``; returns how many."""
        hours = int(older_than.total_seconds() // 3600)
        with self._current() as table:
            return len(table.vacuum(hours, dry_run=False, enforce_retention_duration=False))

    @contextmanager
    def _current(self) -> Generator[DeltaTable]:
        """The table at its newest version, for this thread alone."""
        with self._lock:
            try:
                self._table.update_incremental()
                yield self._table
            except (DeltaError, OSError) as error:
                raise StoreError(f"the field log cannot be read: {error}") from error

    def _files(self) -> tuple[ds.Dataset, list[_File]]:
        """A snapshot: its dataset, and its files with their statistics, oldest first."""
        with self._current() as table:
            dataset = cast(ds.Dataset, table.to_pyarrow_dataset())
            actions = pa.table(table.get_add_actions(flatten=True)).to_pylist()
        known = {unquote(str(action["path"])): action for action in actions}
        files: list[_File] = []
        for fragment in dataset.get_fragments():
            action = known[fragment.path]
            low = {name: action.get(f"min.{name}") for name in _SKIP_BY}
            high = {name: action.get(f"max.{name}") for name in _SKIP_BY}
            files.append(_File(fragment, low, high))
        files.sort(key=lambda file: (file.first("timestamp_ms"), file.first("seq")))
        return dataset, files


def _open_or_create(where: str, storage_options: dict[str, str] | None) -> DeltaTable:
    failure: Exception | None = None
    for attempt in range(_CREATE_ATTEMPTS):
        try:
            return DeltaTable(where, storage_options=storage_options)
        except TableNotFoundError:
            pass
        except (DeltaError, OSError) as error:
            raise StoreError(f"the field log at {where} cannot be opened: {error}") from error
        try:
            if "://" not in where:
                Path(where).mkdir(parents=True, exist_ok=True)
            return DeltaTable.create(
                where,
                schema=FIELD_LOG_SCHEMA,
                partition_by=["date"],
                name="fieldrepair field log",
                configuration={"delta.dataSkippingStatsColumns": ",".join(_SKIP_BY)},
                storage_options=storage_options,
            )
        except (DeltaError, OSError) as error:
            # Most likely another process created it at this moment; the next round opens theirs.
            failure = error
            time.sleep(0.01 * 2 ** min(attempt, 4))
    raise StoreError(f"the field log at {where} cannot be created: {failure}") from failure


def _after(cursor: Mapping[str, Sequence[int]]) -> ds.Expression:
    known = ds.field("writer").isin(pa.array(list(cursor), pa.string()))
    chosen = ~known
    for writer, (seq, row) in cursor.items():
        later = (ds.field("seq") > seq) | ((ds.field("seq") == seq) & (ds.field("row") > row))
        chosen = chosen | ((ds.field("writer") == writer) & later)
    return chosen


def _up_to(ends: Cursor) -> ds.Expression:
    chosen = ds.scalar(False)
    for writer, (seq, row) in ends.items():
        sooner = (ds.field("seq") < seq) | ((ds.field("seq") == seq) & (ds.field("row") <= row))
        chosen = chosen | ((ds.field("writer") == writer) & sooner)
    return chosen


def _of_model(name: str | None, version: str | None) -> ds.Expression:
    chosen = ds.scalar(True)
    if name is not None:
        chosen = chosen & (ds.field("model_name") == name)
    if version is not None:
        chosen = chosen & (ds.field("model_version") == version)
    return chosen


def _relevant(file: _File, cursor: Mapping[str, Sequence[int]], name: str | None, version: str | None) -> bool:
    if name is not None and not file.may_hold("model_name", name):
        return False
    if version is not None and not file.may_hold("model_version", version):
        return False
    writer, highest = file.low["writer"], file.high["seq"]
    if isinstance(writer, str) and writer == file.high["writer"] and writer in cursor and isinstance(highest, int):
        return highest >= cursor[writer][0]  # a file of one writer, wholly before the cursor, is done with
    return True


def _next_keys(files: list[_File], schema: pa.Schema, wanted: ds.Expression, limit: int) -> pa.Table:
    """Keys of the next ``limit`` rows. Files come oldest first; reading stops as soon as those rows are certain."""
    keys = _empty(_KEY_COLUMNS)
    for at, file in enumerate(files):
        keys = pa.concat_tables([keys, _read(file, schema, _KEY_COLUMNS, wanted)])
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
            return _in_reading_order(certain).slice(0, limit)
    return _in_reading_order(keys).slice(0, limit)


def _streams_in(file: _File, schema: pa.Schema) -> set[tuple[str, str]]:
    columns = ["model_name", "model_version"]
    table = file.fragment.to_table(schema=schema, columns=columns)
    names, versions = (table.column(name).to_pylist() for name in columns)
    return set(zip(names, versions, strict=True))


def _in_reading_order(table: pa.Table) -> pa.Table:
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


def _column_names(columns: Sequence[str] | None, always: Sequence[str] = tuple(_KEY_COLUMNS)) -> list[str]:
    if columns is None:
        return FIELD_LOG_SCHEMA.names
    unknown = set(columns) - set(FIELD_LOG_SCHEMA.names)
    if unknown:
        raise ValueError(f"the field log has no column {', '.join(sorted(unknown))}")
    return [name for name in FIELD_LOG_SCHEMA.names if name in columns or name in always]


def _read(file: _File, schema: pa.Schema, names: list[str], chosen: ds.Expression) -> pa.Table:
    try:
        table = file.fragment.to_table(schema=schema, columns=names, filter=chosen)
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"the field log's file {file.fragment.path} cannot be read: {error}") from error
    # Depending on version and storage, strings and binaries are read back as views.
    return table.cast(_schema_of(names))


def _schema_of(names: list[str]) -> pa.Schema:
    return pa.schema([FIELD_LOG_SCHEMA.field(name) for name in names])


def _empty(names: list[str]) -> pa.Table:
    return pa.Table.from_pylist([], schema=_schema_of(names))
