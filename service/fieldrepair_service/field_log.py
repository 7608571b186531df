"""The field log: a Delta table of every field input, its prediction and who made it, to read and to write.

Readers keep a :data:`Cursor` of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import DeltaTable

from fieldrepair_service.data_files import data_files
from fieldrepair_service.errors import RowsNotFound
from fieldrepair_service.field_log_files import (
    ReadableFile,
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
from fieldrepair_service.field_log_writer import FieldLogWriter
from fieldrepair_service.field_rows import FIELD_LOG_SCHEMA, Cursor, FieldRows

__all__ = ["FIELD_LOG_SCHEMA", "Cursor", "FieldLog", "FieldRows"]

_LAST_ROW = 2**31 - 1


class FieldLog(FieldLogWriter):
    """A Delta table of :data:`FIELD_LOG_SCHEMA`, partitioned by day. Safe to use from several threads."""

    def __init__(self, table: DeltaTable, storage_options: dict[str, str] | None) -> None:
        super().__init__(table, storage_options)
        self._streams_by_file: dict[str, set[tuple[str, str]]] = {}  # a data file never changes

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
        self._streams_by_file = {file.path: known.get(file.path) or streams_in(file, dataset.schema) for file in files}
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

    def _files(self) -> tuple[ds.Dataset, list[ReadableFile]]:
        """A snapshot: its dataset, and its files with their statistics, oldest first."""
        with self._current() as table:
            dataset = cast(ds.Dataset, table.to_pyarrow_dataset())
            known = data_files(table)
        fragments = {fragment.path: fragment for fragment in dataset.get_fragments()}
        return dataset, [ReadableFile(**vars(file), fragment=fragments[file.path]) for file in known]
