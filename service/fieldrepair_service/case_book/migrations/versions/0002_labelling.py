"""Answers of several labellers, ground truth, explanations, attachments, what the monitor found out, an audit trail.

Written out in full and never changed again: a later change to the models is a new revision.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
_REAL: sa.types.TypeEngine[float] = sa.Double()
_WINDOW_NUMBERS = ("accuracy_low", "accuracy_high", "labelled_accuracy", "effect_size")


def upgrade() -> None:
    """Add the tables and columns; answers that were given before become rows of their own."""
    for name in _WINDOW_NUMBERS:
        op.add_column("fieldrepair_windows", sa.Column(name, _REAL, nullable=True))
    op.add_column("fieldrepair_windows", sa.Column("labelled_count", sa.Integer(), nullable=True))
    op.add_column("fieldrepair_windows", sa.Column("scores", _JSON, nullable=True))
    op.add_column("fieldrepair_drift_events", sa.Column("explanation", _JSON, nullable=True))
    op.add_column(
        "fieldrepair_tasks", sa.Column("answers_wanted", sa.Integer(), nullable=False, server_default=sa.text("1"))
    )
    op.add_column("fieldrepair_tasks", sa.Column("reason", sa.Text(), nullable=True))
    op.create_table(
        "fieldrepair_attachments",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("case_id", sa.Integer(), nullable=False),
        sa.Column("event_id", sa.Integer(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("media_type", sa.Text(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["case_id"], ["fieldrepair_cases.id"], name="fk_fieldrepair_attachments_case_id"),
        sa.ForeignKeyConstraint(
            ["event_id"], ["fieldrepair_drift_events.id"], name="fk_fieldrepair_attachments_event_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_fieldrepair_attachments"),
        sa.UniqueConstraint("case_id", "name", name="uq_fieldrepair_attachments_case_id_name"),
    )
    op.create_table(
        "fieldrepair_audit",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("detail", _JSON, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_fieldrepair_audit"),
    )
    op.create_table(
        "fieldrepair_answers",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("task_id", sa.Integer(), nullable=False),
        sa.Column("labeller", sa.Text(), nullable=False),
        sa.Column("verdict", sa.String(length=16), nullable=False),
        sa.Column("label", sa.Integer(), nullable=True),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("verdict IN ('label', 'not_sure', 'skip')", name="ck_fieldrepair_answers_verdict"),
        sa.CheckConstraint("(verdict = 'label') = (label IS NOT NULL)", name="ck_fieldrepair_answers_label"),
        sa.ForeignKeyConstraint(["task_id"], ["fieldrepair_tasks.id"], name="fk_fieldrepair_answers_task_id"),
        sa.PrimaryKeyConstraint("id", name="pk_fieldrepair_answers"),
        sa.UniqueConstraint("task_id", "labeller", name="uq_fieldrepair_answers_task_id_labeller"),
    )
    op.create_table(
        "fieldrepair_ground_truth",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("client_request_id", sa.Text(), nullable=False),
        sa.Column("row", sa.Integer(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("received_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_fieldrepair_ground_truth"),
        sa.UniqueConstraint("client_request_id", "row", name="uq_fieldrepair_ground_truth_client_request_id_row"),
    )
    # Tasks that a retry closed were decided by "fieldrepair", which is nobody's answer.
    op.execute(
        "UPDATE fieldrepair_tasks SET reason = CASE decided_by WHEN 'fieldrepair' THEN 'retry' ELSE 'skip' END "
        "WHERE state = 'skipped'"
    )
    op.execute(
        "INSERT INTO fieldrepair_answers (task_id, labeller, verdict, label, source, at_ms) "
        "SELECT id, decided_by, CASE state WHEN 'labelled' THEN 'label' ELSE 'skip' END, label, 'api', decided_ms "
        "FROM fieldrepair_tasks WHERE state = 'labelled' OR (state = 'skipped' AND reason = 'skip') ORDER BY id"
    )


def downgrade() -> None:
    """Drop what was added. Answers of others than the one who decided a task are lost."""
    for name in ("ground_truth", "answers", "audit", "attachments"):
        op.drop_table(f"fieldrepair_{name}")
    for name in ("reason", "answers_wanted"):
        op.drop_column("fieldrepair_tasks", name)
    op.drop_column("fieldrepair_drift_events", "explanation")
    for name in ("scores", "labelled_count", *reversed(_WINDOW_NUMBERS)):
        op.drop_column("fieldrepair_windows", name)
