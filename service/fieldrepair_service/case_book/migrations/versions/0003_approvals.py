"""Who approved a case's candidate, and what became of it: columns of their own, out of the case's progress.

Written out in full and never changed again: a later change to the models is a new revision.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
_CASES = sa.table(
    "fieldrepair_cases",
    sa.column("id", sa.Integer()),
    sa.column("progress", _JSON),
    sa.column("approved_by", sa.Text()),
    sa.column("approved_ms", sa.BigInteger()),
    sa.column("approved_version", sa.Text()),
    sa.column("approval_moved_ms", sa.BigInteger()),
    sa.column("approval_problem", sa.Text()),
)
_KEYS = {
    "approved_by": "by",
    "approved_ms": "at_ms",
    "approved_version": "version",
    "approval_moved_ms": "moved_ms",
    "approval_problem": "problem",
}
"""Column -> key in ``progress["approval"]``."""


def upgrade() -> None:
    """Add the columns, and move what was approved before into them."""
    for name in _KEYS:
        number = name.endswith("_ms")
        op.add_column("fieldrepair_cases", sa.Column(name, sa.BigInteger() if number else sa.Text(), nullable=True))
    connection = op.get_bind()
    for number, progress in connection.execute(sa.select(_CASES.c.id, _CASES.c.progress)).all():
        stored = progress.get("approval")
        if not isinstance(stored, Mapping):
            continue
        approval = cast("Mapping[str, object]", stored)
        rest = {key: value for key, value in progress.items() if key != "approval"}
        values = {column: approval.get(key) or None for column, key in _KEYS.items()}
        connection.execute(sa.update(_CASES).where(_CASES.c.id == number).values(progress=rest, **values))


def downgrade() -> None:
    """Move approvals back into the progress of their cases, and drop the columns."""
    connection = op.get_bind()
    for row in connection.execute(sa.select(_CASES).where(_CASES.c.approved_by.is_not(None))).mappings().all():
        approval = {key: row[column] for column, key in _KEYS.items() if row[column] is not None}
        progress = {**row["progress"], "approval": approval}
        connection.execute(sa.update(_CASES).where(_CASES.c.id == row["id"]).values(progress=progress))
    for name in reversed(_KEYS):
        op.drop_column("fieldrepair_cases", name)
