"""When the answers to a task decide it, and how."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from fieldrepair_service.case_book.states import TaskState, Verdict
from fieldrepair_service.case_book.task_records import Answer

GROUND_TRUTH = "ground_truth"
"""Source of an answer that is right whatever labellers say."""


@dataclass(frozen=True)
class Outcome:
    """Where a task stands after its answers so far."""

    state: TaskState
    answers_wanted: int
    label: int | None = None
    reason: str | None = None
    """Why it was skipped: "skip", "not_sure" or "no_majority"."""
    decided_by: str | None = None


def settle(answers: Sequence[Answer], wanted: int) -> Outcome:
    """Decide a task, or say that it waits for more answers.

    Args:
        answers: at least one, oldest first, one per labeller.
        wanted: 1: the first label decides, a skip if there is no label. 2: both must agree ("no label", whether
            skipped or not sure, is an answer like any other), else a third is wanted. 3: the majority decides;
            without one the task is skipped.
    """
    truth = [answer for answer in answers if answer.source == GROUND_TRUTH and answer.label is not None]
    if wanted == 1 or truth:
        labels = truth or [answer for answer in answers if answer.label is not None]
        return _decided(labels[:1] or answers[:1], wanted)
    if len(answers) < wanted:
        return Outcome(TaskState.OPEN, wanted)
    votes = Counter(answer.label for answer in answers)
    label, count = votes.most_common(1)[0]
    if 2 * count > len(answers):
        return _decided([answer for answer in answers if answer.label == label], wanted)
    if wanted < 3:
        return Outcome(TaskState.OPEN, 3)
    return Outcome(TaskState.SKIPPED, wanted, reason="no_majority", decided_by=_names(answers))


def _decided(by: Sequence[Answer], wanted: int) -> Outcome:
    first = by[0]
    if first.verdict is Verdict.LABEL:
        return Outcome(TaskState.LABELLED, wanted, label=first.label, decided_by=_names(by))
    return Outcome(TaskState.SKIPPED, wanted, reason=str(first.verdict), decided_by=_names(by))


def _names(answers: Sequence[Answer]) -> str:
    return ", ".join(answer.labeller for answer in answers)
