"""Opening a case book: creating it, bringing it up to date, and refusing what cannot work."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, inspect, text

from fieldrepair_service.case_book import Approval, open_case_book, schema
from fieldrepair_service.case_book.database import Database, create_book_engine
from fieldrepair_service.case_book.models import PREFIX, VERSION_TABLE
from fieldrepair_service.case_book.task_models import Base
from fieldrepair_service.errors import ConfigurationError, SchemaMismatch, StoreUnavailable


def _engine(url: str) -> Engine:
    return create_book_engine(url)


def _write(url: str, *statements: str) -> None:
    database = Database(_engine(url))
    with database.connection() as connection:
        for statement in statements:
            connection.execute(text(statement))
    database.close()


def test_models_and_migrations_agree(case_book_url: str) -> None:
    open_case_book(case_book_url).close()
    engine = _engine(case_book_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={"version_table": VERSION_TABLE, "compare_type": True, "compare_server_default": True},
        )
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()


@pytest.mark.parametrize("index", ["uq_fieldrepair_cases_at_work", "uq_fieldrepair_drift_events_open"])
def test_partial_unique_indexes_are_partial(case_book_url: str, index: str) -> None:
    """Alembic does not compare the WHERE of an index, so this does."""
    open_case_book(case_book_url).close()
    engine = _engine(case_book_url)
    inspector = inspect(engine)
    found = [
        entry
        for table in inspector.get_table_names()
        for entry in inspector.get_indexes(table)
        if entry["name"] == index
    ]
    engine.dispose()
    assert len(found) == 1
    assert found[0]["unique"]
    where = str(found[0].get("dialect_options", {}).get(f"{engine.dialect.name}_where", ""))
    assert ("ended_ms" if "events" in index else "annotating") in where


def test_opening_again_changes_nothing(case_book_url: str) -> None:
    for migrate in (True, True, False):
        with open_case_book(case_book_url, migrate=migrate) as book:
            assert book.cases() == []


def test_a_newer_book_is_refused(case_book_url: str) -> None:
    open_case_book(case_book_url).close()
    _write(case_book_url, f"UPDATE {VERSION_TABLE} SET version_num = '0099'")
    with pytest.raises(SchemaMismatch, match=r"has schema '0099', this fieldrepair knows schemas up to '0005'; run"):
        open_case_book(case_book_url)


def test_an_empty_book_is_refused_without_migration(case_book_url: str) -> None:
    with pytest.raises(SchemaMismatch, match=r"has schema 'none', this fieldrepair needs '0005'; open it once with"):
        open_case_book(case_book_url, migrate=False)


def test_other_applications_may_live_in_the_same_database(case_book_url: str) -> None:
    _write(
        case_book_url,
        "CREATE TABLE alembic_version (version_num VARCHAR(32))",
        "INSERT INTO alembic_version VALUES ('mlflow-revision')",
        "CREATE TABLE tasks (id INTEGER)",
    )
    open_case_book(case_book_url).close()
    engine = _engine(case_book_url)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all() == [
            "mlflow-revision"
        ]
        assert {name for name in inspect(connection).get_table_names() if not name.startswith(PREFIX)} == {
            "alembic_version",
            "tasks",
        }
    engine.dispose()


_OPEN_IN_MANY_PROCESSES = """
import os, sys
from fieldrepair_service.case_book import open_case_book

children = []
go, wait = os.pipe()[::-1]
for _ in range(8):
    child = os.fork()
    if child == 0:
        os.close(go)
        os.read(wait, 1)  # returns when the parent closes its end: all start at once
        try:
            open_case_book(sys.argv[1]).close()
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    children.append(child)
os.close(go)
sys.exit(sum(os.waitpid(child, 0)[1] != 0 for child in children))
"""


def test_several_processes_open_a_new_book_at_once(case_book_url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _OPEN_IN_MANY_PROCESSES, case_book_url],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    open_case_book(case_book_url, migrate=False).close()


def test_a_migration_that_fails_leaves_nothing(case_book_url: str) -> None:
    """The tables are made in one transaction: here the last table's name is taken."""
    _write(case_book_url, f"CREATE TABLE {PREFIX}notifications (id INTEGER)")
    with pytest.raises(SchemaMismatch, match=r"left as it is: .*notifications"):
        open_case_book(case_book_url)
    engine = _engine(case_book_url)
    assert inspect(engine).get_table_names() == [f"{PREFIX}notifications"]
    engine.dispose()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("no url", "cannot be read"),
        ("mysql://root@localhost/book", "got a URL for 'mysql'"),
        ("sqlite://", "needs a file"),
        ("sqlite:///:memory:", "needs a file"),
    ],
)
def test_urls_that_cannot_work_are_refused(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        open_case_book(url)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "case_book.db").write_text("this is not a database " * 100)
    with pytest.raises(ConfigurationError, match="not an SQLite database"):
        open_case_book(f"sqlite:///{tmp_path / 'case_book.db'}")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot make the folder"):
        open_case_book(f"sqlite:///{tmp_path / 'file' / 'sub' / 'case_book.db'}")


