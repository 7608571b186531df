"""Labelling: an order that gives nothing away, no task with two people, no label lost."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from fieldrepair_service.case_book import LEASE_S, Case, CaseBook, NewTask, Purpose, Task, TaskState, open_case_book
from fieldrepair_service.errors import (
    AlreadyLabelled,
    CaseAlreadyPlanned,
    CaseNotAnnotating,
    InputError,
    NotInCaseBook,
    NotYourTask,
    UnknownClass,
)

OpenCase = Callable[..., Case]
Plan = Callable[..., Case]


@pytest.fixture
def case(book: CaseBook, open_case: OpenCase, plan: Plan) -> Case:
    """A planned case: 4 repair tasks, 3 acceptance tasks, classes cat, dog, 7."""
    return plan(book, open_case(book).id)


def _next(book: CaseBook, case: Case, labeller: str) -> Task:
    task = book.next_task(case.id, labeller)
    assert task is not None
    return task


# -- planning ----------------------------------------------------------------------------------------------------


def test_a_plan_is_stored_whole(book: CaseBook, case: Case, clock: SimpleNamespace) -> None:
    assert (case.budget, case.acceptance_size, case.pool_cursor) == (4, 3, {"w1": (20, 0)})
    assert (case.note, case.planned_ms) == ("waiting for labels", clock.ms)
    repair = sorted(book.tasks(case.id, "repair"), key=lambda task: task.rank)
    assert [(t.request_id, t.row, t.rank, t.region) for t in repair] == [(f"r{i}", i, i, i) for i in range(4)]
    acceptance = sorted(book.tasks(case.id, Purpose.ACCEPTANCE), key=lambda task: task.rank)
    assert [(t.request_id, t.row, t.rank, t.region) for t in acceptance] == [(f"a{i}", i, i, None) for i in range(3)]
    counts = book.task_counts(case.id)
    assert (counts.open, counts.total, counts.repair.open, counts.acceptance.open) == (7, 7, 4, 3)
    assert not counts.ready


def test_a_plan_is_made_once(book: CaseBook, case: Case, plan: Plan) -> None:
    before = book.tasks(case.id)
    with pytest.raises(CaseAlreadyPlanned, match=f"case {case.id} were planned before"):
        plan(book, case.id, prefix="other-")
    assert book.tasks(case.id) == before
    assert book.case(case.id) == case


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([], "at least one task, got none"),
        ([NewTask("r", 1, "repair"), NewTask("r", 1, "acceptance")], r"planned twice: \[\('r', 1\)\] \(1 in all\)"),
    ],
)
def test_plans_that_cannot_be_are_refused(
    book: CaseBook, open_case: OpenCase, tasks: list[NewTask], message: str
) -> None:
    case = open_case(book)
    with pytest.raises(InputError, match=message):
        book.plan_case(case.id, tasks, 1, 1, {})
    assert book.case(case.id) == case


def test_only_an_annotating_case_is_planned(book: CaseBook, open_case: OpenCase, plan: Plan) -> None:
    case = open_case(book)
    book.transition(case.id, "dismissed")
    with pytest.raises(CaseNotAnnotating, match=f"case {case.id} is dismissed"):
        plan(book, case.id)


def test_the_order_does_not_tell_repair_from_acceptance(book: CaseBook, open_case: OpenCase, plan: Plan) -> None:
    case = plan(book, open_case(book).id, repair=60, acceptance=60)
    tasks = book.tasks(case.id)
    assert [task.id for task in tasks] == sorted(task.id for task in tasks)  # ids follow the mixed order as well
    first_half = Counter(task.purpose for task in tasks[:60])
    assert min(first_half.values()) >= 15  # under a fair shuffle this fails once in 10 million
    ranks = [task.rank for task in tasks if task.purpose == Purpose.REPAIR]
    assert ranks != sorted(ranks)
    handed_out = [_next(book, case, f"labeller {i}") for i in range(120)]
    assert [task.id for task in handed_out] == [task.id for task in tasks]


# -- handing out -------------------------------------------------------------------------------------------------


def test_who_asks_again_gets_the_same_task(book: CaseBook, case: Case, clock: SimpleNamespace) -> None:
    first = _next(book, case, "ann")
    clock.ms += 1000
    again = _next(book, case, "ann")
    assert again.id == first.id
    assert again.leased_until_ms == clock.ms + LEASE_S * 1000
    assert book.task(first.id) == again


def test_nobody_else_gets_it_before_the_lease_ends(book: CaseBook, case: Case, clock: SimpleNamespace) -> None:
    anns = _next(book, case, "ann")
    assert _next(book, case, "bob").id != anns.id
    clock.ms += round(LEASE_S * 1000) - 1
    assert _next(book, case, "cyd").id not in (anns.id, _next(book, case, "bob").id)
    clock.ms += 1
    assert _next(book, case, "dan").id == anns.id
    assert _next(book, case, "ann").id != anns.id  # it is Dan's now


def test_a_lease_that_ended_is_renewed_if_nobody_took_the_task(
    book: CaseBook, case: Case, clock: SimpleNamespace
) -> None:
    anns = _next(book, case, "ann")
    clock.ms += 10 * round(LEASE_S * 1000)
    assert _next(book, case, "ann").id == anns.id


def test_none_when_all_are_handed_out_answered_or_not_planned(book: CaseBook, open_case: OpenCase, plan: Plan) -> None:
    case = open_case(book)
    assert book.next_task(case.id, "ann") is None
    plan(book, case.id, repair=1, acceptance=0)
    task = _next(book, case, "ann")
    assert book.next_task(case.id, "bob") is None
    book.submit(task.id, "cat", "ann")
    assert book.next_task(case.id, "ann") is None
    assert book.task_counts(case.id).ready


def test_none_when_the_case_went_on(book: CaseBook, case: Case) -> None:
    book.transition(case.id, "training")
    assert book.next_task(case.id, "ann") is None


@pytest.mark.parametrize("name", ["", "  ", "a\0b", "\ud800"])
def test_a_labeller_needs_a_name(book: CaseBook, case: Case, name: str) -> None:
    task = _next(book, case, "ann")
    calls: list[Callable[[], object]] = [
        lambda: book.next_task(case.id, name),
        lambda: book.submit(task.id, 0, name),
        lambda: book.skip(task.id, name),
        lambda: book.undo(task.id, name),
    ]
    for call in calls:
        with pytest.raises(InputError, match="needs a name"):
            call()


# -- labels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("label", "index"), [("cat", 0), (0, 0), ("7", 2), (2, 2)])
def test_a_label_is_a_class_name_or_an_index(book: CaseBook, case: Case, label: int | str, index: int) -> None:
    task = _next(book, case, "ann")
    labelled = book.submit(task.id, label, "ann")
    assert (labelled.state, labelled.label, labelled.decided_by) == (TaskState.LABELLED, index, "ann")
    assert (labelled.leased_to, labelled.leased_until_ms) == (None, None)
    assert book.task(task.id) == labelled


@pytest.mark.parametrize("label", ["CAT", "", "0", "1", -1, 3, True])
def test_an_unknown_class_is_refused_with_the_known_ones(book: CaseBook, case: Case, label: int | str) -> None:
    task = _next(book, case, "ann")
    with pytest.raises(UnknownClass, match=r"expected one of \['cat', 'dog', '7'\] or an index 0\.\.2"):
        book.submit(task.id, label, "ann")
    assert book.task(task.id) == task


def test_labels_for_the_worker(book: CaseBook, case: Case, clock: SimpleNamespace) -> None:
    for number in range(7):
        clock.ms += 1
        task = _next(book, case, "ann")
        if task.purpose == Purpose.ACCEPTANCE and task.rank == 1:
            book.skip(task.id, "ann")
        else:
            assert book.submit(task.id, number % 3, "ann").decided_ms == clock.ms
    repair, acceptance = book.labels(case.id, "repair"), book.labels(case.id, Purpose.ACCEPTANCE)
    assert [(request_id, row) for request_id, row, _ in repair] == [(f"r{i}", i) for i in range(4)]
    assert [(request_id, row) for request_id, row, _ in acceptance] == [("a0", 0), ("a2", 2)]
    stored = {(task.request_id, task.row): task.label for task in book.tasks(case.id)}
    assert all(stored[request_id, row] == label for request_id, row, label in repair + acceptance)
    counts = book.task_counts(case.id)
    assert (counts.open, counts.labelled, counts.skipped, counts.total, counts.ready) == (0, 6, 1, 7, True)


def test_the_second_label_is_refused_with_the_first(book: CaseBook, case: Case) -> None:
    task = _next(book, case, "ann")
    first = book.submit(task.id, "dog", "ann")
    for label, labeller in (("cat", "bob"), ("dog", "bob"), ("cat", "ann")):
        with pytest.raises(AlreadyLabelled, match=f"task {task.id} already has the label 'dog' from 'ann'") as caught:
            book.submit(task.id, label, labeller)
        assert (caught.value.label, caught.value.class_name, caught.value.labeller) == (1, "dog", "ann")
    with pytest.raises(AlreadyLabelled):
        book.skip(task.id, "bob")
    assert book.task(task.id) == first


def test_the_same_label_again_changes_nothing(book: CaseBook, case: Case, clock: SimpleNamespace) -> None:
    """A client whose answer got lost sends again; also when that label was the last and the case went on."""
    task = _next(book, case, "ann")
    first = book.submit(task.id, "dog", "ann")
    clock.ms += 1000
    assert book.submit(task.id, 1, "ann") == first
    book.transition(case.id, "training")
    assert book.submit(task.id, "dog", "ann") == first


def test_a_late_label_counts_if_it_is_the_first(book: CaseBook, case: Case, clock: SimpleNamespace) -> None:
    task = _next(book, case, "ann")
    clock.ms += round(LEASE_S * 1000)
    assert _next(book, case, "bob").id == task.id
    book.submit(task.id, "dog", "ann")
    with pytest.raises(AlreadyLabelled):
        book.submit(task.id, "cat", "bob")
    assert _next(book, case, "bob").id != task.id


def test_a_skip_closes_a_task_and_gives_way_to_a_label(book: CaseBook, case: Case) -> None:
    task = _next(book, case, "ann")
    skipped = book.skip(task.id, "ann")
    assert (skipped.state, skipped.label, skipped.decided_by) == (TaskState.SKIPPED, None, "ann")
    assert book.skip(task.id, "bob") == skipped
    assert _next(book, case, "ann").id != task.id
    assert book.submit(task.id, "cat", "bob").state == TaskState.LABELLED


def test_undo_gives_the_task_back_to_its_labeller(book: CaseBook, case: Case) -> None:
    task = _next(book, case, "ann")
    for decide in (lambda: book.submit(task.id, "cat", "ann"), lambda: book.skip(task.id, "ann")):
        decide()
        with pytest.raises(NotYourTask, match=f"task {task.id} was (labelled|skipped) by 'ann'; 'bob' cannot undo it"):
            book.undo(task.id, "bob")
        undone = book.undo(task.id, "ann")
        assert (undone.state, undone.label, undone.decided_by, undone.leased_to) == (TaskState.OPEN, None, None, "ann")
        assert _next(book, case, "ann").id == task.id
        assert _next(book, case, "bob").id != task.id
    with pytest.raises(NotYourTask, match="has no answer to take back"):
        book.undo(task.id, "ann")


def test_nothing_is_decided_after_the_case_went_on(book: CaseBook, case: Case) -> None:
    task, other = _next(book, case, "ann"), _next(book, case, "bob")
    book.submit(task.id, "cat", "ann")
    book.transition(case.id, "training")
    calls: list[Callable[[], object]] = [
        lambda: book.submit(other.id, "cat", "bob"),
        lambda: book.skip(other.id, "bob"),
        lambda: book.undo(task.id, "ann"),
    ]
    for call in calls:
        with pytest.raises(CaseNotAnnotating, match=f"case {case.id} is training"):
            call()


def test_tasks_of_an_earlier_attempt_are_closed(book: CaseBook, case: Case) -> None:
    task = _next(book, case, "ann")
    book.transition(case.id, "rejected")
    book.transition(case.id, "annotating")
    with pytest.raises(CaseNotAnnotating, match=f"task {task.id} belongs to attempt 1 .* which is at attempt 2"):
        book.submit(task.id, "cat", "ann")


def test_unknown_tasks_are_named(book: CaseBook) -> None:
    calls: list[Callable[[], object]] = [
        lambda: book.task(9),
        lambda: book.submit(9, 0, "ann"),
        lambda: book.skip(9, "ann"),
        lambda: book.undo(9, "ann"),
    ]
    for call in calls:
        with pytest.raises(NotInCaseBook, match="there is no task 9"):
            call()


# -- many labellers at once --------------------------------------------------------------------------------------


def test_threads_never_share_a_task_nor_lose_a_label(case_book_url: str, open_case: OpenCase, plan: Plan) -> None:
    with open_case_book(case_book_url) as book:
        case = plan(book, open_case(book).id, repair=40, acceptance=40)

        def label_all(labeller: str) -> dict[int, int]:
            answers: dict[int, int] = {}
            while (task := book.next_task(case.id, labeller)) is not None:
                answers[task.id] = book.submit(task.id, task.id % 3, labeller).label or 0
            return answers

        names = [f"labeller {i}" for i in range(8)]
        with ThreadPoolExecutor(len(names)) as pool:
            answers = dict(zip(names, pool.map(label_all, names), strict=True))
        handed_out = [task_id for answer in answers.values() for task_id in answer]
        assert len(handed_out) == len(set(handed_out)) == 80
        for task in book.tasks(case.id):
            assert task.state == TaskState.LABELLED
            assert answers[task.decided_by or ""][task.id] == task.label == task.id % 3
        assert len(book.labels(case.id, "repair")) == len(book.labels(case.id, "acceptance")) == 40


def test_of_many_labels_for_one_task_exactly_one_is_stored(case_book_url: str, open_case: OpenCase, plan: Plan) -> None:
    with open_case_book(case_book_url) as book:
        case = plan(book, open_case(book).id, repair=5, acceptance=0)
        for task in book.tasks(case.id):

            def label(number: int, task_id: int = task.id) -> bool:
                try:
                    book.submit(task_id, number % 3, f"labeller {number}")
                except AlreadyLabelled:
                    return False
                return True

            with ThreadPoolExecutor(8) as pool:
                assert sum(pool.map(label, range(8))) == 1


_LABEL_IN_PROCESSES = """
import json, os, sys
from fieldrepair_service.case_book import open_case_book

