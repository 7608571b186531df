"""The data files of one snapshot of the field log, and what the Delta log knows of the rows in each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from deltalake import DeltaTable

# What the Delta log keeps minima and maxima of; readers skip whole files by them.
SKIP_BY = ("writer", "seq", "request_id", "timestamp_ms", "model_name", "model_version")


@dataclass(frozen=True)
class DataFile:
    """One data file of a snapshot, and what the Delta log knows of the rows in it (None: unknown)."""

    path: str
    """Where it lies in the table."""
    date: str
    """Its partition."""
    size_bytes: int
    rows: int | None
    low: Mapping[str, str | int | None]
    high: Mapping[str, str | int | None]

    def may_hold(self, column: str, value: str | int) -> bool:
        """Whether a row with this value may be in the file."""
        low, high = self.low[column], self.high[column]
        return low is None or high is None or (low <= value <= high)  # type: ignore[operator]

    def first(self, column: str) -> int:
        """The column's smallest value; -1 if unknown."""
        value = self.low[column]
        return value if isinstance(value, int) else -1

    def last(self, column: str) -> int:
        """The column's largest value; a very large number if unknown."""
        value = self.high[column]
        return value if isinstance(value, int) else 2**63

    def may_hold_time(self, since_ms: int | None, until_ms: int | None) -> bool:
        """Whether a row of this span of time may be in the file."""
        low, high = self.low["timestamp_ms"], self.high["timestamp_ms"]
        if not isinstance(low, int) or not isinstance(high, int):
            return True
        return (since_ms is None or high >= since_ms) and (until_ms is None or low < until_ms)


def data_files(table: DeltaTable) -> list[DataFile]:
    """The files of the table's current version, oldest first."""
    actions: Any = table.get_add_actions(flatten=True)
    columns = {name: actions.column(name).to_pylist() for name in actions.schema.names}
    files = [_data_file({name: values[at] for name, values in columns.items()}) for at in range(actions.num_rows)]
    return sorted(files, key=lambda file: (file.first("timestamp_ms"), file.first("seq")))


def _data_file(action: Mapping[str, Any]) -> DataFile:
    return DataFile(
        unquote(str(action["path"])),
        str(action["partition.date"]),
        int(action["size_bytes"]),
        action.get("num_records"),
        {name: action.get(f"min.{name}") for name in SKIP_BY},
        {name: action.get(f"max.{name}") for name in SKIP_BY},
    )
