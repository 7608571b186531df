"""The case book's table of trials: what a candidate did beside the champion before it took over."""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Index, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from fieldrepair_service.case_book.models import PREFIX, Base, Json, one_of
from fieldrepair_service.case_book.trial_records import TrialKind, TrialState


class TrialRow(Base):
    """One shadow or canary."""

    __tablename__ = f"{PREFIX}trials"
    __table_args__ = (
        CheckConstraint(f"kind IN {one_of(TrialKind)}", name="kind"),
        CheckConstraint(f"state IN {one_of(TrialState)}", name="state"),
        Index("ix_fieldrepair_trials_candidate", "model_name", "candidate_version"),
        Index(
            "uq_fieldrepair_trials_running",
            "kind",
            "model_name",
            unique=True,
            sqlite_where=text("state = 'running'"),
            postgresql_where=text("state = 'running'"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16))
    model_name: Mapped[str] = mapped_column(Text)
    champion_version: Mapped[str] = mapped_column(Text)
    candidate_version: Mapped[str] = mapped_column(Text)
    reason: Mapped[str] = mapped_column(Text)
    report: Mapped[dict[str, object]] = mapped_column(Json)
    started_ms: Mapped[int] = mapped_column(BigInteger)
    updated_ms: Mapped[int] = mapped_column(BigInteger)
    ended_ms: Mapped[int | None] = mapped_column(BigInteger)
