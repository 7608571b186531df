"""The field log: a Delta table of every field input, its prediction and who made it. Append-only, many writers.

Writers append idempotently: each commit carries (writer, last_seq) as a Delta application transaction, so a batch
that is offered twice, after a crash say, is written once. Readers keep a :data:`Cursor` of their own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import cast
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError

from fieldrepair_service.errors import RowsNotFound, StoreError
from fieldrepair_service.field_log_compaction import Run, pieces_of, small_runs
from fieldrepair_service.field_log_files import (
    SKIP_BY,
    DataFile,
    after,
    batches_of,
    column_names,
    empty,
    in_reading_order,
    in_time,
    is_relevant,
    next_keys,
    of_model,
    read_file,
    streams_in,
    up_to,
)
from fieldrepair_service.field_log_table import complete, open_or_create
from fieldrepair_service.field_rows import FIELD_LOG_SCHEMA, Cursor, FieldRows

__all__ = ["FIELD_LOG_SCHEMA", "Cursor", "FieldLog", "FieldRows"]

logger = logging.getLogger(__name__)

_APPEND_ATTEMPTS = 10
# delta-rs keeps something of each version that a table object has been moved through, some 20 KB. Opened anew after so
# many, what it keeps stays bounded; that costs as much as moving forward by a few versions.
_VERSIONS_OF_ONE_TABLE = 100
_LAST_ROW = 2**31 - 1


class FieldLog:
    """A Delta table of :data:`FIELD_LOG_SCHEMA`, partitioned by day. Safe to use from several threads."""

    def __init__(self, table: DeltaTable, storage_options: dict[str, str] | None) -> None:
        self._table = table
        self._storage_options = storage_options
        self._opened_at = table.version()
        self._lock = threading.Lock()  # a DeltaTable's snapshot is moved forward in place
        self._streams_by_file: dict[str, set[tuple[str, str]]] = {}  # a data file never changes

    @classmethod
    def open(cls, uri: str | Path, storage_options: dict[str, str] | None = None, *, create: bool = True) -> FieldLog:
        """Open the log, creating it if it is not there. Several processes may do so at once.

        Args:
            uri: local folder or ``s3://bucket/path``.
            storage_options: credentials and endpoints for object stores; default: the environment's.
            create: False refuses a place without a log.

        Raises:
            StoreError: if the place cannot be reached, or holds a table that is not a field log.
        """
        table = open_or_create(str(uri), storage_options, create=create)
        complete(table, str(uri))
        return cls(table, storage_options)

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
                self._move_on()
                done = self._table.transaction_version(writer)
                if done is not None and last_seq <= done:
                    return False
                new = rows if done is None else rows.filter(ds.field("seq") > done)
                # "merge", so that a table with columns of a later version still takes rows without them.
                write_deltalake(self._table, new, mode="append", schema_mode="merge", commit_properties=properties)
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
        wanted = after(cursor) & of_model(model_name, model_version)
        files = [f for f in files if is_relevant(f, cursor, model_name, model_version)]
        keys = next_keys(files, dataset.schema, wanted, limit)
        names = column_names(columns)
        if keys.num_rows == 0:
            return FieldRows(empty(names))
        # Each writer's chosen rows are exactly its first unread ones, so a range names them.
        ends = FieldRows(keys).cursor_after({})
        chosen = wanted & up_to(ends)
        pieces = [
            read_file(f, dataset.schema, names, chosen)
            for f in files
            if any(f.may_hold("writer", writer) and f.first("seq") <= seq for writer, (seq, _) in ends.items())
        ]
        return FieldRows(in_reading_order(pa.concat_tables([empty(names), *pieces])))

    def read_between(
        self,
        start: Mapping[str, Sequence[int]],
        end: Mapping[str, Sequence[int]],
        *,
        model_name: str | None = None,
        model_version: str | None = None,
        columns: Sequence[str] | None = None,
    ) -> FieldRows:
        """The rows between two positions that a reader has come by, as many as are still there.

        Args:
            start: position just before the first row.
            end: position just after the last one; writers that are not in it have no rows here.
            model_name: only rows of this model.
            model_version: only rows that this version answered.
            columns: see :meth:`read_after`.

        Raises:
            StoreError: the log cannot be read.
        """
        dataset, files = self._files()
        ends: Cursor = {writer: (at[0], at[1]) for writer, at in end.items()}
        chosen = after(start) & up_to(ends) & of_model(model_name, model_version)
        names = column_names(columns)
        pieces = [
            read_file(f, dataset.schema, names, chosen)
            for f in files
            if is_relevant(f, start, model_name, model_version)
            and any(f.may_hold("writer", writer) and f.first("seq") <= seq for writer, (seq, _) in ends.items())
        ]
        return FieldRows(in_reading_order(pa.concat_tables([empty(names), *pieces])))

    def read_rows(self, keys: Sequence[tuple[str, int]], columns: Sequence[str] | None = None) -> FieldRows:
        """Rows by (request_id, row), in the order asked.

        Raises:
            RowsNotFound: naming keys that are not in the log.
        """
        names = column_names(columns, ("request_id", "row"))
        if not keys:
            return FieldRows(empty(names))
        requests = sorted({request for request, _ in keys})
        rows = sorted({row for _, row in keys})
        dataset, files = self._files()
        pieces: list[pa.Table] = []
        for file in files:
            here = [request for request in requests if file.may_hold("request_id", request)]
            if here:
                chosen = ds.field("request_id").isin(here) & ds.field("row").isin(pa.array(rows, pa.int32()))
                pieces.append(read_file(file, dataset.schema, names, chosen))
        found = pa.concat_tables([empty(names), *pieces])
        index = {key: at for at, key in enumerate(FieldRows(found).keys)}
        missing = [key for key in keys if key not in index]
        if missing:
            shown = ", ".join(f"({request}, {row})" for request, row in missing[:5])
            raise RowsNotFound(f"the field log has no {len(missing)} of {len(keys)} rows asked for: {shown}", missing)
        return FieldRows(found.take([index[key] for key in keys]))

    def count(self, *, model_name: str | None = None, model_version: str | None = None) -> int:
        """How many rows the log has, of one model or model version if given."""
        dataset, _ = self._files()
        return dataset.count_rows(filter=of_model(model_name, model_version))

    def streams(self) -> list[tuple[str, str]]:
        """Every (model_name, model_version) that has rows, sorted. Cheap to ask often: files are looked into once."""
        dataset, files = self._files()
        known = self._streams_by_file
        self._streams_by_file = {
            file.fragment.path: known.get(file.fragment.path) or streams_in(file, dataset.schema) for file in files
        }
        return sorted(set[tuple[str, str]]().union(*self._streams_by_file.values()))

    def batches(
        self,
        *,
        columns: Sequence[str] | None = None,
        since_ms: int | None = None,
        until_ms: int | None = None,
        model_name: str | None = None,
        model_version: str | None = None,
        batch_rows: int = 1_000,
    ) -> Iterator[pa.Table]:
        """Every row as one version of the table has it, in pieces: files by time, rows as they lie in them.

        Args:
            columns: columns to read; default all.
            since_ms: only rows asked for at or after this time.
            until_ms: only rows asked for before this time.
            model_name: only rows of this model.
            model_version: only rows that this version answered.
            batch_rows: the most rows in one piece, which bounds the memory that this takes.

        Raises:
            StoreError: if a file cannot be read.
        """
        names = column_names(columns, ())
        wanted = of_model(model_name, model_version) & in_time(since_ms, until_ms)
        dataset, files = self._files()
        for file in files:
            if is_relevant(file, {}, model_name, model_version) and file.may_hold_time(since_ms, until_ms):
                yield from batches_of(file, dataset.schema, names, wanted, batch_rows)

    def newest(
        self,
        limit: int,
        *,
        columns: Sequence[str] | None = None,
        model_name: str | None = None,
        model_version: str | None = None,
    ) -> pa.Table:
        """The last ``limit`` rows by time, the oldest first. Only the files that can hold them are read.

        Raises:
            StoreError: if a file cannot be read.
        """
        names = column_names(columns, ("timestamp_ms",))
        wanted = of_model(model_name, model_version)
        dataset, files = self._files()
        files = [file for file in files if is_relevant(file, {}, model_name, model_version)]
        found = empty(names)
        for file in sorted(files, key=lambda file: file.last("timestamp_ms"), reverse=True):
            if found.num_rows == limit and file.last("timestamp_ms") < found.column("timestamp_ms")[0].as_py():
                break
            for piece in batches_of(file, dataset.schema, names, wanted, 1_000):
                found = pa.concat_tables([found, piece]).sort_by("timestamp_ms")
                found = found.slice(max(0, found.num_rows - limit)).combine_chunks()
        return found

    def end(self) -> Cursor:
        """Where a reader stands that has taken every row there is."""
        dataset, files = self._files()
        cursor: Cursor = {}
        for file in files:
            writer, seq = file.low["writer"], file.high["seq"]
            if isinstance(writer, str) and writer == file.high["writer"] and isinstance(seq, int):
                # All rows of an exchange are in one commit, so none of its rows comes later.
                cursor[writer] = max(cursor.get(writer, (-1, -1)), (seq, _LAST_ROW))
            else:
                for piece in batches_of(file, dataset.schema, ["writer", "seq", "row"], ds.scalar(True), 10_000):
                    cursor = FieldRows(piece).cursor_after(cursor)
        return cursor

    @property
    def version(self) -> int:
        """The Delta table's newest version."""
        with self._current() as table:
            return table.version()

    def size_bytes(self) -> int:
        """Bytes of the data files that current rows are in."""
        with self._current() as table:
            return sum(_actions(table).column("size_bytes").to_pylist())

    def compact(self, writer: str | None = None) -> int:
        """Merge small files into larger ones, each writer's by themselves; readers' cursors stay valid.

        Where another process was first with the same files, it gives way: those stay as they are until the next time.

        Args:
            writer: merge the files of this writer alone; None: of each.

        Returns:
            How many merges were made.

        Raises:
            StoreError: if the table cannot be read or written.
        """
        dataset, files = self._files()
        merged = 0
        for run in small_runs(files, dataset.schema, writer):
            for piece, rows in pieces_of(run, dataset.schema):
                merged += piece.is_apart_from(files) and self._merge(piece, rows)
        return merged

    def _merge(self, run: Run, rows: pa.Table) -> bool:
        with self._current() as table:
            try:
                if not run.paths <= set(
                    map(unquote, _actions(table).column("path").to_pylist())
                ):  # somebody else has taken rows out, or merged them
                    return False
                write_deltalake(table, rows, mode="overwrite", predicate=run.predicate)
            except CommitFailedError as error:
                logger.info("merging files of the field log gave way to another process: %s", error)
                return False
        return True

    def vacuum(self, older_than: timedelta = timedelta(days=7)) -> int:
        """Delete files that no current row is in and that are older than ``older_than``; returns how many."""
        hours = int(older_than.total_seconds() // 3600)
        with self._current() as table:
            return len(table.vacuum(hours, dry_run=False, enforce_retention_duration=False))

    def delete_before(self, day: date) -> int:
        """Take all rows of the days before ``day`` out of the table; returns how many. Vacuum deletes their files.

        Whole partitions go, so no file is rewritten, and rows that are being appended meanwhile are not touched.
        """
        with self._current() as table:
            done = table.delete(f"date < '{day.isoformat()}'")
        return int(done["num_deleted_rows"])

    def claim(self, task: str, round_number: int) -> bool:
        """Whether this process is the one to do round ``round_number`` of a task that one process is to do.

        The claim is a commit without rows that carries (task, round_number) as a Delta application transaction. Of
        several at once the table takes one, wherever it is stored.
        """
        properties = CommitProperties(app_transactions=[Transaction(task, round_number)])
        with self._current() as table:
            done = table.transaction_version(task)
            if done is not None and done >= round_number:
                return False
            try:
                write_deltalake(table, empty(FIELD_LOG_SCHEMA.names), mode="append", commit_properties=properties)
            except CommitFailedError:
                return False
        return True

    @contextmanager
    def _current(self) -> Generator[DeltaTable]:
        """The table at its newest version, for this thread alone."""
        with self._lock:
            try:
                self._move_on()
                yield self._table
            except (DeltaError, OSError) as error:
                raise StoreError(f"the field log cannot be read: {error}") from error

    def _move_on(self) -> None:
        """Bring the table to its newest version; under the lock."""
        self._table.update_incremental()
        if self._table.version() - self._opened_at >= _VERSIONS_OF_ONE_TABLE:
            self._table = DeltaTable(self._table.table_uri, storage_options=self._storage_options)
            self._opened_at = self._table.version()

    def _files(self) -> tuple[ds.Dataset, list[DataFile]]:
        """A snapshot: its dataset, and its files with their statistics, oldest first."""
        with self._current() as table:
            dataset = cast(ds.Dataset, table.to_pyarrow_dataset())
            actions = _actions(table).to_pylist()
        known = {unquote(str(action["path"])): action for action in actions}
        files: list[DataFile] = []
        for fragment in dataset.get_fragments():
            action = known[fragment.path]
            low = {name: action.get(f"min.{name}") for name in SKIP_BY}
            high = {name: action.get(f"max.{name}") for name in SKIP_BY}
            files.append(
                DataFile(
                    fragment,
                    str(action["partition.date"]),
                    int(action["size_bytes"]),
                    action.get("num_records"),
                    low,
                    high,
                )
            )
        files.sort(key=lambda file: (file.first("timestamp_ms"), file.first("seq")))
        return dataset, files


def _actions(table: DeltaTable) -> pa.Table:
    """What the Delta log says of each data file of a snapshot."""
    return pa.table(table.get_add_actions(flatten=True))
