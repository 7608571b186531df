"""What explains a drift event and a case: a JSON explanation, and small pictures and documents attached to the case."""

from __future__ import annotations

from sqlalchemy import func, select

from fieldrepair_service.case_book import convert
from fieldrepair_service.case_book.cases import lock_case, read_case
from fieldrepair_service.case_book.database import BookPart
from fieldrepair_service.case_book.models import AttachmentRow, DriftEventRow
from fieldrepair_service.case_book.records import Attachment, AttachmentInfo, JsonObject
from fieldrepair_service.errors import InputError, NotInCaseBook

MAX_ATTACHMENT_BYTES = 4 * 2**20
"""An attachment is something to look at, not a data set; field inputs themselves stay in the field log."""


class Evidence(BookPart):
    """Explanations of drift events and attachments of cases."""

    def explain_event(self, event_id: int, explanation: JsonObject) -> None:
        """Store what changed in a drift event, in place of what was stored before.

        Raises:
            NotInCaseBook: if there is no such event.
            InputError: something in it is not JSON.
        """
        stored = convert.json_object(explanation)
        with self._database.writing() as session:
            row = session.get(DriftEventRow, event_id, with_for_update=True)
            if row is None:
                raise NotInCaseBook(f"there is no drift event {event_id}")
            row.explanation = stored

    def attach(
        self, case_id: int, name: str, media_type: str, content: bytes, event_id: int | None = None
    ) -> AttachmentInfo:
        """Attach a small picture or document to a case, in place of one of the same name.

        Args:
            case_id: the case.
            name: how it is found again, ``unlike.png`` say.
            media_type: ``image/png``, ``application/json`` ...
            content: at most 4 MiB.
            event_id: the drift event of this case that it explains, if it is about one.

        Raises:
            NotInCaseBook: if there is no such case, or it has no such drift event.
            InputError: no name, or more than 4 MiB.
        """
        if not name.strip() or convert.storable(name) != name:
            raise InputError(f"an attachment needs a name, got {name!r}")
        if len(content) > MAX_ATTACHMENT_BYTES:
            raise InputError(
                f"an attachment has at most {MAX_ATTACHMENT_BYTES} bytes, got {len(content)} for {name!r} "
                f"of case {case_id}"
            )
        with self._database.writing() as session:
            lock_case(session, case_id)
            if event_id is not None:
                event = session.get(DriftEventRow, event_id)
                if event is None or event.case_id != case_id:
                    raise NotInCaseBook(f"case {case_id} has no drift event {event_id}")
            row = session.scalar(
                select(AttachmentRow).where(AttachmentRow.case_id == case_id, AttachmentRow.name == name)
            )
            if row is None:
                row = AttachmentRow(case_id=case_id, name=name)
                session.add(row)
            row.media_type, row.content = convert.storable(media_type), content
            row.event_id, row.created_ms = event_id, self._now()
            session.flush()
            return AttachmentInfo(
                id=row.id,
                case_id=case_id,
                event_id=event_id,
                name=name,
                media_type=row.media_type,
                size=len(content),
                created_ms=row.created_ms,
            )

    def attachment(self, case_id: int, name: str) -> Attachment | None:
        """An attachment with its content; None if the case has none of this name, or there is no such case."""
        query = select(AttachmentRow).where(AttachmentRow.case_id == case_id, AttachmentRow.name == name)
        with self._database.reading() as session:
            row = session.scalar(query)
            if row is None:
                return None
            return Attachment(
                id=row.id,
                case_id=row.case_id,
                event_id=row.event_id,
                name=row.name,
                media_type=row.media_type,
                size=len(row.content),
                created_ms=row.created_ms,
                content=row.content,
            )

    def attachments(self, case_id: int) -> list[AttachmentInfo]:
        """What is attached to a case, by name, without the contents.

        Raises:
            NotInCaseBook: if there is no such case.
        """
        found = AttachmentRow
        query = (
            select(
                found.id,
                found.case_id,
                found.event_id,
                found.name,
                found.media_type,
                func.length(found.content),
                found.created_ms,
            )
            .where(found.case_id == case_id)
            .order_by(found.name)
        )
        with self._database.reading() as session:
            read_case(session, case_id)
            return [AttachmentInfo(*row) for row in session.execute(query)]