def label_all(name):
    mine = []
    with open_case_book(sys.argv[1]) as book:
        os.read(wait, 1)
        while (task := book.next_task(int(sys.argv[2]), name)) is not None:
            mine.append(task.id)
            book.submit(task.id, "dog", name)
    return mine

go, wait = os.pipe()[::-1]
results = []
for number in range(4):
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.close(go)
        try:
            answer = label_all(f"process {number}")
        except BaseException as error:
            answer = repr(error)
        os.write(writing, json.dumps(answer).encode())
        os._exit(0)
    os.close(writing)
    results.append(reading)
os.close(go)
print(json.dumps([json.load(open(reading)) for reading in results]))
"""


def test_processes_never_share_a_task_nor_lose_a_label(case_book_url: str, open_case: OpenCase, plan: Plan) -> None:
    with open_case_book(case_book_url) as book:
        case = plan(book, open_case(book).id, repair=30, acceptance=30)
        done = subprocess.run(
            [sys.executable, "-c", _LABEL_IN_PROCESSES, case_book_url, str(case.id)],
            capture_output=True,
            text=True,
            timeout=150,
        )
        assert (done.returncode, done.stderr) == (0, "")
        handed_out: list[list[int]] = json.loads(done.stdout)
        flat = [task_id for tasks in handed_out for task_id in tasks]
        assert len(flat) == len(set(flat)) == 60
        assert {task.id: task.decided_by for task in book.tasks(case.id)} == {
            task_id: f"process {number}" for number, tasks in enumerate(handed_out) for task_id in tasks
        }


def test_planning_twice_at_once_stores_one_plan(case_book_url: str, open_case: OpenCase, plan: Plan) -> None:
    with open_case_book(case_book_url) as book:
        case = open_case(book)

        def try_to_plan(number: int) -> bool:
            try:
                plan(book, case.id, repair=5, acceptance=5, prefix=f"{number}-")
            except CaseAlreadyPlanned:
                return False
            return True

        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(try_to_plan, range(4))) == 1
        assert len({task.request_id.split("-")[0] for task in book.tasks(case.id)}) == 1
        assert len(book.tasks(case.id)) == 10
