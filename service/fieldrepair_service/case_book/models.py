"""The case book's tables (SQLAlchemy), but for those about labels (:mod:`.task_models`).

Nothing outside this package sees these objects.
Table names carry the prefix ``fieldrepair_``, so that the book can share a PostgreSQL database with, say, MLflow.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Double,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeEngine

from fieldrepair_service.case_book.states import OPEN_STATES, CaseState

PREFIX = "fieldrepair_"
VERSION_TABLE = f"{PREFIX}schema_version"

Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
_NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


def one_of(words: Iterable[Enum]) -> str:
    """These words as SQL writes a list."""
    return "(" + ", ".join(f"'{word}'" for word in sorted(str(word) for word in words)) + ")"


class Base(DeclarativeBase):
    """All tables of the case book."""

    metadata = MetaData(naming_convention=_NAMING)
    type_annotation_map: ClassVar[dict[type, TypeEngine[float]]] = {float: Double()}


class CheckpointRow(Base):
    """How far the monitor has come with one model version."""

    __tablename__ = f"{PREFIX}checkpoints"

    model_name: Mapped[str] = mapped_column(Text, primary_key=True)
    model_version: Mapped[str] = mapped_column(Text, primary_key=True)
    cursor: Mapped[dict[str, list[int]]] = mapped_column(Json)
    next_window_index: Mapped[int] = mapped_column(BigInteger)
    memory: Mapped[dict[str, str] | None] = mapped_column(Json)
    updated_ms: Mapped[int] = mapped_column(BigInteger)


class WindowRow(Base):
    """One judged window."""

    __tablename__ = f"{PREFIX}windows"
    __table_args__ = (UniqueConstraint("model_name", "model_version", "window_index"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    model_name: Mapped[str] = mapped_column(Text)
    model_version: Mapped[str] = mapped_column(Text)
    window_index: Mapped[int] = mapped_column(BigInteger)
    first_timestamp_ms: Mapped[int] = mapped_column(BigInteger)
    last_timestamp_ms: Mapped[int] = mapped_column(BigInteger)
    size: Mapped[int]
    detector: Mapped[str] = mapped_column(Text)
    statistic: Mapped[float]
    threshold: Mapped[float]
    p_value: Mapped[float | None]
    drifted: Mapped[bool]
    estimated_accuracy: Mapped[float | None]
    accuracy_low: Mapped[float | None]
    accuracy_high: Mapped[float | None]
    accuracy_trusted: Mapped[bool | None]
    labelled_accuracy: Mapped[float | None]
    labelled_count: Mapped[int | None]
    effect_size: Mapped[float | None]
    scores: Mapped[dict[str, object] | None] = mapped_column(Json)
    cursor_start: Mapped[dict[str, list[int]]] = mapped_column(Json)
    recorded_ms: Mapped[int] = mapped_column(BigInteger)


class CaseRow(Base):
    """One repair case."""

    __tablename__ = f"{PREFIX}cases"
    __table_args__ = (
        CheckConstraint(f"state IN {one_of(CaseState)}", name="state"),
        Index(
            "uq_fieldrepair_cases_at_work",
            "model_name",
            "model_version",
            unique=True,
            sqlite_where=text(f"state IN {one_of(OPEN_STATES)}"),
            postgresql_where=text(f"state IN {one_of(OPEN_STATES)}"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    model_name: Mapped[str] = mapped_column(Text)
    model_version: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(Text)
    note: Mapped[str] = mapped_column(Text)
    attempt: Mapped[int]
    planned_ms: Mapped[int | None] = mapped_column(BigInteger)
    budget: Mapped[int | None]
    acceptance_size: Mapped[int | None]
    cursor_start: Mapped[dict[str, list[int]]] = mapped_column(Json)
    pool_cursor: Mapped[dict[str, list[int]] | None] = mapped_column(Json)
    class_names: Mapped[list[str]] = mapped_column(Json)
    input_spec: Mapped[dict[str, object]] = mapped_column(Json)
    progress: Mapped[dict[str, object]] = mapped_column(Json)
    run_id: Mapped[str | None] = mapped_column(Text)
    candidate_version: Mapped[str | None] = mapped_column(Text)
    acceptance: Mapped[dict[str, object] | None] = mapped_column(Json)
    approved_by: Mapped[str | None] = mapped_column(Text)
    approved_ms: Mapped[int | None] = mapped_column(BigInteger)
    approved_version: Mapped[str | None] = mapped_column(Text)
    approval_moved_ms: Mapped[int | None] = mapped_column(BigInteger)
    approval_problem: Mapped[str | None] = mapped_column(Text)
    claimed_by: Mapped[str | None] = mapped_column(Text)
    claimed_until_ms: Mapped[int | None] = mapped_column(BigInteger)
    created_ms: Mapped[int] = mapped_column(BigInteger)
    updated_ms: Mapped[int] = mapped_column(BigInteger)


class DriftEventRow(Base):
    """One alert of the monitor."""

    __tablename__ = f"{PREFIX}drift_events"
    __table_args__ = (
        Index(
            "uq_fieldrepair_drift_events_open",
            "model_name",
            "model_version",
            unique=True,
            sqlite_where=text("ended_ms IS NULL"),
            postgresql_where=text("ended_ms IS NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    case_id: Mapped[int] = mapped_column(ForeignKey(CaseRow.id), index=True)
    opened_case: Mapped[bool]
    model_name: Mapped[str] = mapped_column(Text)
    model_version: Mapped[str] = mapped_column(Text)
    detector: Mapped[str] = mapped_column(Text)
    statistic: Mapped[float]
    p_value: Mapped[float | None]
    threshold: Mapped[float]
    window_index: Mapped[int] = mapped_column(BigInteger)
    cursor_start: Mapped[dict[str, list[int]]] = mapped_column(Json)
    field_inputs_until_alert: Mapped[int] = mapped_column(BigInteger)
    estimated_accuracy: Mapped[float | None]
    reference_accuracy: Mapped[float | None]
    summary: Mapped[str] = mapped_column(Text)
    opened_ms: Mapped[int] = mapped_column(BigInteger)
    ended_ms: Mapped[int | None] = mapped_column(BigInteger)
    explanation: Mapped[dict[str, object] | None] = mapped_column(Json)


class NotificationRow(Base):
    """One message of the outbox."""

    __tablename__ = f"{PREFIX}notifications"
    __table_args__ = (Index("ix_fieldrepair_notifications_pending", "sent_ms", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(64))
    event_id: Mapped[int | None] = mapped_column(ForeignKey(DriftEventRow.id))
    case_id: Mapped[int | None] = mapped_column(ForeignKey(CaseRow.id))
    payload: Mapped[dict[str, object]] = mapped_column(Json)
    created_ms: Mapped[int] = mapped_column(BigInteger)
    attempts: Mapped[int]
    last_attempt_ms: Mapped[int | None] = mapped_column(BigInteger)
    last_error: Mapped[str | None] = mapped_column(Text)
    sent_ms: Mapped[int | None] = mapped_column(BigInteger)


class HistoryRow(Base):
    """One move of a case."""

    __tablename__ = f"{PREFIX}case_history"

    id: Mapped[int] = mapped_column(primary_key=True)
    case_id: Mapped[int] = mapped_column(ForeignKey(CaseRow.id), index=True)
    at_ms: Mapped[int] = mapped_column(BigInteger)
    from_state: Mapped[str | None] = mapped_column(String(16))
    to_state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(Text)
    actor: Mapped[str] = mapped_column(Text)


class AttachmentRow(Base):
    """A small picture or JSON document derived from a case's data."""

    __tablename__ = f"{PREFIX}attachments"
    __table_args__ = (UniqueConstraint("case_id", "name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    case_id: Mapped[int] = mapped_column(ForeignKey(CaseRow.id))
    event_id: Mapped[int | None] = mapped_column(ForeignKey(DriftEventRow.id))
    name: Mapped[str] = mapped_column(Text)
    media_type: Mapped[str] = mapped_column(Text)
    content: Mapped[bytes] = mapped_column(LargeBinary)
    created_ms: Mapped[int] = mapped_column(BigInteger)


class AuditRow(Base):
    """Something a person or a program did."""

    __tablename__ = f"{PREFIX}audit"

    id: Mapped[int] = mapped_column(primary_key=True)
    at_ms: Mapped[int] = mapped_column(BigInteger)
    actor: Mapped[str] = mapped_column(Text)
    role: Mapped[str] = mapped_column(Text)
    action: Mapped[str] = mapped_column(Text)
    target: Mapped[str] = mapped_column(Text)
    detail: Mapped[dict[str, object] | None] = mapped_column(Json)
