"""The monitor's explanation of a drift event, as the case page shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

_MOST_ROWS = 12
_KINDS = (
    ("classes", "Answers that became more or less frequent"),
    ("regions", "Regions that moved"),
    ("features", "Features that moved"),
)


@dataclass(frozen=True)
class Moved:
    """One class, region or feature that moved: its numbers by name."""

    name: str
    numbers: dict[str, object]


@dataclass(frozen=True)
class Table:
    """What moved, of one kind."""

    title: str
    columns: list[str]
    rows: list[Moved]
    more: int
    """Rows that are not shown."""


@dataclass(frozen=True)
class Explanation:
    """Why an event was raised, beyond the statistic."""

    summary: str
    tables: list[Table] = field(default_factory=list[Table])
    unlike: list[dict[str, object]] = field(default_factory=list[dict[str, object]])
    """The field inputs most unlike the reference."""
    accuracy: dict[str, object] = field(default_factory=dict[str, object])


def read_explanation(stored: Mapping[str, object] | None) -> Explanation | None:
    """The explanation; None if there is none. What is not in the expected form is left out."""
    if not stored:
        return None
    tables = [_table(title, _objects(stored.get(key))) for key, title in _KINDS]
    accuracy = stored.get("accuracy")
    return Explanation(
        summary=str(stored.get("summary") or ""),
        tables=[table for table in tables if table is not None],
        unlike=_objects(stored.get("unlike"))[:_MOST_ROWS],
        accuracy=dict(cast(Mapping[str, object], accuracy)) if isinstance(accuracy, Mapping) else {},
    )


def _table(title: str, rows: list[dict[str, object]]) -> Table | None:
    if not rows:
        return None
    columns = [key for key in rows[0] if key != "name" and not isinstance(rows[0][key], (dict, list))]
    shown = [
        Moved(str(row.get("name", f"{number + 1}")), {column: row.get(column) for column in columns})
        for number, row in enumerate(rows[:_MOST_ROWS])
    ]
    return Table(title, columns, shown, max(0, len(rows) - _MOST_ROWS))


def _objects(value: object) -> list[dict[str, object]]:
    if not isinstance(value, list):
        return []
    return [dict(cast(Mapping[str, object], each)) for each in cast(list[object], value) if isinstance(each, Mapping)]
