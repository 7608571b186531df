"""Right answers that arrive later from outside, by client request id; their field inputs may not be logged yet."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from itertools import islice

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from fieldrepair_service.case_book import convert
from fieldrepair_service.case_book.database import BookPart, retry_once
from fieldrepair_service.case_book.task_models import GroundTruthRow
from fieldrepair_service.case_book.task_records import GroundTruth, GroundTruthReceipt, NewGroundTruth
from fieldrepair_service.errors import InputError

_CHUNK = 500  # ids per query; SQLite takes some 30,000 parameters, older ones 999


class GroundTruths(BookPart):
    """What is known about field inputs without asking a labeller."""

    def receive_ground_truth(self, labels: Sequence[NewGroundTruth], source: str) -> GroundTruthReceipt:
        """Store a batch, all of it or nothing. Sending it again changes nothing; another label replaces the first.

        Args:
            labels: no field input twice.
            source: where they come from, for people.

        Raises:
            InputError: a field input twice.
        """
        wanted = {(label.client_request_id, label.row): label for label in labels}
        if len(wanted) < len(labels):
            raise InputError(f"ground truth names {len(labels) - len(wanted)} field inputs more than once")
        return retry_once(lambda: self._receive(list(wanted.values()), source))

    def _receive(self, labels: Sequence[NewGroundTruth], source: str) -> GroundTruthReceipt:
        now = self._now()
        stored = repeated = replaced = 0
        with self._database.writing() as session:
            known = _rows(session, {convert.storable(label.client_request_id) for label in labels})
            for label in labels:
                name, text = convert.storable(label.client_request_id), convert.storable(label.label)
                row = known.get((name, label.row))
                if row is None:
                    row = GroundTruthRow(client_request_id=name, row=label.row)
                    session.add(row)
                    stored += 1
                elif row.label == text:
                    repeated += 1
                    continue
                else:
                    replaced += 1
                row.label, row.source, row.received_ms = text, convert.storable(source), now
        return GroundTruthReceipt(stored=stored, repeated=repeated, replaced=replaced)

    def ground_truth(self, client_request_ids: Iterable[str]) -> dict[tuple[str, int], GroundTruth]:
        """What is known about requests: (client_request_id, row) -> the right answer, for those rows that have one."""
        with self._database.reading() as session:
            found = _rows(session, set(client_request_ids))
            return {key: convert.to_ground_truth(row) for key, row in found.items()}

    def ground_truth_count(self) -> int:
        """How many right answers are stored, with those whose field inputs are not logged (yet)."""
        with self._database.reading() as session:
            return session.scalar(select(func.count()).select_from(GroundTruthRow)) or 0

    def ground_truth_mark(self) -> tuple[int, int]:
        """How many right answers are stored, and when the last came (epoch ms, 0 if none): differs after each batch."""
        with self._database.reading() as session:
            count, last = session.execute(select(func.count(), func.max(GroundTruthRow.received_ms))).one()
            return int(count), int(last or 0)


def _rows(session: Session, names: set[str]) -> dict[tuple[str, int], GroundTruthRow]:
    return {
        (row.client_request_id, row.row): row
        for chunk in _chunks(sorted(names))
        for row in session.scalars(select(GroundTruthRow).where(GroundTruthRow.client_request_id.in_(chunk)))
    }


def _chunks(names: Sequence[str]) -> Generator[list[str]]:
    remaining = iter(names)
    while chunk := list(islice(remaining, _CHUNK)):
        yield chunk
