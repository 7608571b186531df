"""Alembic runs this file. It works on the connection, and in the transaction, that the case book hands over."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection
from sqlalchemy.sql.schema import SchemaItem

from fieldrepair_service.case_book.models import PREFIX, VERSION_TABLE
from fieldrepair_service.case_book.task_models import Base  # with every table but one: it imports the other models
from fieldrepair_service.case_book.trial_models import TrialRow  # and this is the one


def _ours(item: SchemaItem, name: str | None, kind: str, reflected: bool, compare_to: SchemaItem | None) -> bool:
    """Other applications may keep their tables in the same database."""
    del item, reflected, compare_to
    return kind != "table" or (name or "").startswith(PREFIX)


assert TrialRow.metadata is Base.metadata  # noqa: S101
connection = context.config.attributes["connection"]
assert isinstance(connection, Connection)  # noqa: S101  (open_case_book always hands one over)
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    include_object=_ours,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
