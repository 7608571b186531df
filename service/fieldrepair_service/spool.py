"""The spool: a SQLite file that holds exchanges from the moment they are answered until the field log has them.

One process writes (the sidecar), one ships (its child). Each moves rows and counters in the same transaction, so
that at any time, and after any crash, ``spooled = settled + waiting`` holds exactly.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import Literal

from fieldrepair_service.errors import SpoolError
from fieldrepair_service.exchange import Exchange

logger = logging.getLogger(__name__)

SPOOLED = "spooled"
"""Counter: exchanges that were ever written here."""
SETTLED = "settled"
"""Counter: exchanges that were taken out again, logged or dropped."""

_VERSION = 3
_COLUMNS = [field.name for field in fields(Exchange)]
_BUSY_SECONDS = 5.0
# A power cut can undo the last commits, after the field log has already settled their numbers. Numbers are never used
# twice, because each opening leaves more of them out than such a gap can hold.
_SEQ_GAP = 1 << 20
_REJECTED_KEPT = 1_000

_FIELDS = f"{', '.join(_COLUMNS)}, checksum"
_SCHEMA = f"""
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE exchanges (seq INTEGER PRIMARY KEY AUTOINCREMENT, {_FIELDS});
CREATE TABLE rejected (seq INTEGER PRIMARY KEY, reason TEXT NOT NULL, detail TEXT NOT NULL, {_FIELDS});
INSERT INTO sqlite_sequence VALUES ('exchanges', 0);
INSERT INTO meta VALUES ('writer', '%s');
PRAGMA user_version={_VERSION};
"""  # noqa: S608 - these statements are put together from column names of our own only
_INSERT = f"INSERT INTO exchanges ({_FIELDS}) VALUES "  # noqa: S608
_ROW = f"({', '.join('?' * (len(_COLUMNS) + 1))})"
# sqlite3 lets go of the interpreter's lock for every statement, and while the event loop is busy each time takes up to
# 5 ms to get it back. Row by row, a busy sidecar would fill its queue faster than it is written.
_ROWS_AT_ONCE = (64, 8, 1)
_INSERTS = {rows: _INSERT + ", ".join([_ROW] * rows) for rows in _ROWS_AT_ONCE}
_READ = f"SELECT seq, {_FIELDS} FROM exchanges WHERE seq > ? ORDER BY seq LIMIT ?"  # noqa: S608
_REJECT = (
    f"INSERT OR REPLACE INTO rejected (seq, reason, detail, {_FIELDS}) "  # noqa: S608
    f"SELECT seq, ?, ?, {_FIELDS} FROM exchanges WHERE seq = ?"
)
_FORGET_OLD_REJECTED = (
    "DELETE FROM rejected WHERE seq IN (SELECT seq FROM rejected ORDER BY seq DESC LIMIT -1 OFFSET ?)"
)
_values_of = attrgetter(*_COLUMNS)
# What each version added; what waits in an older spool gets the value that means "not known".
_ADDED_IN = {
    2: ("request_path", "request_json_length", "answer_json_length"),
    3: ("headers", "trace_id", "redaction"),
}


def _upgrade_from(version: int) -> str:
    """Statements that make a spool of an older version one of this."""
    added = [name for since, names in _ADDED_IN.items() if since > version for name in names]
    columns = [
        f"ALTER TABLE {table} ADD COLUMN {name} DEFAULT '';" for table in ("exchanges", "rejected") for name in added
    ]
    return f"BEGIN IMMEDIATE; {''.join(columns)} PRAGMA user_version={_VERSION}; COMMIT;"


@dataclass(frozen=True)
class Spooled:
    """What stands under one number: an exchange, or why it cannot be read."""

    seq: int
    exchange: Exchange | None
    problem: str = ""


class Spool:
    """An open spool. Belongs to the thread that opened it."""

    def __init__(self, connection: sqlite3.Connection, writer: str) -> None:
        self._connection = connection
        self.writer = writer

    @classmethod
    def open(cls, path: Path, *, durable: bool = False, check: bool = False) -> Spool:
        """Open the spool for writing, making it if need be. A file that is no usable spool is moved aside.

        Args:
            path: the SQLite file.
            durable: whether each commit waits for the disk (fsync).
            check: look through the whole file for damage, not only at its beginning.

        Raises:
            SpoolError: if the place cannot be written at all.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                return cls._open(path, durable=durable, check=check)
            except sqlite3.DatabaseError as error:
                if not is_damage(error):
                    raise
                _move_aside(path, error)
                return cls._open(path, durable=durable, check=False)
        except (sqlite3.Error, OSError) as error:
            raise SpoolError(f"the spool {path} cannot be opened: {error}") from error

    @classmethod
    def _open(cls, path: Path, *, durable: bool, check: bool) -> Spool:
        _make_private(path)
        connection = _connect(path)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            connection.execute(f"PRAGMA journal_size_limit={64 << 20}")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA % uuid.uuid4().hex} COMMIT;")
            elif 0 < version < _VERSION:
                connection.executescript(_upgrade_from(version))
            _inspect(connection, thoroughly=check)
            connection.execute("UPDATE sqlite_sequence SET seq = seq + ? WHERE name = 'exchanges'", (_SEQ_GAP,))
            return cls(connection, _writer_of(connection))
        except BaseException:
            connection.close()
            raise

    @classmethod
    def attach(cls, path: Path) -> Spool:
        """Open an existing spool to ship from it, without changing or repairing anything.

        Raises:
            SpoolError: if there is no usable spool.
        """
        try:
            connection = _connect(path, mode="rw")
            connection.execute("PRAGMA synchronous=NORMAL")
            return cls(connection, _writer_of(connection))
        except sqlite3.Error as error:
            raise SpoolError(f"the spool {path} cannot be read: {error}") from error

    def close(self) -> None:
        """Close the file; nothing that was written is lost."""
        self._connection.close()

    def write(self, exchanges: Sequence[Exchange], counts: Mapping[str, int]) -> None:
        """Add exchanges and counts in one transaction.

        Raises:
            sqlite3.Error: if the disk does not take it; then nothing of it is written.
        """
        with _Transaction(self._connection):
            self._insert(exchanges)
            self._count(Counter(counts) + Counter({SPOOLED: len(exchanges)}))

    def _insert(self, exchanges: Sequence[Exchange]) -> None:
        begin = 0
        for rows in _ROWS_AT_ONCE:
            while len(exchanges) - begin >= rows:
                values: list[object] = []
                for each in exchanges[begin : begin + rows]:
                    values += _values_of(each)
                    values.append(each.checksum())
                self._connection.execute(_INSERTS[rows], values)
                begin += rows

    def read(self, after: int, *, limit: int, max_bytes: int) -> list[Spooled]:
        """The next exchanges by number; at least one if there is any, then up to ``limit`` or ``max_bytes``."""
        cursor = self._connection.execute(_READ, (after, limit))
        found: list[Spooled] = []
        size = 0
        for seq, *values, checksum in cursor:
            item = _restore(seq, values, checksum)
            size += item.exchange.size if item.exchange is not None else 0
            if found and size > max_bytes:
                break
            found.append(item)
        cursor.close()
        return found

    def waiting(self) -> int:
        """How many exchanges wait, or more where numbers were left out; cheap however many there are."""
        row = self._connection.execute(
            "SELECT (SELECT MAX(seq) FROM exchanges) - (SELECT MIN(seq) FROM exchanges) + 1"
        ).fetchone()
        return int(row[0] or 0)

    def settle(self, last_seq: int, counts: Mapping[str, int], rejected: Iterable[tuple[int, str, str]] = ()) -> None:
        """Take out everything up to ``last_seq``, and count it, in one transaction.

        Args:
            last_seq: the last number that is dealt with.
            counts: what to add to which counter.
            rejected: (seq, reason, detail) of exchanges to keep in the table ``rejected`` for a person to look at.
        """
        with _Transaction(self._connection):
            for seq, reason, detail in rejected:
                self._connection.execute(_REJECT, (reason, detail, seq))
            self._connection.execute(_FORGET_OLD_REJECTED, (_REJECTED_KEPT,))
            gone = self._connection.execute("DELETE FROM exchanges WHERE seq <= ?", (last_seq,)).rowcount
            self._count({**counts, SETTLED: gone})

    def counters(self) -> dict[str, int]:
        """Every counter by name."""
        return dict(self._connection.execute("SELECT name, value FROM counters"))

    def used_bytes(self) -> int:
        """Bytes of the file that hold something."""
        one = self._connection.execute
        pages = one("PRAGMA page_count").fetchone()[0] - one("PRAGMA freelist_count").fetchone()[0]
        return int(pages * one("PRAGMA page_size").fetchone()[0])

    def note(self, name: str, value: str | None) -> None:
        """Keep a word under ``name``; None forgets it."""
        if value is None:
            self._connection.execute("DELETE FROM meta WHERE name = ?", (name,))
        else:
            self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def noted(self, name: str) -> str | None:
        """The word kept under ``name``."""
        row = self._connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def _count(self, counts: Mapping[str, int]) -> None:
        self._connection.executemany(
            "INSERT INTO counters VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
            [(name, count) for name, count in counts.items() if count],
        )


