"""The case book's database: engine, transactions, and bringing an older schema up to date.

SQLite runs in WAL mode, and a transaction that writes takes the write lock at its start (``BEGIN IMMEDIATE``), so
that what it read is still true when it writes. On PostgreSQL such a transaction locks the rows it decides on.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TypeAlias, TypeVar

import orjson
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from fieldrepair_service.case_book.models import VERSION_TABLE
from fieldrepair_service.errors import ConfigurationError, SchemaMismatch, StoreUnavailable

BUSY_TIMEOUT_S = 30
"""How long a SQLite transaction waits for another one's write lock."""

_MIGRATION_LOCK = 0x66_72_62_6F_6F_6B  # "frbook": the advisory lock that serialises migrations on PostgreSQL
_WRITES = "fieldrepair_writes"

T = TypeVar("T")


def create_book_engine(url: str) -> Engine:
    """Engine for a SQLite file or a PostgreSQL database.

    Args:
        url: SQLAlchemy URL, ``sqlite:///path`` or ``postgresql://user@host/name``.

    Raises:
        ConfigurationError: for any other kind of database, or a SQLite URL without a file.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigurationError(
            "the case book's URL cannot be read; expected sqlite:///FILE or postgresql://USER@HOST/DATABASE"
        ) from error
    backend = parsed.drivername.split("+")[0]
    if backend == "sqlite":
        return _sqlite_engine(parsed)
    if backend in ("postgresql", "postgres"):
        return create_engine(
            parsed.set(drivername="postgresql+psycopg"),
            json_serializer=_to_json,
            json_deserializer=orjson.loads,
            pool_pre_ping=True,
        )
    raise ConfigurationError(f"the case book lives in SQLite or PostgreSQL, got a URL for {backend!r}")


def _sqlite_engine(url: URL) -> Engine:
    if not url.database or url.database == ":memory:":
        raise ConfigurationError(f"the case book needs a file that several processes share, got {url}")
    Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        url,
        json_serializer=_to_json,
        json_deserializer=orjson.loads,
        connect_args={"timeout": BUSY_TIMEOUT_S},
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
    del record
    # The driver's own BEGIN comes too late (at the first write) and is always DEFERRED; ours is in `_begin_sqlite`.
    connection.isolation_level = None
    cursor = connection.cursor()
    try:
        cursor.execute("PRAGMA foreign_keys = ON")
        _switch_to_wal(cursor.execute)
    finally:
        cursor.close()


def _switch_to_wal(execute: Callable[[str], object]) -> None:
    """Several processes may open a new book at once; SQLite's busy timeout does not cover this one switch."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:  # noqa: PERF203  (waits between the tries)
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _to_json(value: object) -> str:
    """JSON text; numbers that JSON does not have (NaN, infinity) become null, NumPy numbers become plain ones."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY).decode()


Clock: TypeAlias = Callable[[], int]
"""Gives the time in UTC epoch milliseconds."""


def now_ms() -> int:
    """The time in UTC epoch milliseconds."""
    return time.time_ns() // 1_000_000


class Database:
    """Transactions on one case book. Safe to share between threads."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._writing = engine.execution_options(**{_WRITES: True})

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    @contextlib.contextmanager
    def reading(self) -> Generator[Session]:
        """One consistent view; nothing in it is written."""
        with _clear_errors(), Session(self.engine) as session, session.begin():
            yield session

    @contextlib.contextmanager
    def writing(self) -> Generator[Session]:
        """One transaction: all of it or, after an error, nothing."""
        with _clear_errors(), Session(self._writing, expire_on_commit=False) as session, session.begin():
            yield session

    @contextlib.contextmanager
    def connection(self) -> Generator[Connection]:
        """A bare connection in a writing transaction, for migrations."""
        with _clear_errors(), self._writing.begin() as connection:
            yield connection


class BookPart:
    """What every part of the case book stands on."""

    def __init__(self, database: Database, clock: Clock = now_ms) -> None:
        self._database = database
        self._now = clock


def retry_once(work: Callable[[], T]) -> T:
    """Run one transaction; if it lost a race for a unique place, run it again: now it sees who won, and says so."""
    try:
        return work()
    except IntegrityError:
        return work()


@contextlib.contextmanager
def _clear_errors() -> Generator[None]:
    try:
        yield
    except (OperationalError, PoolTimeoutError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        raise StoreUnavailable(f"the case book's database does not answer: {cause}") from error


def bring_up_to_date(database: Database, *, migrate: bool) -> None:
    """Make the book's schema the one this code knows.

    Several processes may do this at once: the first holds a lock, the others find the work done.

    Args:
        database: the book.
        migrate: whether an older (or empty) book may be changed.

    Raises:
        SchemaMismatch: the book is newer than this code, or older and ``migrate`` is false.
        StoreUnavailable: the database cannot be reached.
        ConfigurationError: the file is not a database.
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
            command.upgrade(config, "head")
    except DatabaseError as error:
        if isinstance(error.orig, sqlite3.DatabaseError) and "not a database" in str(error.orig):
            raise ConfigurationError(f"the case book {place} is not an SQLite database") from error
        raise
