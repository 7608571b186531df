"""A window of the field log as a dataset of MLflow: where a repair's field inputs came from, to be read again.

MLflow finds the class by the entry point group ``mlflow.dataset_source``, so that
``mlflow.data.get_source(run.inputs.dataset_inputs[0])`` gives one back. A position in the field log speaks of rows, not
of files or table versions; it stays valid through compaction and vacuum, and only retention takes rows away.

Import it from :mod:`fieldrepair_plugin.field_window`, which says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from mlflow.data.dataset_source import DatasetSource

from fieldrepair_monitoring.errors import FieldInputsMissingError

if TYPE_CHECKING:
    import pyarrow as pa

    from fieldrepair_service.field_log import FieldLog, FieldRows

SOURCE_TYPE = "fieldrepair_field_log"

Position = Mapping[str, Sequence[int]]


class FieldLogWindow(DatasetSource):
    """Rows of one model version between two positions of a field log.

    Args:
        field_log: folder or URI of the Delta table.
        model_name: registered model.
        model_version: its version.
        start: position just before the first row.
        end: position just after the last one.
        rows: how many there were when the window was used.
        first_ms: when the earliest of them was asked for, UTC epoch milliseconds; None if there were none.
        last_ms: when the latest was.
    """

    def __init__(
        self,
        field_log: str,
        model_name: str,
        model_version: str,
        start: Position,
        end: Position,
        *,
        rows: int,
        first_ms: int | None = None,
        last_ms: int | None = None,
    ) -> None:
        self.field_log = field_log
        self.model_name = model_name
        self.model_version = model_version
        self.start = _pairs(start)
        self.end = _pairs(end)
        self.rows = rows
        self.first_ms = first_ms
        self.last_ms = last_ms

    @classmethod
    def of(
        cls, log: FieldLog, field_log: str, model_name: str, model_version: str, start: Position, end: Position
    ) -> FieldLogWindow:
        """The window as it is now; reads positions only.

        Raises:
            StoreError: the field log cannot be read.
        """
        window = cls(field_log, model_name, model_version, start, end, rows=0)
        times = window.read(log, []).timestamps_ms.tolist()
        window.rows = len(times)
        window.first_ms, window.last_ms = min(times, default=None), max(times, default=None)
        return window

    def load(self, *, columns: Sequence[str] | None = None, partial: bool = False) -> pa.Table:
        """The rows again, in the order in which they were read the first time.

        Args:
            columns: of the field log, besides those of a position; default all.
            partial: give what is left instead of an error.

        Raises:
            FieldInputsMissingError: retention has removed some of them; the message says how many.
            StoreError: the field log is not there or cannot be read.
        """
        from fieldrepair_service.field_log import FieldLog

        rows = self.read(FieldLog.open(self.field_log, create=False), columns)
        if len(rows) < self.rows and not partial:
            raise FieldInputsMissingError(
                f"{self.field_log} holds {len(rows)} of the {self.rows} rows that this window of {self.model_name} "
                f"version {self.model_version} had: the others are older than the retention of the field log and were "
                "removed; load(partial=True) gives what is left"
            )
        return rows.to_table()

    def read(self, log: FieldLog, columns: Sequence[str] | None) -> FieldRows:
        """The window's rows, as many as are left.

        Raises:
            StoreError: the field log cannot be read.
        """
        return log.read_between(
            self.start, self.end, model_name=self.model_name, model_version=self.model_version, columns=columns
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "field_log": self.field_log,
            "model_name": self.model_name,
            "model_version": self.model_version,
            "start": {writer: list(at) for writer, at in self.start.items()},
            "end": {writer: list(at) for writer, at in self.end.items()},
            "rows": self.rows,
            "first_ms": self.first_ms,
            "last_ms": self.last_ms,
        }

    @classmethod
    def from_dict(cls, source_dict: dict[Any, Any]) -> FieldLogWindow:
        """What :meth:`to_dict` gave."""
        return cls(
            str(source_dict["field_log"]),
            str(source_dict["model_name"]),
            str(source_dict["model_version"]),
            cast("Position", source_dict["start"]),
            cast("Position", source_dict["end"]),
            rows=int(source_dict["rows"]),
            first_ms=source_dict.get("first_ms"),
            last_ms=source_dict.get("last_ms"),
        )

    @staticmethod
    def _get_source_type() -> str:
        return SOURCE_TYPE

    @staticmethod
    def _can_resolve(raw_source: Any) -> bool:
        return False  # a folder alone is no window: which rows of it were meant is not to be guessed

    @classmethod
    def _resolve(cls, raw_source: Any) -> FieldLogWindow:
        raise NotImplementedError(f"a window of a field log cannot be told from {raw_source!r}; make a FieldLogWindow")


def _pairs(position: Position) -> dict[str, tuple[int, int]]:
    return {str(writer): (int(at[0]), int(at[1])) for writer, at in position.items()}