def read_counters(path: Path) -> tuple[dict[str, int], int]:
    """Counters of a spool, and its size in bytes, from any thread or process; ({}, 0) if it cannot be read now."""
    try:
        connection = _connect(path, mode="ro")
    except sqlite3.Error:
        return {}, 0
    try:
        spool = Spool(connection, "")
        return spool.counters(), spool.used_bytes()
    except sqlite3.Error as error:
        logger.warning("the spool's counters cannot be read: %s", error)
        return {}, 0
    finally:
        connection.close()


def read_note(path: Path, name: str) -> str | None:
    """A word kept in a spool, from any thread or process; None if there is none or it cannot be read now."""
    try:
        connection = _connect(path, mode="ro")
    except sqlite3.Error:
        return None
    try:
        return Spool(connection, "").noted(name)
    except sqlite3.Error:
        return None
    finally:
        connection.close()


def is_damage(error: sqlite3.Error) -> bool:
    """Whether an error means that the file itself is broken, rather than full, locked or gone."""
    # sqlite3 raises the bare DatabaseError for "malformed" and "not a database"; the rest has classes of its own.
    return type(error) is sqlite3.DatabaseError


class _Transaction:
    """``BEGIN IMMEDIATE`` to ``COMMIT``: takes the write lock at once, so that it cannot fail half-way for that."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> Literal[False]:
        try:
            if kind is None:
                self._connection.execute("COMMIT")
        finally:
            # Also after a COMMIT that failed on a full disk. SQLite may have rolled back by itself.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        return False


def _connect(path: Path, mode: Literal["rwc", "rw", "ro"] = "rwc") -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_BUSY_SECONDS)
    # Without this, one damaged text would make every read that comes across it fail.
    connection.text_factory = _text
    return connection


def _make_private(path: Path) -> None:
    """Requests lie here as they were sent: for the owner's eyes only. SQLite gives its other files the same mode."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    for each in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
        if each.exists() and each.stat().st_mode & 0o077:
            each.chmod(0o600)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _writer_of(connection: sqlite3.Connection) -> str:
    row = connection.execute("SELECT value FROM meta WHERE name = 'writer'").fetchone()
    if row is None:
        raise sqlite3.DatabaseError("the spool has lost its writer id")
    return str(row[0])


