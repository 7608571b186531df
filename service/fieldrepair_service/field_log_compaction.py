"""Which small files of the field log to merge, and how, so that no two processes merge the same rows.

Delta's own ``OPTIMIZE`` is not used: in delta-rs 1.6 two of them that merge the same files at the same time both
succeed, and every row in those files is in the table twice. An overwrite of rows by predicate is checked against what
others commit meanwhile. Its predicate names one writer, whose rows only its own shipper appends; files of other writers
lie outside it, by the minima and maxima in the Delta log, so their appends do not disturb it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.dataset as ds

from fieldrepair_service.field_log_files import DataFile

TARGET_BYTES = 100 << 20
"""Size of a merged file."""

_SMALL_BYTES = 64 << 20
_BATCH_ROWS = 1_000


@dataclass(frozen=True)
class Run:
    """Neighbouring small files of one writer on one day."""

    writer: str
    date: str
    first_seq: int
    last_seq: int

    @property
    def predicate(self) -> str:
        """The rows in them, in SQL."""
        # Writers are made of hexadecimal digits; of another's choosing, a quote must not end the text.
        writer = self.writer.replace("'", "''")
        return f"date = '{self.date}' AND writer = '{writer}' AND seq >= {self.first_seq} AND seq <= {self.last_seq}"

    @property
    def expression(self) -> ds.Expression:
        """The same rows, for pyarrow."""
        seq = ds.field("seq")
        return (
            (ds.field("date") == self.date)
            & (ds.field("writer") == self.writer)
            & (seq >= self.first_seq)
            & (seq <= self.last_seq)
        )


def small_runs(files: Sequence[DataFile]) -> list[Run]:
    """For each writer and day its latest files, as far back as they are small; at least two.

    Large files are left alone, so a row is rewritten a few times and not at every merge.
    """
    by_writer: dict[tuple[str, str], list[DataFile]] = {}
    for file in files:
        writer = file.low["writer"]
        if isinstance(writer, str) and writer == file.high["writer"] and isinstance(file.high["seq"], int):
            by_writer.setdefault((writer, file.date), []).append(file)
    runs: list[Run] = []
    for (writer, date), own in sorted(by_writer.items()):
        own.sort(key=lambda file: file.first("seq"))
        run: list[DataFile] = []
        while own and own[-1].size_bytes < _SMALL_BYTES:
            run.append(own.pop())
        if len(run) > 1:
            first = min(file.first("seq") for file in run)
            last = max(file.last("seq") for file in run)
            if all(file.last("seq") < first for file in own):  # else a large file has rows between them
                runs.append(Run(writer, date, first, last))
    return runs


def rows_of(dataset: ds.Dataset, run: Run) -> pa.RecordBatchReader:
    """The run's rows, a batch at a time."""
    # In the table's own schema: it may have columns of a later version.
    batches = dataset.to_batches(filter=run.expression, batch_size=_BATCH_ROWS)
    return pa.RecordBatchReader.from_batches(dataset.schema, (batch for batch in batches if batch.num_rows))
