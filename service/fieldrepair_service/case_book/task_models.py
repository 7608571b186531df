"""The case book's tables about labels (SQLAlchemy). Nothing outside this package sees these objects."""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from fieldrepair_service.case_book.models import PREFIX, Base, CaseRow, one_of
from fieldrepair_service.case_book.states import Purpose, TaskState, Verdict


class TaskRow(Base):
    """One field input to label."""

    __tablename__ = f"{PREFIX}tasks"
    __table_args__ = (
        CheckConstraint(f"state IN {one_of(TaskState)}", name="state"),
        CheckConstraint(f"purpose IN {one_of(Purpose)}", name="purpose"),
        CheckConstraint("(state = 'labelled') = (label IS NOT NULL)", name="label"),
        UniqueConstraint("case_id", "request_id", "row"),
        UniqueConstraint("case_id", "attempt", "position"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    case_id: Mapped[int] = mapped_column(ForeignKey(CaseRow.id))
    attempt: Mapped[int]
    request_id: Mapped[str] = mapped_column(Text)
    row: Mapped[int]
    purpose: Mapped[str] = mapped_column(String(16))
    rank: Mapped[int]
    region: Mapped[int | None]
    position: Mapped[int]
    state: Mapped[str] = mapped_column(String(16))
    label: Mapped[int | None]
    decided_by: Mapped[str | None] = mapped_column(Text)
    decided_ms: Mapped[int | None] = mapped_column(BigInteger)
    leased_to: Mapped[str | None] = mapped_column(Text)
    leased_until_ms: Mapped[int | None] = mapped_column(BigInteger)
    answers_wanted: Mapped[int] = mapped_column(server_default=text("1"))
    reason: Mapped[str | None] = mapped_column(Text)


class AnswerRow(Base):
    """What one labeller said about one task."""

    __tablename__ = f"{PREFIX}answers"
    __table_args__ = (
        CheckConstraint(f"verdict IN {one_of(Verdict)}", name="verdict"),
        CheckConstraint("(verdict = 'label') = (label IS NOT NULL)", name="label"),
        UniqueConstraint("task_id", "labeller"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(ForeignKey(TaskRow.id))
    labeller: Mapped[str] = mapped_column(Text)
    verdict: Mapped[str] = mapped_column(String(16))
    label: Mapped[int | None]
    source: Mapped[str] = mapped_column(Text)
    at_ms: Mapped[int] = mapped_column(BigInteger)


class GroundTruthRow(Base):
    """The right answer for one field input, as it arrived later from outside; its row in the field log may follow."""

    __tablename__ = f"{PREFIX}ground_truth"
    __table_args__ = (UniqueConstraint("client_request_id", "row"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    client_request_id: Mapped[str] = mapped_column(Text)
    row: Mapped[int]
    label: Mapped[str] = mapped_column(Text)
    source: Mapped[str] = mapped_column(Text)
    received_ms: Mapped[int] = mapped_column(BigInteger)
