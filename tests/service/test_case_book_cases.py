"""Cases: the state machine, its history, leases of workers, and retries."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from fieldrepair_service.case_book import (
    LEGAL,
    Case,
    CaseBook,
    CaseState,
    NewDriftEvent,
    NewTask,
    TaskState,
    WindowRecord,
)
from fieldrepair_service.errors import CaseAlreadyOpen, IllegalTransition, InputError, NotInCaseBook

OpenCase = Callable[..., Case]
A, T, C, R, P, D = CaseState
"""Annotating, training, accepted, rejected, promoted, dismissed."""

# Written out here once more, so that a change of the table is a decision and not a slip.
EXPECTED_LEGAL = {(A, T), (A, R), (A, D), (T, C), (T, R), (T, A), (T, D), (C, P), (C, D), (R, A), (R, D)}
PATH_TO = {A: (), T: (T,), C: (T, C), R: (R,), P: (T, C, P), D: (D,)}


@pytest.mark.parametrize(("current", "to"), list(itertools.product(CaseState, CaseState)))
def test_every_pair_of_states_is_legal_or_refused(
    sqlite_book: CaseBook, open_case: OpenCase, current: CaseState, to: CaseState
) -> None:
    case = open_case(sqlite_book)
    for state in PATH_TO[current]:
        sqlite_book.transition(case.id, state)
    before = sqlite_book.history(case.id)
    if (current, to) in EXPECTED_LEGAL:
        assert sqlite_book.transition(case.id, to, "because").state == to
        assert len(sqlite_book.history(case.id)) == len(before) + 1
    else:
        with pytest.raises(IllegalTransition) as caught:
            sqlite_book.transition(case.id, to)
        assert str(current) in str(caught.value)
        assert str(to) in str(caught.value)
        assert set(caught.value.legal) == {legal for start, legal in EXPECTED_LEGAL if start == current}
        assert sqlite_book.case(case.id).state == current
        assert sqlite_book.history(case.id) == before


def test_the_table_is_what_was_decided() -> None:
    assert {(start, to) for start, legal in LEGAL.items() for to in legal} == EXPECTED_LEGAL


def test_states_are_their_own_text() -> None:
    assert f"{CaseState.ANNOTATING}" == str(CaseState.ANNOTATING) == CaseState.ANNOTATING == "annotating"


def test_history_says_when_from_where_why_and_who(book: CaseBook, open_case: OpenCase, clock: SimpleNamespace) -> None:
    case = open_case(book)
    clock.ms += 5000
    moved = book.transition(case.id, "training", "all labels are in", actor="worker", note="training")
    assert (moved.state, moved.reason, moved.note) == (CaseState.TRAINING, "all labels are in", "training")
    assert (moved.created_ms, moved.updated_ms) == (clock.ms - 5000, clock.ms)
    book.transition(case.id, CaseState.DISMISSED, "model version 3 was deleted", actor="worker")
    opening, training, dismissed = book.history(case.id)
    assert opening.to_state == A
    assert (training.at_ms, training.from_state, training.to_state) == (clock.ms, A, T)
    assert (training.reason, training.actor) == ("all labels are in", "worker")
    assert (dismissed.from_state, dismissed.to_state, dismissed.reason) == (T, D, "model version 3 was deleted")
    assert book.case(case.id).note == ""


@pytest.mark.parametrize("state", [A, T, C, R])
def test_a_case_can_be_dismissed_from_every_state_that_is_not_final(
    sqlite_book: CaseBook, open_case: OpenCase, state: CaseState
) -> None:
    """So a worker that finds the model version gone can always say so."""
    case = open_case(sqlite_book)
    for step in PATH_TO[state]:
        sqlite_book.transition(case.id, step)
    assert sqlite_book.transition(case.id, D, "the model version was deleted").state == D


def test_cases_newest_first_and_by_state(book: CaseBook, open_case: OpenCase) -> None:
    first, second, third = (open_case(book) for _ in range(3))
    book.transition(second.id, T)
    assert [case.id for case in book.cases()] == [third.id, second.id, first.id]
    assert [case.id for case in book.cases(A)] == [third.id, first.id]
    assert [case.id for case in book.cases("training")] == [second.id]
    assert [case.id for case in book.cases(limit=1)] == [third.id]
    assert book.cases("promoted") == []


def test_unknown_cases_are_named(book: CaseBook) -> None:
    calls: list[Callable[[], object]] = [
        lambda: book.case(7),
        lambda: book.history(7),
        lambda: book.transition(7, T),
        lambda: book.update_case(7, note="x"),
        lambda: book.update_progress(7, {}),
        lambda: book.claim(7, "w", 1),
        lambda: book.release(7, "w"),
        lambda: book.plan_case(7, [NewTask("r", 0, "repair")], 1, 0, {}),
        lambda: book.tasks(7),
        lambda: book.labels(7, "repair"),
        lambda: book.task_counts(7),
        lambda: book.next_task(7, "ann"),
    ]
    for call in calls:
        with pytest.raises(NotInCaseBook, match="there is no case 7"):
            call()


def test_fields_are_updated(book: CaseBook, open_case: OpenCase, clock: SimpleNamespace) -> None:
    case = open_case(book)
    clock.ms += 1
    verdict = {"accepted": True, "reasons": ["better on the field"], "p": 0.01}
    updated = book.update_case(
        case.id, note="waiting for approval", run_id="abc", candidate_version="4", acceptance=verdict, budget=40
    )
    assert updated == book.case(case.id)
    assert (updated.note, updated.run_id, updated.candidate_version) == ("waiting for approval", "abc", "4")
    assert (updated.acceptance, updated.budget, updated.updated_ms) == (verdict, 40, clock.ms)
    assert book.update_case(case.id, acceptance=None).acceptance is None


def test_fields_that_are_not_to_be_set_are_refused(book: CaseBook, open_case: OpenCase) -> None:
    case = open_case(book)
    with pytest.raises(InputError, match=r"cannot set \['state'\] of a case; expected some of \['acceptance', "):
        book.update_case(case.id, state="promoted")  # type: ignore[call-arg]


def test_progress_takes_what_training_gives(book: CaseBook, open_case: OpenCase) -> None:
    case = open_case(book)
    book.update_progress(case.id, {"epoch": np.int64(3), "loss": np.float32(0.5), "broken": float("nan")})
    assert book.case(case.id).progress == {"epoch": 3, "loss": 0.5, "broken": None}
    with pytest.raises(InputError, match="cannot store this as JSON: Type is not JSON serializable: set"):
        book.update_progress(case.id, {"classes": {1, 2}})
    assert book.case(case.id).progress["epoch"] == 3


def test_a_case_is_leased_to_one_worker(book: CaseBook, open_case: OpenCase, clock: SimpleNamespace) -> None:
    case = open_case(book)
    assert book.claim(case.id, "worker-1", 60)
    assert book.claim(case.id, "worker-1", 60)  # renews
    assert not book.claim(case.id, "worker-2", 60)
    assert book.case(case.id).claimed_by == "worker-1"
    clock.ms += 59_999
    assert not book.claim(case.id, "worker-2", 60)
    clock.ms += 1
    assert book.claim(case.id, "worker-2", 60)
    assert not book.claim(case.id, "worker-1", 60)
    book.release(case.id, "worker-1")  # not theirs any more
    assert not book.claim(case.id, "worker-1", 60)
    book.release(case.id, "worker-2")
    assert book.case(case.id).claimed_by is None
    assert book.claim(case.id, "worker-1", 60)


def test_a_retry_starts_a_new_attempt_and_keeps_the_labels(
    book: CaseBook, open_case: OpenCase, plan: Callable[..., Case]
) -> None:
    case = open_case(book)
    plan(book, case.id, repair=2, acceptance=1)
    task = book.next_task(case.id, "ann")
    assert task is not None
    book.submit(task.id, "cat", "ann")
    book.update_case(case.id, run_id="abc", candidate_version="4", acceptance={"accepted": False})
    book.update_progress(case.id, {"epoch": 3})
    book.transition(case.id, R, "not better")
    retried = book.transition(case.id, A, "more labels", actor="ann")
    assert (retried.attempt, retried.planned_ms, retried.budget, retried.pool_cursor) == (2, None, None, None)
    assert (retried.run_id, retried.candidate_version, retried.acceptance, retried.progress) == (None, None, None, {})
    assert not book.task_counts(case.id).ready

    plan(book, case.id, repair=2, acceptance=1, prefix="second-")
    assert book.task_counts(case.id).open == 3
    assert [t.state for t in book.tasks(case.id, attempt=1) if t.id != task.id] == [TaskState.SKIPPED] * 2
    assert book.labels(case.id, task.purpose) == [(task.request_id, task.row, 0)]
    assert book.labels(case.id, task.purpose, attempt=2) == []
    book.transition(case.id, R)
    book.transition(case.id, A)
    with pytest.raises(InputError, match="planned twice"):
        plan(book, case.id, prefix="second-")


def test_a_retry_waits_for_the_case_at_work(
    book: CaseBook,
    open_case: OpenCase,
    make_window: Callable[..., WindowRecord],
    make_event: Callable[..., NewDriftEvent],
) -> None:
    first = open_case(book, model_name="digits")
    book.transition(first.id, R, "not better")
    event = book.open_event("digits", "3")
    assert event is not None
    book.record_windows("digits", "3", {"w1": (30, 0)}, [], end_event_id=event.id)
    again = book.record_windows("digits", "3", {"w1": (40, 0)}, [make_window(1)], make_event())
    assert again is not None
    second = again.case_id
    with pytest.raises(CaseAlreadyOpen, match=f"case {first.id} cannot be retried: case {second} is at work"):
        book.transition(first.id, A)
    book.transition(second, D, "the first one is tried again")
    assert book.transition(first.id, A).state == A
