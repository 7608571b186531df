"""Which small files of the field log to merge, and how, so that no two processes merge the same rows.

Delta's own ``OPTIMIZE`` is not used: in delta-rs 1.6 two of them that merge the same files at the same time both
succeed, and every row in those files is in the table twice. An overwrite of rows by predicate is checked against what
others commit meanwhile. Its predicate names one writer, whose rows only its own shipper appends; files of other writers
lie outside it, by the minima and maxima in the Delta log, so their appends do not disturb it. What is written in their
place is read by the same predicate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from deltalake import DeltaTable, QueryBuilder

from fieldrepair_service.data_files import DataFile
from fieldrepair_service.errors import StoreError
from fieldrepair_service.field_log_columns import ArrowStream
from fieldrepair_service.query_engine import raised_as

MERGED_BYTES = 16 << 20
"""The most that the rows of a merged file take in memory. delta-rs holds all that it overwrites, several times."""

_ROWS_TO_WEIGH = 10
_BYTES_BESIDE_INPUT = 256  # ids, names, scores: about so much of a row is not its input
_SESSION = {"datafusion.execution.target_partitions": "1", "datafusion.execution.batch_size": "1024"}


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
            file.path not in self.paths
            and file.date == self.date
            and file.may_hold("writer", self.writer)
            and file.first("seq") <= last
            and file.last("seq") >= first
            for file in files
        )

    @property
    def paths(self) -> set[str]:
        """Where the files lie in the table."""
        return {file.path for file in self.files}


def small_runs(table: DeltaTable, files: Sequence[DataFile], only: str | None = None) -> list[Run]:
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
        row_bytes = _row_bytes(table, Run(writer, date, (own[-1],)))
        run: list[DataFile] = []
        while own and max(own[-1].size_bytes, (own[-1].rows or 0) * row_bytes) < MERGED_BYTES / 2:
            run.insert(0, own.pop())
        found = Run(writer, date, tuple(run))
        if len(run) > 1 and found.is_apart_from(files):
            runs.append(found)
    return runs


def pieces_of(table: DeltaTable, run: Run) -> Iterator[Run]:
    """The run in pieces that can be merged one by one: at least two files in each, and no more rows than fit.

    Raises:
        StoreError: if a file cannot be read.
    """
    weigh = _scales(table, run)
    files: list[DataFile] = []
    held = 0
    for file in run.files:
        size = weigh(file)
        if files and held + size > MERGED_BYTES:
            if len(files) > 1:
                yield Run(run.writer, run.date, tuple(files))
            files, held = [], 0
        files.append(file)
        held += size
    if len(files) > 1:
        yield Run(run.writer, run.date, tuple(files))


def rows_of(table: DeltaTable, run: Run) -> ArrowStream:
    """The rows that the run's predicate names, with every column that the table has.

    Raises:
        StoreError: if a file cannot be read.
    """
    return _read(table, "*", run, "ORDER BY seq, row")


def _row_bytes(table: DeltaTable, run: Run) -> float:
    sample = _read(table, "shape, dtype", run, f"LIMIT {_ROWS_TO_WEIGH}")
    weights = _in_memory(sample)
    return float(weights.mean()) if len(weights) else 1.0


def _scales(table: DeltaTable, run: Run) -> Callable[[DataFile], int]:
    """What tells how many bytes the rows of each of the run's files take in memory."""
    rows = _read(table, "seq, shape, dtype", run, "ORDER BY seq")
    seqs = rows.column("seq").to_numpy()
    below = np.concatenate([[0], np.cumsum(_in_memory(rows))])

    def weigh(file: DataFile) -> int:
        first, end = np.searchsorted(seqs, [file.first("seq"), file.last("seq") + 1])
        return int(below[end] - below[first])

    return weigh


def _in_memory(rows: Any) -> npt.NDArray[np.int64]:
    """(n,) bytes that each row takes, by what it says of its input: to read the inputs themselves would take long."""
    kinds = zip(rows.column("shape").to_pylist(), rows.column("dtype").to_pylist(), strict=True)
    weights = [_BYTES_BESIDE_INPUT + math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in kinds]
    return np.array(weights, dtype=np.int64)


def _read(table: DeltaTable, columns: str, run: Run, end: str) -> Any:
    """Rows of a run, as an Arrow table."""
    # All of it is ours but for the writer's name, which the predicate quotes.
    sql = f"SELECT {columns} FROM log WHERE {run.predicate} {end}"  # noqa: S608
    with raised_as(lambda problem: StoreError(f"the field log cannot be read: {problem}")):
        return QueryBuilder(_SESSION).register("log", table).execute(sql).read_all()
