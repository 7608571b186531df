"""Cuts one model version's field inputs into windows of a fixed size, in field log order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fieldrepair_service.errors import InputError
from fieldrepair_service.field_log import Cursor, FieldLog, FieldRows
from fieldrepair_service.inputs import InputSpec, arranged

Inputs = npt.NDArray[np.generic]


@dataclass(frozen=True)
class FieldWindow:
    """A full window of field inputs."""

    inputs: Inputs
    """``(size, *served shape)``."""
    cursor_start: Cursor
    """Position just before its first row."""
    cursor_end: Cursor
    """Position just after its last row."""
    keys: tuple[tuple[str, int], ...]
    """``(request_id, row)`` of each field input."""
    timestamps_ms: npt.NDArray[np.int64]
    """``(size,)`` when each was asked for, by the clock of the sidecar that logged it. Not always ascending."""
    skipped: Counter[str] = field(default_factory=Counter[str])
    """Rows passed over on the way, by reason."""

    @property
    def first_timestamp_ms(self) -> int:
        """When the earliest of them was asked for."""
        return int(self.timestamps_ms.min())

    @property
    def last_timestamp_ms(self) -> int:
        """When the latest of them was asked for."""
        return int(self.timestamps_ms.max())


@dataclass(frozen=True)
class NothingUsable:
    """Rows that no window can use; the reader may move past them."""

    cursor_end: Cursor
    skipped: Counter[str]


class WindowReader:
    """Reads windows of one model version.

    It keeps nothing but a hint: every call starts from the cursor it is given, so a monitor that restarts from its
    checkpoint sees the same windows again.

    Args:
        log: the field log.
        model_name: registered model.
        model_version: its version.
        spec: what the model takes; rows of another shape are passed over, inputs come back in its dtype.
        size: rows per window.
    """

    def __init__(self, log: FieldLog, model_name: str, model_version: str, *, spec: InputSpec, size: int) -> None:
        self._log = log
        self._model_name = model_name
        self._model_version = model_version
        self._spec = spec
        self._dtype = np.dtype(spec.dtype)
        self._size = size
        # After a look that found too little: so many rows must be there before inputs are read again.
        self._least = size

    def next(self, cursor: Mapping[str, tuple[int, int]]) -> FieldWindow | NothingUsable | None:
        """The next full window after ``cursor``.

        Returns:
            The window; or, if a window's worth of rows is there but none is usable, where to go on; or None if more
            rows must come first.

        Raises:
            StoreError: the field log cannot be read.
        """
        start: Cursor = {writer: (at[0], at[1]) for writer, at in cursor.items()}
        if not self.ready(start):
            return None
        position, seen = start, 0
        usable: list[Inputs] = []
        keys: list[tuple[str, int]] = []
        times: list[int] = []
        skipped: Counter[str] = Counter()
        while len(usable) < self._size:
            rows = self._read(position, self._size - len(usable))
            if len(rows) == 0:
                break
            for instance, key, timestamp in zip(
                self._decode(rows), rows.keys, rows.timestamps_ms.tolist(), strict=True
            ):
                if isinstance(instance, str):
                    skipped[instance] += 1
                else:
                    usable.append(instance)
                    keys.append(key)
                    times.append(timestamp)
            position, seen = rows.cursor_after(position), seen + len(rows)
        if len(usable) == self._size:
            self._least = self._size
            return FieldWindow(
                np.stack(usable), start, position, tuple(keys), np.asarray(times, dtype=np.int64), skipped
            )
        if usable:
            self._least = seen + self._size - len(usable)
            return None
        return NothingUsable(position, skipped)

    def ready(self, cursor: Cursor) -> bool:
        """Whether enough rows are there to try; reads positions only."""
        rows = self._log.read_after(
            cursor,
            limit=self._least,
            model_name=self._model_name,
            model_version=self._model_version,
            columns=[],
        )
        return len(rows) >= self._least

    def _read(self, cursor: Cursor, limit: int) -> FieldRows:
        return self._log.read_after(
            cursor,
            limit=limit,
            model_name=self._model_name,
            model_version=self._model_version,
            columns=["request_id", "input", "dtype", "shape", "columns"],
        )

    def _decode(self, rows: FieldRows) -> list[Inputs | str]:
        """Each row's instance, or why it cannot be used."""
        table = rows.to_table()
        columns = (table.column(name).to_pylist() for name in ("input", "dtype", "shape", "columns"))
        return [self._instance(*row) for row in zip(*columns, strict=True)]

    def _instance(self, raw: bytes, dtype: str, shape: list[int], columns: list[str] | None) -> Inputs | str:
        try:
            stored = np.dtype(dtype).newbyteorder("<")
        except TypeError:
            return "dtype"
        if stored.kind not in "fiub":
            return "dtype"
        if len(raw) != stored.itemsize * int(np.prod(shape)):
            return "damaged"
        try:
            taken = arranged(self._spec, np.frombuffer(raw, dtype=stored).reshape(shape), columns)
        except InputError:
            return "columns"
        if taken.shape != self._spec.shape:
            return "shape"
        instance = taken.astype(self._dtype)
        return instance if np.isfinite(instance).all() else "not_finite"
