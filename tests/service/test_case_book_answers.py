"""Several answers to one task: who is asked, when they decide, and how well the labellers agree."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fieldrepair_service.case_book import Case, CaseBook, NewTask, Task, TaskState, Verdict
from fieldrepair_service.errors import AlreadyLabelled, CaseNotAnnotating, InputError, NotYourTask

OpenCase = Callable[..., Case]


def _case(book: CaseBook, open_case: OpenCase, *answers_wanted: int) -> tuple[Case, list[Task]]:
    """A case with one repair task for each number of answers wanted; the tasks in that order."""
    case = open_case(book)
    tasks = [NewTask(f"r{i}", 0, "repair", rank=i, answers_wanted=number) for i, number in enumerate(answers_wanted)]
    planned = book.plan_case(case.id, tasks, len(tasks), 0, {})
    return planned, sorted(book.tasks(case.id), key=lambda task: task.rank)


def test_two_who_agree_decide(book: CaseBook, open_case: OpenCase) -> None:
    case, [task] = _case(book, open_case, 2)
    once = book.submit(task.id, "dog", "ann")
    assert (once.state, once.label, once.decided_by, once.leased_to) == (TaskState.OPEN, None, None, None)
    assert book.next_task(case.id, "ann") is None  # she has answered it
    assert book.submit(task.id, "dog", "ann") == once  # a repeated request changes nothing
    handed = book.next_task(case.id, "bob")
    assert handed is not None
    twice = book.submit(handed.id, 1, "bob")
    assert (twice.state, twice.label, twice.decided_by, twice.answers_wanted) == ("labelled", 1, "ann, bob", 2)
    with pytest.raises(AlreadyLabelled, match="already has the label 'dog' from 'ann, bob'"):
        book.submit(task.id, "cat", "cyd")


def test_one_who_answered_an_undecided_task_cannot_change_it_silently(book: CaseBook, open_case: OpenCase) -> None:
    _, [task] = _case(book, open_case, 2)
    book.submit(task.id, "dog", "ann")
    with pytest.raises(AlreadyLabelled, match="already has the label 'dog' from 'ann'"):
        book.submit(task.id, "cat", "ann")
    with pytest.raises(AlreadyLabelled):
        book.skip(task.id, "ann")


def test_a_disagreement_goes_to_a_third_and_the_majority_decides(book: CaseBook, open_case: OpenCase) -> None:
    case, [task] = _case(book, open_case, 2)
    book.submit(task.id, "dog", "ann")
    disputed = book.submit(task.id, "cat", "bob")
    assert (disputed.state, disputed.answers_wanted) == (TaskState.OPEN, 3)
    assert book.next_task(case.id, "ann") is None
    assert book.next_task(case.id, "bob") is None
    third = book.next_task(case.id, "cyd")
    assert third is not None
    decided = book.submit(third.id, "cat", "cyd")
    assert (decided.state, decided.label, decided.decided_by) == (TaskState.LABELLED, 0, "bob, cyd")
    assert book.task_counts(case.id).ready


def test_without_a_majority_a_task_is_skipped_with_the_reason(book: CaseBook, open_case: OpenCase) -> None:
    case, [task] = _case(book, open_case, 2)
    for label, labeller in (("dog", "ann"), ("cat", "bob"), ("7", "cyd")):
        book.submit(task.id, label, labeller)
    task = book.task(task.id)
    assert (task.state, task.label, task.reason) == (TaskState.SKIPPED, None, "no_majority")
    assert task.decided_by == "ann, bob, cyd"
    assert book.agreement(case.id).undecided == 1
    # A fourth may still say more than "I do not know", but does not outvote three.
    assert book.submit(task.id, "cat", "dan").state == TaskState.SKIPPED


def test_no_label_is_an_answer_like_any_other(book: CaseBook, open_case: OpenCase) -> None:
    _, [both, split] = _case(book, open_case, 2, 2)
    book.skip(both.id, "ann", not_sure=True)
    skipped = book.skip(both.id, "bob")
    assert (skipped.state, skipped.reason, skipped.decided_by) == (TaskState.SKIPPED, "not_sure", "ann, bob")
    book.skip(split.id, "ann")
    assert book.submit(split.id, "cat", "bob").answers_wanted == 3
    assert book.submit(split.id, "cat", "cyd").label == 0


def test_not_sure_is_kept_apart_from_skip(book: CaseBook, open_case: OpenCase) -> None:
    case, [first, second] = _case(book, open_case, 1, 1)
    assert book.skip(first.id, "ann", not_sure=True).reason == "not_sure"
    assert book.skip(second.id, "ann", source="terminal").reason == "skip"
    assert [(answer.verdict, answer.label, answer.source) for answer in book.answers(case.id)] == [
        (Verdict.NOT_SURE, None, "api"),
        (Verdict.SKIP, None, "terminal"),
    ]


def test_undo_takes_back_ones_own_answer_only(book: CaseBook, open_case: OpenCase) -> None:
    case, [task] = _case(book, open_case, 2)
    book.submit(task.id, "dog", "ann")
    with pytest.raises(NotYourTask, match="has no answer to take back; 'bob'"):
        book.undo(task.id, "bob")
    book.submit(task.id, "cat", "bob")
    undone = book.undo(task.id, "bob")  # and with it the disagreement
    assert (undone.state, undone.answers_wanted, undone.leased_to) == (TaskState.OPEN, 2, "bob")
    assert [answer.labeller for answer in book.answers(case.id)] == ["ann"]
    assert book.submit(task.id, "dog", "bob").state == TaskState.LABELLED
    assert book.undo(task.id, "ann").label is None  # the others' answers stay
    assert [answer.labeller for answer in book.answers(case.id)] == ["bob"]
    assert book.last_answer(case.id, "ann") is None


def test_the_last_answer_is_what_undo_takes_back(book: CaseBook, open_case: OpenCase) -> None:
    case, [first, second] = _case(book, open_case, 1, 1)
    book.submit(second.id, "dog", "ann")
    book.skip(first.id, "ann")
    last = book.last_answer(case.id, "ann")
    assert last is not None
    assert last.task_id == first.id
    assert book.last_answer(case.id, "bob") is None


def test_ground_truth_decides_whatever_labellers_say(book: CaseBook, open_case: OpenCase) -> None:
    case, [task] = _case(book, open_case, 2)
    book.submit(task.id, "dog", "ann")
    decided = book.submit(task.id, "cat", "ground truth", source="ground_truth")
    assert (decided.state, decided.label, decided.decided_by) == (TaskState.LABELLED, 0, "ground truth")
    assert book.agreement(case.id).tasks == 0


def test_agreement_of_two_labellers_is_cohens(book: CaseBook, open_case: OpenCase) -> None:
    """Worked by hand: 5 of 10 + 2 of 10 agree; by chance 0.6 * 0.7 + 0.4 * 0.3 = 0.54."""
    case, tasks = _case(book, open_case, *[2] * 10, 1)
    for task, (ann, bob) in zip(tasks, ["cc"] * 5 + ["cd"] + ["dc"] * 2 + ["dd"] * 2, strict=False):
        book.submit(task.id, {"c": "cat", "d": "dog"}[ann], "ann")
        book.submit(task.id, {"c": "cat", "d": "dog"}[bob], "bob")
    figure = book.agreement(case.id)
    assert (figure.tasks, figure.agreed, figure.share, figure.statistic) == (10, 7, 0.7, "Cohen")
    assert figure.kappa == pytest.approx((0.7 - 0.54) / (1 - 0.54))
    assert (figure.waiting, figure.third, figure.undecided) == (3, 3, 0)


def test_agreement_of_varying_pairs_is_fleiss(book: CaseBook, open_case: OpenCase) -> None:
    """Worked by hand: 3 of 4 agree; cat 5/8, dog 3/8, so by chance 34/64."""
    case, tasks = _case(book, open_case, 2, 2, 2, 2)
    pairs = [("ann", "cat", "bob", "cat"), ("bob", "cat", "cyd", "cat"), ("cyd", "dog", "ann", "dog")]
    for task, (one, first, other, second) in zip(tasks, [*pairs, ("ann", "cat", "cyd", "dog")], strict=True):
        book.submit(task.id, first, one)
        book.submit(task.id, second, other)
    book.submit(tasks[3].id, "7", "bob")  # the third answer does not count
    figure = book.agreement(case.id)
    assert (figure.share, figure.statistic) == (0.75, "Fleiss")
    assert figure.kappa == pytest.approx((0.75 - 34 / 64) / (1 - 34 / 64))


def test_agreement_without_double_labelled_tasks_is_unknown(book: CaseBook, open_case: OpenCase) -> None:
    case, [single, double] = _case(book, open_case, 1, 2)
    book.submit(single.id, "cat", "ann")
    assert (book.agreement(case.id).share, book.agreement(case.id).kappa) == (None, None)
    book.submit(double.id, "cat", "ann")
    book.submit(double.id, "cat", "bob")
    # One class only: agreement is whole, but chance would agree as well.
    assert (book.agreement(case.id).share, book.agreement(case.id).kappa) == (1.0, None)


def test_every_answer_is_in_the_audit_trail_once(book: CaseBook, open_case: OpenCase) -> None:
    case, [task, other] = _case(book, open_case, 1, 1)
    book.submit(task.id, "dog", "ann", source="console", role="approver")
    book.submit(task.id, "dog", "ann", source="console", role="approver")
    book.undo(task.id, "ann")
    book.skip(other.id, "bob")
    book.transition(case.id, "dismissed")
    with pytest.raises(CaseNotAnnotating):
        book.skip(task.id, "bob")
    assert [(e.actor, e.role, e.action, e.target, e.detail) for e in book.audit_trail()] == [
        ("bob", "labeller", "skip", f"task {other.id}", {"label": None, "source": "api"}),
        ("ann", "labeller", "undo", f"task {task.id}", {"verdict": "label", "label": 1}),
        ("ann", "approver", "label", f"task {task.id}", {"label": "dog", "source": "console"}),
    ]


@pytest.mark.parametrize("wanted", [0, 3, -1])
def test_a_task_wants_one_or_two_answers(wanted: int) -> None:
    with pytest.raises(InputError, match=f"wants 1 or 2 answers .* got {wanted}"):
        NewTask("r", 0, "repair", answers_wanted=wanted)
