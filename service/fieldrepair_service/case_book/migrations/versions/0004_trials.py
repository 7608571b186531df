"""What a candidate did beside the champion before it took over: shadows and canaries.

Written out in full and never changed again: a later change to the models is a new revision.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "fieldrepair_trials",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("model_name", sa.Text(), nullable=False),
        sa.Column("champion_version", sa.Text(), nullable=False),
        sa.Column("candidate_version", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("report", _JSON, nullable=False),
        sa.Column("started_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.Column("ended_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("kind IN ('canary', 'shadow')", name=op.f("ck_fieldrepair_trials_kind")),
        sa.CheckConstraint(
            "state IN ('cancelled', 'ended', 'passed', 'rolled_back', 'running')",
            name=op.f("ck_fieldrepair_trials_state"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fieldrepair_trials")),
    )
    op.create_index("ix_fieldrepair_trials_candidate", "fieldrepair_trials", ["model_name", "candidate_version"])
    op.create_index(
        "uq_fieldrepair_trials_running",
        "fieldrepair_trials",
        ["kind", "model_name"],
        unique=True,
        sqlite_where=sa.text("state = 'running'"),
        postgresql_where=sa.text("state = 'running'"),
    )


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("fieldrepair_trials")
