"""Which small files of the field log to merge, and how, so that no two processes merge the same rows.

Delta's own ``OPTIMIZE`` is not used: in delta-rs 1.6 two of them that merge the same files at the same time both
succeed, and every row in those files is in the table twice. An overwrite of rows by predicate is checked against what
others commit meanwhile. Its predicate names one writer, whose rows only its own shipper appends; files of other writers
lie outside it, by the minima and maxima in the Delta log, so their appends do not disturb it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.dataset as ds

from fieldrepair_service.field_log_files import DataFile, batches_of, read_as_stored
from fieldrepair_service.field_rows import FIELD_LOG_SCHEMA

MERGED_BYTES = 16 << 20
"""The most that the rows of a merged file take in memory. delta-rs holds all that it overwrites, several times."""

_ROWS_TO_WEIGH = 10


@dataclass(frozen=True)
class Run:
    """Neighbouring files of one writer on one day, which hold all of its rows in their span."""

    writer: str
    date: str
    files: tuple[DataFile, ...]

    @property
    def predicate(self) -> str:
        """The rows in them, in SQL."""
        # Writers are made of hexadecimal digits; of another's choosing, a quote must not end the text.
        writer = self.writer.replace("'", "''")
        first, last = self.span
        return f"date = '{self.date}' AND writer = '{writer}' AND seq >= {first} AND seq <= {last}"

    @property
    def span(self) -> tuple[int, int]:
        """First and last seq."""
        return min(file.first("seq") for file in self.files), max(file.last("seq") for file in self.files)

    def is_apart_from(self, files: Sequence[DataFile]) -> bool:
        """Whether none of the other files may hold rows that the predicate names: overwriting would lose them."""
        first, last = self.span
        return not any(
            file.fragment.path not in self.paths
            and file.date == self.date
            and file.may_hold("writer", self.writer)
            and file.first("seq") <= last
            and file.last("seq") >= first
            for file in files
        )

    @property
    def paths(self) -> set[str]:
        """Where the files lie in the table."""
        return {file.fragment.path for file in self.files}


def small_runs(files: Sequence[DataFile], schema: pa.Schema, only: str | None = None) -> list[Run]:
    """For each writer (or only one) and day its latest files, as far back as they are small; at least two.

    Large files are left alone, so a row is rewritten a few times and not at every merge. A file is small if its rows
    take less than half of :data:`MERGED_BYTES` in memory, by the weight of the first rows of the latest file: how small
    it is on disk says little, because similar inputs compress well.

    Raises:
        StoreError: if a file cannot be read.
    """
    by_writer: dict[tuple[str, str], list[DataFile]] = {}
    for file in files:
        writer = file.low["writer"]
        known = isinstance(file.high["seq"], int) and file.rows is not None
        if isinstance(writer, str) and writer == file.high["writer"] and known and only in (None, writer):
            by_writer.setdefault((writer, file.date), []).append(file)
    runs: list[Run] = []
    for (writer, date), own in sorted(by_writer.items()):
        own.sort(key=lambda file: file.first("seq"))
        if len(own) < 2:
            continue
        row_bytes = _row_bytes(own[-1], schema)
        run: list[DataFile] = []
        while own and max(own[-1].size_bytes, (own[-1].rows or 0) * row_bytes) < MERGED_BYTES / 2:
            run.insert(0, own.pop())
        found = Run(writer, date, tuple(run))
        if len(run) > 1 and found.is_apart_from(files):
            runs.append(found)
    return runs


def pieces_of(run: Run, schema: pa.Schema) -> Iterator[tuple[Run, pa.Table]]:
    """The run in pieces that can be merged one by one, each with its rows; at least two files in each.

    Args:
        run: what to merge.
        schema: the table's own: it may have columns of a later version.

    Raises:
        StoreError: if a file cannot be read.
    """
    files: list[DataFile] = []
    tables: list[pa.Table] = []
    held = 0
    for file in run.files:
        table = read_as_stored(file, schema)
        if files and held + table.nbytes > MERGED_BYTES:
            if len(files) > 1:
                yield Run(run.writer, run.date, tuple(files)), pa.concat_tables(tables)
            files, tables, held = [], [], 0
        files.append(file)
        tables.append(table)
        held += table.nbytes
    if len(files) > 1:
        yield Run(run.writer, run.date, tuple(files)), pa.concat_tables(tables)


def _row_bytes(file: DataFile, schema: pa.Schema) -> float:
    first = next(batches_of(file, schema, FIELD_LOG_SCHEMA.names, ds.scalar(True), _ROWS_TO_WEIGH), None)
    return 1.0 if first is None else max(1.0, first.nbytes / first.num_rows)
