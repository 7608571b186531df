"""Backup and restore: the commands of the page run as they stand while the system works; what they restore goes on."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from fieldrepair_service.case_book import Case, CaseBook, CaseState, WindowRecord, open_case_book
from fieldrepair_service.field_log import FieldLog

if TYPE_CHECKING:
    from tests.faults.conftest import Load, SidecarProcess

PAGE = Path(__file__).parents[2] / "docs" / "backup.md"
_BLOCK = re.compile(r"^```sh(?: (\w+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(kind: str, *, after: str = "", before: str = "\n## Tested") -> str:
    """The page's commands of a kind (``postgresql``, or none) between two of its words."""
    text = PAGE.read_text()
    part = text[text.index(after) : text.index(before)]
    found = [content for which, content in _BLOCK.findall(part) if which == kind]
    assert found, (kind, after)
    return "\n".join(["set -o errexit -o pipefail -o nounset", *found])


def run(script: str, folder: Path, **variables: str) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **variables}
    done = subprocess.run(
        ["/bin/bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_sqlite_and_a_folder_are_copied_while_a_sidecar_writes_and_go_on(
    sidecar: Callable[..., SidecarProcess],
    load: Callable[[SidecarProcess], Load],
    wait_until: Callable[[Callable[[], bool]], None],
    open_case: Callable[..., Case],
    plan: Callable[..., Case],
    make_window: Callable[..., WindowRecord],
    tmp_path: Path,
) -> None:
    state = tmp_path / "fieldrepair-state"
    stores = {"field_log": state / "field_log", "case_book": f"sqlite:///{state / 'case_book.db'}"}
    # Compacting and committing all the while, so that the copy meets files that come and go.
    running = sidecar(state, **stores, control_auth="token", flush_seconds=0.05, compact_every=3)
    with open_case_book(str(stores["case_book"])) as book:
        case = open_case(book, model_name="fashion", model_version="1")
        plan(book, case.id)
        task = book.next_task(case.id, "ann")
        assert task is not None
        book.submit(task.id, 1, "ann")
        with load(running) as clients:
            wait_until(lambda: len(rows_in(FieldLog.open(state / "field_log"))) >= 300)
            before = rows_in(FieldLog.open(state / "field_log"))
            being_written = state / "field_log" / "_delta_log" / f"{10**6:020}.json#1"
            being_written.touch()
            run(commands("", after="## Back up", before="\n## Restore"), tmp_path)
            being_written.unlink()
            clients.wait_for(len(clients.answered) + 100)
        # What happens after the backup is lost, and only that.
        later = book.next_task(case.id, "bob")
        assert later is not None
        book.submit(later.id, 2, "bob")
    assert running.stop() == 0
    everything = rows_in(FieldLog.open(state / "field_log"))
    shutil.rmtree(state)

    (backup,) = tmp_path.glob("backup-*")
    assert not list(backup.rglob("*#*")), "files that are being written may vanish while they are copied"
    told = run(f"STATE=fieldrepair-state BACKUP={backup.name}\n" + commands("", after="## Restore"), tmp_path)
    restored = tmp_path / "restored-state"
    log = FieldLog.open(restored / "field_log")
    copied = rows_in(log)
    assert f"rows          {len(copied)}\n" in told
    assert before <= copied <= everything
    assert (restored / "control-token").stat().st_mode & 0o777 == 0o600

    with open_case_book(f"sqlite:///{restored / 'case_book.db'}") as book:
        goes_on(book, case.id, make_window)
    url = {"field_log": restored / "field_log", "case_book": f"sqlite:///{restored / 'case_book.db'}"}
    again = sidecar(restored, **url, control_auth="token")
    assert again.ask([[7.0, 0.5]]).status_code == 200
    assert again.stop() == 0
    assert len(rows_in(FieldLog.open(restored / "field_log"))) == len(copied) + 1


def rows_in(log: FieldLog) -> set[tuple[str, int]]:
    keys = log.read_after({}, limit=1_000_000).keys
    assert len(set(keys)) == len(keys)
    return set(keys)


def goes_on(book: CaseBook, case_id: int, make_window: Callable[..., WindowRecord]) -> None:
    """The label from before the backup is there, the one after it is not; questions and windows go on."""
    case = book.case(case_id)
    assert case.state is CaseState.ANNOTATING
    assert [task.decided_by for task in book.tasks(case_id) if task.label is not None] == ["ann"]
    while (task := book.next_task(case_id, "bob")) is not None:
        book.submit(task.id, 2, "bob")
    assert book.task_counts(case_id).ready
    checkpoint = book.checkpoint(case.model_name, case.model_version)
    assert checkpoint is not None
    book.record_windows(
        case.model_name, case.model_version, {"w1": (30, 0)}, [make_window(checkpoint.next_window_index)]
    )


def test_postgresql_is_dumped_and_restored_into_an_empty_database(
    postgresql_server: str,
    open_case: Callable[..., Case],
    plan: Callable[..., Case],
    make_window: Callable[..., WindowRecord],
    tmp_path: Path,
) -> None:
    for program in ("pg_dump", "pg_restore"):
        if shutil.which(program) is None:
            pytest.skip(f"needs PostgreSQL's program {program}; install the package postgresql-client")
    original, empty = (f"backup_{name}_{next(_numbers)}" for name in ("original", "empty"))
    server = postgresql_server.rpartition("/")[0]
    with psycopg.connect(postgresql_server, autocommit=True) as connection:
        for name in (original, empty):
            connection.execute(f"CREATE DATABASE {name}".encode())
    with psycopg.connect(f"{server}/{original}") as connection:
        connection.execute("CREATE TABLE of_somebody_else (id int)")
    with open_case_book(f"{server}/{original}") as book:
        case = open_case(book)
        plan(book, case.id)
        task = book.next_task(case.id, "ann")
        assert task is not None
        book.submit(task.id, 1, "ann")
        script = f"BACKUP={tmp_path}\n" + commands("postgresql")
        run(script, tmp_path, CASE_BOOK_URL=f"{server}/{original}", RESTORED_URL=f"{server}/{empty}")
    with open_case_book(f"{server}/{empty}") as book:
        goes_on(book, case.id, make_window)
    with psycopg.connect(f"{server}/{empty}") as connection:
        assert connection.execute("SELECT to_regclass('of_somebody_else')").fetchone() == (None,)


_numbers = itertools.count()
