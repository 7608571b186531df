"""The case book's database: engine and transactions.

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
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from fieldrepair_service.errors import ConfigurationError, StoreUnavailable

BUSY_TIMEOUT_S = 30
"""How long a SQLite transaction waits for another one's write lock."""

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
    try:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"cannot make the folder of the case book {url.database}: {error.strerror}") from error
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
    return orjson.dumps(value).decode()


Clock: TypeAlias = Callable[[], int]
"""Gives the time in UTC epoch milliseconds."""


def now_ms() -> int:
    """The time in UTC epoch milliseconds."""
    return time.time_ns() // 1_000_000


class Database:
    """Transactions on one case book. Safe to share between threads."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        # One consistent view over several SELECTs. SQLite's transactions are like that anyway.
        postgresql = engine.dialect.name == "postgresql"
        self._reading = engine.execution_options(isolation_level="REPEATABLE READ") if postgresql else engine
        self._writing = engine.execution_options(**{_WRITES: True})

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    @contextlib.contextmanager
    def reading(self) -> Generator[Session]:
        """One consistent view; nothing in it is written."""
        with _clear_errors(), Session(self._reading) as session, session.begin():
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
