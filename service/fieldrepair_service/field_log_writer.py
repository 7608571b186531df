"""Writing the field log: a Delta table of every field input, its prediction and who made it. Append-only, many writers.

Writers append idempotently: each commit carries (writer, last_seq) as a Delta application transaction, so a batch
that is offered twice, after a crash say, is written once. What is here needs deltalake and no other large library.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path

import numpy as np
from arro3.core import Array, Schema, Table
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError
from typing_extensions import Self

from fieldrepair_service.data_files import data_files
from fieldrepair_service.errors import StoreError
from fieldrepair_service.field_log_columns import COLUMN_NAMES, FIELD_LOG_COLUMNS, ArrowStream
from fieldrepair_service.field_log_compaction import Run, pieces_of, rows_of, small_runs
from fieldrepair_service.field_log_table import complete, open_or_create

logger = logging.getLogger(__name__)

_APPEND_ATTEMPTS = 10
# delta-rs keeps something of each version that a table object has been moved through, some 20 KB. Opened anew after so
# many, what it keeps stays bounded; that costs as much as moving forward by a few versions.
_VERSIONS_OF_ONE_TABLE = 100


class FieldLogWriter:
    """A Delta table of :data:`FIELD_LOG_COLUMNS`, partitioned by day. Safe to use from several threads."""

    def __init__(self, table: DeltaTable, storage_options: dict[str, str] | None) -> None:
        self._table = table
        self._storage_options = storage_options
        self._opened_at = table.version()
        self._lock = threading.Lock()  # a DeltaTable's snapshot is moved forward in place

    @classmethod
    def open(cls, uri: str | Path, storage_options: dict[str, str] | None = None, *, create: bool = True) -> Self:
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

    def append(self, rows: ArrowStream, *, writer: str, last_seq: int) -> bool:
        """Append rows of one writer, once.

        Args:
            rows: rows of :data:`FIELD_LOG_COLUMNS`, all of ``writer``, with seq up to ``last_seq``.
            writer: id of the writing spool.
            last_seq: the last exchange this append settles; rows up to the log's own ``last_seq(writer)`` are skipped.

        Returns:
            True if anything was written, False if the log already had all of it.

        Raises:
            StoreError: if the store does not take the commit. Offering the same rows again is safe.
        """
        table = Table.from_arrow(rows).select(COLUMN_NAMES)
        for attempt in range(_APPEND_ATTEMPTS):
            written = self._try_append(table, writer, last_seq)
            if written is not None:
                return written
            time.sleep(0.02 * 2 ** min(attempt, 5))
        raise StoreError(
            f"could not append to the field log: other writers were first {_APPEND_ATTEMPTS} times in a row"
        )

    def _try_append(self, rows: Table, writer: str, last_seq: int) -> bool | None:
        """Whether rows were written; None if another process moved the table (or settled this batch) in between."""
        properties = CommitProperties(app_transactions=[Transaction(writer, last_seq)])
        with self._lock:
            try:
                self._move_on()
                done = self._table.transaction_version(writer)
                if done is not None and last_seq <= done:
                    return False
                new = rows if done is None else _after(rows, done)
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

    @property
    def version(self) -> int:
        """The Delta table's newest version."""
        with self._current() as table:
            return table.version()

    def size_bytes(self) -> int:
        """Bytes of the data files that current rows are in."""
        with self._current() as table:
            return sum(file.size_bytes for file in data_files(table))

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
        with self._current() as table:
            runs = small_runs(table, data_files(table), writer)
            pieces = [piece for run in runs for piece in pieces_of(table, run)]
        return sum(self._merge(piece) for piece in pieces)

    def _merge(self, run: Run) -> bool:
        with self._current() as table:
            files = data_files(table)
            if not run.paths <= {file.path for file in files} or not run.is_apart_from(files):
                return False  # somebody else has taken rows out, or merged them
            try:
                write_deltalake(table, rows_of(table, run), mode="overwrite", predicate=run.predicate)
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
                write_deltalake(table, _NO_ROWS, mode="append", commit_properties=properties)
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


_NO_ROWS = Table.from_batches([], schema=Schema.from_arrow(FIELD_LOG_COLUMNS))


def _after(rows: Table, seq: int) -> Table:
    """The rows of later exchanges."""
    later = np.flatnonzero(rows.column("seq").to_numpy() > seq)
    if len(later) == rows.num_rows:
        return rows
    batches = [batch.take(Array(later)) for batch in rows.combine_chunks().to_batches()]
    return Table.from_batches(batches, schema=rows.schema)
