"""What people, or the world, have said about field inputs: labels to join to rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from sqlalchemy.engine import make_url

from fieldrepair_service.case_book import CaseBook, open_case_book
from fieldrepair_service.errors import StoreError

LABEL_FIELDS = [pa.field("label", pa.string()), pa.field("label_source", pa.string())]
"""Columns that a join adds: the name of the right class, and who says so (``case 3``, or a source of ground truth)."""


@dataclass(frozen=True)
class Label:
    """The right answer for one field input."""

    label: str
    source: str


class Labels:
    """The labels of a case book; of none, if there is no book. A label that a person gave in a case comes first."""

    def __init__(self, book: CaseBook | None) -> None:
        self._book = book
        self._given: dict[tuple[str, int], Label] = {}
        if book is None:
            return
        for case in reversed(book.cases()):  # a later case's label replaces an earlier one's
            for purpose in ("repair", "acceptance"):
                for request_id, row, label in book.labels(case.id, purpose):
                    self._given[request_id, row] = Label(case.class_names[label], f"case {case.id}")

    def of(self, table: pa.Table) -> list[Label | None]:
        """The label of each row, by its request_id, row and client_request_id; None where there is none."""
        names: Sequence[str | None] = table.column("client_request_id").to_pylist()
        rows: list[int] = table.column("row").to_pylist()
        known = {} if self._book is None else self._book.ground_truth({name for name in names if name})
        found: list[Label | None] = []
        for request_id, row, name in zip(table.column("request_id").to_pylist(), rows, names, strict=True):
            truth = known.get((name, row)) if name else None
            given = self._given.get((request_id, row))
            found.append(given or (None if truth is None else Label(truth.label, truth.source)))
        return found

    def join(self, table: pa.Table) -> pa.Table:
        """The table with the columns of :data:`LABEL_FIELDS`."""
        labels = self.of(table)
        return table.append_column(
            LABEL_FIELDS[0], pa.array([None if each is None else each.label for each in labels], pa.string())
        ).append_column(
            LABEL_FIELDS[1], pa.array([None if each is None else each.source for each in labels], pa.string())
        )


def open_existing(url: str) -> CaseBook | None:
    """The case book, if there is one: looking must not make it.

    Raises:
        StoreError: if there is one that cannot be read.
    """
    where = make_url(url)
    if where.get_backend_name() == "sqlite" and where.database and not Path(where.database).exists():
        return None
    try:
        return open_case_book(url, migrate=False)
    except StoreError as error:
        raise StoreError(f"the labels cannot be read from the case book: {error}") from error
