"""What the monitor's metrics say of the cases: whom each waits for, and since when."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry

from fieldrepair_monitoring.case_metrics import exported_cases
from fieldrepair_service.case_book import CaseBook, NewDriftEvent, NewTask, WindowRecord, open_case_book

if TYPE_CHECKING:
    from collections.abc import Callable


class Clock:
    def __init__(self) -> None:
        self.seconds = 1_700_000_000

    def milliseconds(self) -> int:
        return self.seconds * 1000


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def book(tmp_path: Path, clock: Clock) -> Iterator[CaseBook]:
    with open_case_book(f"sqlite:///{tmp_path}/book.db", clock=clock.milliseconds) as opened:
        yield opened


@pytest.fixture
def registry(book: CaseBook) -> Iterator[CollectorRegistry]:
    made = CollectorRegistry()
    with exported_cases(made, book):
        yield made


@pytest.fixture
def waiting(registry: CollectorRegistry) -> Callable[[], dict[str, float]]:
    """Since when the case of digits 1 has waited, by whom it waits for."""

    def read() -> dict[str, float]:
        return {
            sample.labels["waits_for"]: sample.value
            for family in registry.collect()
            for sample in family.samples
            if sample.name == "fieldrepair_case_waiting_since_timestamp_seconds"
        }

    return read


def open_case(book: CaseBook) -> int:
    window = WindowRecord(0, 0, 1, 100, "mmd", 0.5, 0.1, 0.001, drifted=True)
    event = NewDriftEvent(
        model_name="digits",
        model_version="1",
        detector="mmd",
        statistic=0.5,
        p_value=0.001,
        threshold=0.1,
        window_index=0,
        cursor_start={},
        field_inputs_until_alert=100,
        estimated_accuracy=0.6,
        reference_accuracy=0.97,
        summary="it has shifted",
        class_names=("a", "b"),
        input_spec={"kind": "image", "height": 8, "width": 8},
    )
    opened = book.record_windows("digits", "1", {"w": (100, 0)}, [window], event)
    assert opened is not None
    return opened.case_id


def test_a_case_waits_for_one_thing_after_the_other(
    book: CaseBook, registry: CollectorRegistry, waiting: Callable[[], dict[str, float]], clock: Clock
) -> None:
    begun = clock.seconds
    case_id = open_case(book)
    assert waiting() == {"plan": begun}

    clock.seconds += 60
    tasks = [NewTask("r1", 0, "repair"), NewTask("r2", 0, "acceptance")]
    book.plan_case(case_id, tasks, budget=1, acceptance_size=1, pool_cursor={"w": (100, 0)}, note="")
    clock.seconds += 600
    assert waiting() == {"labels": begun + 60}
    task = book.next_task(case_id, "ann")
    assert task is not None
    book.submit(task.id, "a", "ann")
    counted = {
        state: registry.get_sample_value(
            "fieldrepair_case_tasks", {"model_name": "digits", "model_version": "1", "state": state}
        )
        for state in ("open", "labelled", "skipped")
    }
    assert counted == {"open": 1, "labelled": 1, "skipped": 0}

    last = book.next_task(case_id, "ann")
    assert last is not None
    book.submit(last.id, "b", "ann")
    assert list(waiting()) == ["worker"]

    clock.seconds += 60
    book.claim(case_id, "worker-1", 30)
    book.transition(case_id, "training")
    assert waiting() == {"worker": clock.seconds}
    names = {"model_name": "digits", "model_version": "1"}
    lease = registry.get_sample_value("fieldrepair_case_lease_expires_timestamp_seconds", names)
    assert lease == clock.seconds + 30
    clock.seconds += 60
    book.update_progress(case_id, {"epoch": 3})
    assert waiting() == {"worker": clock.seconds}, "a sign of life"

    clock.seconds += 60
    accepted = clock.seconds
    book.update_case(case_id, candidate_version="2")
    book.transition(case_id, "accepted", "better on 40 of 50")
    clock.seconds += 60
    assert waiting() == {"approval": accepted}
    assert registry.get_sample_value("fieldrepair_cases", {"state": "accepted"}) == 1
    book.transition(case_id, "promoted")
    assert waiting() == {}
    assert registry.get_sample_value("fieldrepair_cases", {"state": "promoted"}) == 1
    assert registry.get_sample_value("fieldrepair_cases", {"state": "accepted"}) == 0


def test_an_accepted_case_puts_one_message_into_the_outbox(book: CaseBook) -> None:
    case_id = open_case(book)
    tasks = [NewTask("r1", 0, "repair")]
    book.plan_case(case_id, tasks, budget=1, acceptance_size=0, pool_cursor={"w": (100, 0)}, note="")
    task = book.next_task(case_id, "ann")
    assert task is not None
    book.submit(task.id, "a", "ann")
    book.transition(case_id, "training")
    book.update_case(case_id, candidate_version="2")
    book.transition(case_id, "accepted", "better on 40 of 50")
    drift, candidate = book.pending_notifications()
    assert (drift.kind, candidate.kind, candidate.case_id) == ("drift_event_opened", "candidate_waiting", case_id)
    assert candidate.payload["candidate_version"] == "2"
    assert candidate.payload["summary"] == "version 2 waits for approval: better on 40 of 50"


def test_a_book_that_does_not_answer_shows_and_the_other_metrics_stay(tmp_path: Path) -> None:
    with open_case_book(f"sqlite:///{tmp_path}/gone.db") as gone:
        registry = CollectorRegistry()
        with exported_cases(registry, gone):
            assert registry.get_sample_value("fieldrepair_case_book_up") == 1
            with closing(sqlite3.connect(tmp_path / "gone.db")) as other:
                other.execute("ALTER TABLE fieldrepair_cases RENAME TO elsewhere")
            assert registry.get_sample_value("fieldrepair_case_book_up") == 0
            assert registry.get_sample_value("fieldrepair_cases", {"state": "accepted"}) is None
        assert list(registry.collect()) == []