def test_a_database_that_does_not_answer_is_named_without_its_password() -> None:
    with pytest.raises(StoreUnavailable, match="does not answer") as caught:
        open_case_book("postgresql://tester:very-secret@127.0.0.1:1/nowhere?connect_timeout=2")
    assert "very-secret" not in str(caught.value)


def test_postgresql_url_needs_no_driver_name(postgresql_server: str) -> None:
    with open_case_book(postgresql_server) as book:
        assert book.url.startswith("postgresql+psycopg://tester@127.0.0.1:")


def test_a_database_that_does_not_let_us_in_says_so(postgresql_server: str) -> None:
    with psycopg.connect(postgresql_server, autocommit=True) as admin:
        admin.execute("CREATE ROLE stranger LOGIN")
        admin.execute("CREATE SCHEMA closed")
    url = postgresql_server.replace("tester@", "stranger@") + "?options=-csearch_path%3Dclosed"
    with pytest.raises((ConfigurationError, SchemaMismatch), match=r"no schema has been selected|permission denied"):
        open_case_book(url)


def test_sqlite_is_in_wal_mode_with_foreign_keys(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "case_book.db"
    open_case_book(f"sqlite:///{path}").close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
    engine = _engine(f"sqlite:///{path}")
    with engine.connect() as checked:
        assert checked.execute(text("PRAGMA foreign_keys")).scalar() == 1
        assert checked.execute(text("PRAGMA busy_timeout")).scalar() == 30_000
    engine.dispose()


def _alembic(url: str, move: Callable[[Config], None]) -> None:
    """Moves a book to a revision: what an older or newer fieldrepair would do."""
    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
    database = Database(_engine(url))
    with database.connection() as connection:
        config.attributes["connection"] = connection
        move(config)
    database.close()


def test_downgrade_removes_every_table(case_book_url: str) -> None:
    """A revision that cannot be taken back cannot be tried out either."""
    open_case_book(case_book_url).close()
    _alembic(case_book_url, lambda config: command.downgrade(config, "base"))
    engine = _engine(case_book_url)
    assert inspect(engine).get_table_names() == [VERSION_TABLE]
    engine.dispose()


_OLD_BOOK = (
    "INSERT INTO fieldrepair_cases (id, model_name, model_version, state, reason, note, attempt, planned_ms, budget, "
    "acceptance_size, cursor_start, class_names, input_spec, progress, created_ms, updated_ms) VALUES "
    "(7, 'digits', '3', 'annotating', 'drift', 'waiting', 2, 5, 2, 1, '{}', '[\"cat\", \"dog\"]', '{}', '{}', 1, 2)",
    "INSERT INTO fieldrepair_windows (id, model_name, model_version, window_index, first_timestamp_ms, "
    "last_timestamp_ms, size, detector, statistic, threshold, drifted, cursor_start, recorded_ms) VALUES "
    "(1, 'digits', '3', 0, 1, 2, 100, 'mmd', 0.5, 0.1, true, '{}', 3)",
    "INSERT INTO fieldrepair_drift_events (id, case_id, opened_case, model_name, model_version, detector, statistic, "
    "threshold, window_index, cursor_start, field_inputs_until_alert, summary, opened_ms) VALUES "
    "(4, 7, true, 'digits', '3', 'mmd', 0.5, 0.1, 0, '{}', 100, 'differs', 3)",
    'INSERT INTO fieldrepair_tasks (id, case_id, attempt, request_id, "row", purpose, rank, position, state, label, '
    "decided_by, decided_ms) VALUES "
    "(1, 7, 1, 'r1', 0, 'repair', 0, 0, 'labelled', 1, 'ann', 10), "
    "(2, 7, 1, 'r2', 0, 'repair', 1, 1, 'skipped', NULL, 'fieldrepair', 11), "
    "(3, 7, 2, 'r3', 0, 'repair', 0, 0, 'skipped', NULL, 'bob', 12), "
    "(4, 7, 2, 'r4', 0, 'acceptance', 0, 1, 'open', NULL, NULL, NULL)",
)


def test_a_book_of_revision_0001_keeps_its_data(case_book_url: str) -> None:
    _alembic(case_book_url, lambda config: command.upgrade(config, "0001"))
    _write(case_book_url, *_OLD_BOOK)
    with pytest.raises(SchemaMismatch, match=r"has schema '0001', this fieldrepair needs '0005'"):
        open_case_book(case_book_url, migrate=False)
    with open_case_book(case_book_url) as book:
        window, event = book.windows("digits", "3")[0], book.event(4)
        assert (window.statistic, window.scores, window.effect_size, window.labelled_count) == (0.5, None, None, None)
        assert (event.summary, event.explanation, book.attachments(7), book.audit_trail()) == ("differs", None, [], [])
        tasks = book.tasks(7)
        assert [(task.state, task.label, task.decided_by, task.answers_wanted, task.reason) for task in tasks] == [
            ("labelled", 1, "ann", 1, None),
            ("skipped", None, "fieldrepair", 1, "retry"),
            ("skipped", None, "bob", 1, "skip"),
            ("open", None, None, 1, None),
        ]
        assert [(a.task_id, a.labeller, a.verdict, a.label, a.at_ms) for a in book.answers(7)] == [
            (1, "ann", "label", 1, 10),
            (3, "bob", "skip", None, 12),
        ]
        # And it works on: Bob takes his skip back, answers, and the ids go on where they were.
        assert book.undo(3, "bob").state == "open"
        assert book.submit(3, "dog", "bob").label == 1
        task = book.next_task(7, "ann")
        assert task is not None
        assert task.id == 4


_APPROVED = (
    '{"stage": "done", "approval": {"by": "ann", "at_ms": 20, "version": "4", "moved_ms": 21, "problem": ""}}',
    '{"approval": {"by": "bob", "at_ms": 30, "version": "5", "problem": "the registry is away"}}',
    '{"epoch": 2}',
)


def test_a_book_of_revision_0002_keeps_its_approvals(case_book_url: str) -> None:
    """They were part of the case's progress; the way back puts them there again."""
    _alembic(case_book_url, lambda config: command.upgrade(config, "0002"))
    _write(
        case_book_url,
        *(
            "INSERT INTO fieldrepair_cases (id, model_name, model_version, state, reason, note, attempt, cursor_start, "
            f"class_names, input_spec, progress, created_ms, updated_ms) VALUES ({number}, 'digits', '{number}', "
            f"'accepted', 'better', 'waiting', 1, '{{}}', '[\"cat\"]', '{{}}', '{progress}', 1, 2)".replace(":", "\\:")
            for number, progress in enumerate(_APPROVED, 1)
        ),
        *(
            "INSERT INTO fieldrepair_drift_events (id, case_id, opened_case, model_name, model_version, detector, "
            "statistic, threshold, window_index, cursor_start, field_inputs_until_alert, summary, opened_ms) VALUES "
            f"({number}, {number}, true, 'digits', '{number}', 'mmd', 0.5, 0.1, 0, '{{}}', 100, 'differs', 3)"
            for number in range(1, 4)
        ),
    )

    def approvals() -> list[tuple[Approval | None, dict[str, object]]]:
        with open_case_book(case_book_url) as book:
            return [(case.approval, dict(case.progress)) for case in reversed(book.cases())]

    moved: list[tuple[Approval | None, dict[str, object]]] = [
        (Approval("ann", 20, "4", moved_ms=21), {"stage": "done"}),
        (Approval("bob", 30, "5", problem="the registry is away"), {}),
        (None, {"epoch": 2}),
    ]
    assert approvals() == moved
    _alembic(case_book_url, lambda config: command.downgrade(config, "0002"))
    engine = _engine(case_book_url)
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT progress FROM fieldrepair_cases ORDER BY id")).scalars().all()
    engine.dispose()
    assert [("ann" in str(row), "bob" in str(row)) for row in rows] == [(True, False), (False, True), (False, False)]
    assert approvals() == moved
