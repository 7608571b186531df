"""The first schema of the case book.

Written out in full and never changed again: a later change to the models is a new revision.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
_REAL: sa.types.TypeEngine[float] = sa.Double()


def upgrade() -> None:
    """Create every table."""
    op.create_table(
        "fieldrepair_cases",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model_name", sa.Text(), nullable=False),
        sa.Column("model_version", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("planned_ms", sa.BigInteger(), nullable=True),
        sa.Column("budget", sa.Integer(), nullable=True),
        sa.Column("acceptance_size", sa.Integer(), nullable=True),
        sa.Column("cursor_start", _JSON, nullable=False),
        sa.Column("pool_cursor", _JSON, nullable=True),
        sa.Column("class_names", _JSON, nullable=False),
        sa.Column("input_spec", _JSON, nullable=False),
        sa.Column("progress", _JSON, nullable=False),
        sa.Column("run_id", sa.Text(), nullable=True),
        sa.Column("candidate_version", sa.Text(), nullable=True),
        sa.Column("acceptance", _JSON, nullable=True),
        sa.Column("claimed_by", sa.Text(), nullable=True),
        sa.Column("claimed_until_ms", sa.BigInteger(), nullable=True),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "state IN ('accepted', 'annotating', 'dismissed', 'promoted', 'rejected', 'training')",
            name="ck_fieldrepair_cases_state",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_fieldrepair_cases"),
    )
    op.create_index(
        "uq_fieldrepair_cases_at_work",
        "fieldrepair_cases",
        ["model_name", "model_version"],
        unique=True,
        sqlite_where=sa.text("state IN ('accepted', 'annotating', 'training')"),
        postgresql_where=sa.text("state IN ('accepted', 'annotating', 'training')"),
    )
    op.create_table(
        "fieldrepair_checkpoints",
        sa.Column("model_name", sa.Text(), nullable=False),
        sa.Column("model_version", sa.Text(), nullable=False),
        sa.Column("cursor", _JSON, nullable=False),
        sa.Column("next_window_index", sa.BigInteger(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("model_name", "model_version", name="pk_fieldrepair_checkpoints"),
    )
    op.create_table(
        "fieldrepair_windows",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model_name", sa.Text(), nullable=False),
        sa.Column("model_version", sa.Text(), nullable=False),
        sa.Column("window_index", sa.BigInteger(), nullable=False),
        sa.Column("first_timestamp_ms", sa.BigInteger(), nullable=False),
        sa.Column("last_timestamp_ms", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("detector", sa.Text(), nullable=False),
        sa.Column("statistic", _REAL, nullable=False),
        sa.Column("threshold", _REAL, nullable=False),
        sa.Column("p_value", _REAL, nullable=True),
        sa.Column("drifted", sa.Boolean(), nullable=False),
        sa.Column("estimated_accuracy", _REAL, nullable=True),
        sa.Column("cursor_start", _JSON, nullable=False),
        sa.Column("recorded_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_fieldrepair_windows"),
        sa.UniqueConstraint(
            "model_name",
            "model_version",
            "window_index",
            name="uq_fieldrepair_windows_model_name_model_version_window_index",
        ),
    )
    op.create_table(
        "fieldrepair_case_history",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("case_id", sa.Integer(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("from_state", sa.String(length=16), nullable=True),
        sa.Column("to_state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["case_id"], ["fieldrepair_cases.id"], name="fk_fieldrepair_case_history_case_id"),
        sa.PrimaryKeyConstraint("id", name="pk_fieldrepair_case_history"),
    )
    op.create_index("ix_fieldrepair_case_history_case_id", "fieldrepair_case_history", ["case_id"], unique=False)
    op.create_table(
        "fieldrepair_drift_events",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("case_id", sa.Integer(), nullable=False),
        sa.Column("opened_case", sa.Boolean(), nullable=False),
        sa.Column("model_name", sa.Text(), nullable=False),
        sa.Column("model_version", sa.Text(), nullable=False),
        sa.Column("detector", sa.Text(), nullable=False),
        sa.Column("statistic", _REAL, nullable=False),
        sa.Column("p_value", _REAL, nullable=True),
        sa.Column("threshold", _REAL, nullable=False),
        sa.Column("window_index", sa.BigInteger(), nullable=False),
        sa.Column("cursor_start", _JSON, nullable=False),
        sa.Column("field_inputs_until_alert", sa.BigInteger(), nullable=False),
        sa.Column("estimated_accuracy", _REAL, nullable=True),
        sa.Column("reference_accuracy", _REAL, nullable=True),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.Column("opened_ms", sa.BigInteger(), nullable=False),
        sa.Column("ended_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["case_id"], ["fieldrepair_cases.id"], name="fk_fieldrepair_drift_events_case_id"),
        sa.PrimaryKeyConstraint("id", name="pk_fieldrepair_drift_events"),
    )
    op.create_index("ix_fieldrepair_drift_events_case_id", "fieldrepair_drift_events", ["case_id"], unique=False)
    op.create_index(
        "uq_fieldrepair_drift_events_open",
        "fieldrepair_drift_events",
        ["model_name", "model_version"],
        unique=True,
        sqlite_where=sa.text("ended_ms IS NULL"),
        postgresql_where=sa.text("ended_ms IS NULL"),
    )
    op.create_table(
        "fieldrepair_tasks",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("case_id", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("row", sa.Integer(), nullable=False),
        sa.Column("purpose", sa.String(length=16), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("region", sa.Integer(), nullable=True),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("label", sa.Integer(), nullable=True),
        sa.Column("decided_by", sa.Text(), nullable=True),
        sa.Column("decided_ms", sa.BigInteger(), nullable=True),
        sa.Column("leased_to", sa.Text(), nullable=True),
        sa.Column("leased_until_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("(state = 'labelled') = (label IS NOT NULL)", name="ck_fieldrepair_tasks_label"),
        sa.CheckConstraint("purpose IN ('acceptance', 'repair')", name="ck_fieldrepair_tasks_purpose"),
        sa.CheckConstraint("state IN ('labelled', 'open', 'skipped')", name="ck_fieldrepair_tasks_state"),
        sa.ForeignKeyConstraint(["case_id"], ["fieldrepair_cases.id"], name="fk_fieldrepair_tasks_case_id"),
        sa.PrimaryKeyConstraint("id", name="pk_fieldrepair_tasks"),
        sa.UniqueConstraint("case_id", "attempt", "position", name="uq_fieldrepair_tasks_case_id_attempt_position"),
        sa.UniqueConstraint("case_id", "request_id", "row", name="uq_fieldrepair_tasks_case_id_request_id_row"),
    )
    op.create_table(
        "fieldrepair_notifications",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("event_id", sa.Integer(), nullable=True),
        sa.Column("case_id", sa.Integer(), nullable=True),
        sa.Column("payload", _JSON, nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("last_attempt_ms", sa.BigInteger(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("sent_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["case_id"], ["fieldrepair_cases.id"], name="fk_fieldrepair_notifications_case_id"),
        sa.ForeignKeyConstraint(
            ["event_id"], ["fieldrepair_drift_events.id"], name="fk_fieldrepair_notifications_event_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_fieldrepair_notifications"),
    )
    op.create_index(
        "ix_fieldrepair_notifications_pending", "fieldrepair_notifications", ["sent_ms", "id"], unique=False
    )


def downgrade() -> None:
    """Drop every table."""
    for name in ("notifications", "tasks", "case_history", "drift_events", "windows", "checkpoints", "cases"):
        op.drop_table(f"fieldrepair_{name}")
