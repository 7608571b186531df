"""Messages for the world outside, written in the transaction that causes them and kept until somebody confirms them."""

from __future__ import annotations

from sqlalchemy import select

from fieldrepair_service.case_book import convert
from fieldrepair_service.case_book.database import BookPart
from fieldrepair_service.case_book.models import CaseRow, DriftEventRow, NotificationRow
from fieldrepair_service.case_book.records import Notification
from fieldrepair_service.errors import NotInCaseBook

DRIFT_EVENT_OPENED = "drift_event_opened"
"""Kind of the notification that every drift event puts into the outbox."""
CANDIDATE_WAITING = "candidate_waiting"
"""Kind of the notification that a case puts into the outbox when it is accepted."""


class Outbox(BookPart):
    """Notifications; a sender that crashes between sending and confirming sends again, so at least once."""

    def pending_notifications(self, *, limit: int = 100) -> list[Notification]:
        """Messages that nobody has confirmed yet, oldest first."""
        query = (
            select(NotificationRow).where(NotificationRow.sent_ms.is_(None)).order_by(NotificationRow.id).limit(limit)
        )
        with self._database.reading() as session:
            return [convert.to_notification(row) for row in session.scalars(query)]

    def mark_notified(self, notification_id: int, error: str | None = None) -> None:
        """Confirm a message, or, with ``error``, count a failed attempt and keep it pending.

        Raises:
            NotInCaseBook: if there is none with this id.
        """
        with self._database.writing() as session:
            row = session.get(NotificationRow, notification_id, with_for_update=True)
            if row is None:
                raise NotInCaseBook(f"there is no notification {notification_id}")
            row.attempts += 1
            row.last_attempt_ms = self._now()
            row.last_error = None if error is None else convert.storable(error)
            if error is None:
                row.sent_ms = row.last_attempt_ms


def drift_notification(event: DriftEventRow, now: int) -> NotificationRow:
    """The message about a new drift event; the event needs its id."""
    return NotificationRow(
        kind=DRIFT_EVENT_OPENED,
        event_id=event.id,
        case_id=event.case_id,
        payload={
            "event_id": event.id,
            "case_id": event.case_id,
            "opened_case": event.opened_case,
            "model_name": event.model_name,
            "model_version": event.model_version,
            "detector": event.detector,
            "statistic": event.statistic,
            "p_value": event.p_value,
            "threshold": event.threshold,
            "field_inputs_until_alert": event.field_inputs_until_alert,
            "estimated_accuracy": event.estimated_accuracy,
            "reference_accuracy": event.reference_accuracy,
            "summary": event.summary,
            "opened_ms": event.opened_ms,
        },
        created_ms=now,
        attempts=0,
    )


def candidate_notification(case: CaseRow, now: int) -> NotificationRow:
    """The message about a case that was accepted: a person decides now."""
    return NotificationRow(
        kind=CANDIDATE_WAITING,
        case_id=case.id,
        payload={
            "case_id": case.id,
            "model_name": case.model_name,
            "model_version": case.model_version,
            "candidate_version": case.candidate_version,
            "attempt": case.attempt,
            "summary": f"version {case.candidate_version or '?'} waits for approval: {case.reason}",
            "accepted_ms": now,
        },
        created_ms=now,
        attempts=0,
    )