def _inspect(connection: sqlite3.Connection, *, thoroughly: bool) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != _VERSION:
        raise sqlite3.DatabaseError(f"a spool of version {version}, expected {_VERSION}")
    if thoroughly and (found := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
        raise sqlite3.DatabaseError(found)
    connection.execute("SELECT seq FROM exchanges ORDER BY seq LIMIT 1").fetchone()
    connection.execute("SELECT value FROM counters").fetchall()


def _restore(seq: int, values: list[object], checksum: object) -> Spooled:
    for name, value, kinds in zip(_COLUMNS, values, _KINDS, strict=True):
        if not isinstance(value, kinds):
            return Spooled(seq, None, f"{name} is a {type(value).__name__}")
    exchange = Exchange(*values)  # type: ignore[arg-type]  # checked just above
    if checksum != exchange.checksum():
        return Spooled(seq, None, f"checksum is {exchange.checksum()}, expected {checksum}")
    return Spooled(seq, exchange)


_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (float, int),
    "str": (str,),
    "bytes": (bytes,),
    "str | None": (str, type(None)),
}
_KINDS = [_TYPES[str(field.type)] for field in fields(Exchange)]


def _move_aside(path: Path, error: Exception) -> None:
    aside = path.with_name(
        f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:6]}"
    )
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    logger.error("the spool %s is damaged (%s); it is kept as %s and a new one begins", path, error, aside)
