"""Whether a window's estimate can be trusted, and what detectors remember of earlier windows.

Written out in full and never changed again: a later change to the models is a new revision.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    """Add the columns; windows judged before say nothing about trust, and nothing is remembered of them."""
    op.add_column("fieldrepair_windows", sa.Column("accuracy_trusted", sa.Boolean(), nullable=True))
    op.add_column("fieldrepair_checkpoints", sa.Column("memory", _JSON, nullable=True))


def downgrade() -> None:
    """Drop them: detectors begin to remember anew."""
    op.drop_column("fieldrepair_checkpoints", "memory")
    op.drop_column("fieldrepair_windows", "accuracy_trusted")
