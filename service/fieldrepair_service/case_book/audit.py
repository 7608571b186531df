"""The audit trail: who did what, to what, when. Entries are only ever added."""

from __future__ import annotations

from sqlalchemy import select

from fieldrepair_service.case_book import convert
from fieldrepair_service.case_book.database import BookPart
from fieldrepair_service.case_book.models import AuditRow
from fieldrepair_service.case_book.records import AuditEntry, JsonObject


class Audit(BookPart):
    """The audit trail of the console and the API."""

    def audit(self, actor: str, role: str, action: str, target: str, detail: JsonObject | None = None) -> None:
        """Add an entry.

        Args:
            actor: who: a person's name, "token", "worker".
            role: the role they had: viewer, labeller, approver.
            action: one word, "promote" say.
            target: what it was done to, "case 3" say.
            detail: what else matters.

        Raises:
            InputError: something in ``detail`` is not JSON.
        """
        with self._database.writing() as session:
            session.add(audit_row(self._now(), actor, role, action, target, detail))

    def audit_trail(self, limit: int = 100, before_id: int | None = None) -> list[AuditEntry]:
        """The last ``limit`` entries, newest first; with ``before_id``, those before that entry."""
        query = select(AuditRow).order_by(AuditRow.id.desc()).limit(limit)
        if before_id is not None:
            query = query.where(AuditRow.id < before_id)
        with self._database.reading() as session:
            return [convert.to_audit_entry(row) for row in session.scalars(query)]


def audit_row(
    at_ms: int, actor: str, role: str, action: str, target: str, detail: JsonObject | None = None
) -> AuditRow:
    """An entry for a transaction that does what the entry says, so that neither is there without the other."""
    return AuditRow(
        at_ms=at_ms,
        actor=convert.storable(actor),
        role=convert.storable(role),
        action=convert.storable(action),
        target=convert.storable(target),
        detail=None if detail is None else convert.json_object(detail),
    )
