"""Rows of the field log in memory: their position, and typed access to their columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fieldrepair_service.errors import InputError
from fieldrepair_service.field_log_columns import FIELD_LOG_COLUMNS

Cursor: TypeAlias = dict[str, tuple[int, int]]
"""How far a reader has come: writer -> (seq, row) of the last row it has taken from that writer.

An empty cursor is the beginning. A cursor stays valid through compaction and vacuum, because it speaks of rows and
not of files or table versions. In JSON the pairs come back as lists, which every reader here accepts.
"""

FIELD_LOG_SCHEMA = pa.schema(FIELD_LOG_COLUMNS)


@dataclass(frozen=True)
class FieldRows:
    """Rows of the field log in reading order; a column that was not asked for raises ``KeyError`` when used."""

    table: pa.Table

    def __len__(self) -> int:
        return self.table.num_rows

    def to_table(self) -> pa.Table:
        """The rows as an Arrow table with (a part of) :data:`FIELD_LOG_SCHEMA`."""
        return self.table

    @property
    def request_ids(self) -> list[str]:
        """(n,) request id of each row."""
        return self.table.column("request_id").to_pylist()

    @property
    def rows(self) -> npt.NDArray[np.int32]:
        """(n,) place of each row in its request."""
        return self.table.column("row").to_numpy()

    @property
    def keys(self) -> list[tuple[str, int]]:
        """(n,) pairs (request_id, row): the name a row has in the case book."""
        return list(zip(self.request_ids, self.rows.tolist(), strict=True))

    @property
    def timestamps_ms(self) -> npt.NDArray[np.int64]:
        """(n,) arrival of the request, milliseconds UTC since the epoch."""
        return self.table.column("timestamp_ms").to_numpy()

    def inputs(self, shape: Sequence[int] | None = None, dtype: str | None = None) -> npt.NDArray[np.generic]:
        """The field inputs as one array.

        Args:
            shape: shape every instance must have; default: that of the first row.
            dtype: NumPy dtype to give them. Default: the one that all of them have. A JSON client may write 0 for
                0.0, so the rows of one model can differ in it; with ``dtype`` that does not matter.

        Returns:
            (n, *shape) of ``dtype``.

        Raises:
            InputError: naming the first row whose shape (or, without ``dtype``, dtype) differs, or if there are no
                rows to take them from.
        """
        shapes = self.table.column("shape").to_pylist()
        dtypes = self.table.column("dtype").to_pylist()
        if not shapes and (shape is None or dtype is None):
            raise InputError("need at least 1 row to tell the shape and dtype of the inputs, got 0")
        expected = tuple(shapes[0] if shape is None else shape)
        for index, came in enumerate(shapes):
            if tuple(came) != expected:
                raise InputError(f"expected inputs of shape {expected}, but {self._name(index)} has {tuple(came)}")
        if dtype is None:
            for index, came in enumerate(dtypes):
                if came != dtypes[0]:
                    raise InputError(f"expected inputs of dtype {dtypes[0]}, but {self._name(index)} has {came}")
        wanted = np.dtype(dtypes[0] if dtype is None else dtype)
        instances = np.empty((len(self), *expected), dtype=wanted)
        for index, (raw, kind) in enumerate(zip(self.table.column("input").to_pylist(), dtypes, strict=True)):
            instances[index] = np.frombuffer(raw, dtype=np.dtype(kind).newbyteorder("<")).reshape(expected)
        return instances

    def columns(self) -> list[list[str] | None]:
        """(n,) what each row's request calls the numbers of an instance; None where it does not say."""
        return self.table.column("columns").to_pylist()

    def scores(self) -> npt.NDArray[np.float32]:
        """(n, classes) scores as the model server answered them.

        Raises:
            InputError: naming the first row without scores, or with another number of classes than row 0.
        """
        values: list[list[float] | None] = self.table.column("scores").to_pylist()
        if not values:
            return np.empty((0, 0), dtype=np.float32)
        classes = len(values[0] or ())
        for index, scores in enumerate(values):
            if scores is None or len(scores) != classes:
                raise InputError(f"expected {classes} scores per row, but {self._name(index)} has {scores}")
        return np.asarray(values, dtype=np.float32).reshape(len(values), classes)

    def predicted_classes(self) -> npt.NDArray[np.int32]:
        """(n,) class each row was given by the model.

        Raises:
            InputError: naming the first row whose answer was not a class.
        """
        column = self.table.column("predicted_class")
        if column.null_count:
            missing = column.is_null().to_pylist().index(True)
            raise InputError(f"expected a predicted class in every row, but {self._name(missing)} has none")
        return column.to_numpy()

    def cursor_after(self, previous: Mapping[str, Sequence[int]]) -> Cursor:
        """Where a reader stands that was at ``previous`` and has taken all of these rows."""
        cursor: Cursor = {writer: (int(at[0]), int(at[1])) for writer, at in previous.items()}
        writers = self.table.column("writer").to_pylist()
        seqs = self.table.column("seq").to_pylist()
        for writer, seq, row in zip(writers, seqs, self.rows.tolist(), strict=True):
            cursor[writer] = max(cursor.get(writer, (-1, -1)), (seq, row))
        return cursor

    def take(self, which: slice | Sequence[int] | npt.NDArray[np.int64]) -> FieldRows:
        """Some of the rows: a slice, or indices in the order wanted."""
        if isinstance(which, slice):
            which = range(len(self))[which]
        return FieldRows(self.table.take(np.asarray(which, dtype=np.int64)))

    def _name(self, index: int) -> str:
        names = self.table.column_names
        if "request_id" in names and "row" in names:
            return f"row {index} (request {self.request_ids[index]}, instance {int(self.rows[index])})"
        return f"row {index}"
