"""Bringing a case book's tables up to date: Alembic's migrations, run from here."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError

from fieldrepair_service.case_book.database import Database
from fieldrepair_service.case_book.models import VERSION_TABLE
from fieldrepair_service.errors import ConfigurationError, SchemaMismatch

_MIGRATION_LOCK = 0x66_72_62_6F_6F_6B  # "frbook": the advisory lock that serialises migrations on PostgreSQL


def bring_up_to_date(database: Database, *, migrate: bool) -> None:
    """Make the book's schema the one this code knows.

    Several processes may do this at once: the first holds a lock, the others find the work done.

    Args:
        database: the book.
        migrate: whether an older (or empty) book may be changed.

    Raises:
        SchemaMismatch: the book is newer than this code, or older and ``migrate`` is false.
        StoreUnavailable: the database cannot be reached.
        ConfigurationError: the file is not a database, or the database does not let us in.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    scripts = ScriptDirectory.from_config(config)
    known = scripts.get_current_head()
    place = database.engine.url.render_as_string(hide_password=True)
    try:
        with database.connection() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
            found = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()
            if found == known:
                return
            if found is not None and found not in {script.revision for script in scripts.walk_revisions()}:
                raise SchemaMismatch(
                    f"the case book {place} has schema {found!r}, this fieldrepair knows schemas up to {known!r}; "
                    "run the fieldrepair version that wrote it, or a newer one"
                )
            if not migrate:
                raise SchemaMismatch(
                    f"the case book {place} has schema {found or 'none'!r}, this fieldrepair needs {known!r}; "
                    "open it once with migrate=True"
                )
            config.attributes["connection"] = connection
            try:
                command.upgrade(config, "head")
            except DatabaseError as error:
                raise SchemaMismatch(
                    f"the case book {place} could not be brought from schema {found or 'none'!r} to {known!r}, "
                    f"and was left as it is: {error.orig}"
                ) from error
    except DatabaseError as error:
        if isinstance(error.orig, sqlite3.DatabaseError) and "not a database" in str(error.orig):
            raise ConfigurationError(f"the case book {place} is not an SQLite database") from error
        raise ConfigurationError(f"the case book {place} cannot be opened: {error.orig}") from error
