"""How well labellers agree: the share of double-labelled tasks with the same answer twice, and kappa.

Cohen, "A coefficient of agreement for nominal scales", 1960, where the same two people answered every such task;
Fleiss, "Measuring nominal scale agreement among many raters", 1971, where the pairs vary.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from fieldrepair_service.case_book.settling import GROUND_TRUTH
from fieldrepair_service.case_book.task_records import Agreement, Answer, Task

_Pair = tuple[Answer, Answer]


def agreement_of(tasks: Sequence[Task], answers: Sequence[Answer], *, waiting: int) -> Agreement:
    """Agreement over the tasks that several people shall answer.

    The first two answers of a task count: the third comes only after a disagreement, and would bias the figure.

    Args:
        tasks: tasks of one case's attempt that have an answer.
        answers: all answers to them, oldest first.
        waiting: how many tasks for several people wait for answers, with those that have none yet.
    """
    given: defaultdict[int, list[Answer]] = defaultdict(list)
    for answer in answers:
        if answer.source != GROUND_TRUTH:
            given[answer.task_id].append(answer)
    double = [task for task in tasks if task.answers_wanted > 1]
    pairs = [_ordered(given[task.id]) for task in double if len(given[task.id]) >= 2]
    agreed = sum(first.label == second.label for first, second in pairs)
    same_people = len({(first.labeller, second.labeller) for first, second in pairs}) == 1
    return Agreement(
        tasks=len(pairs),
        agreed=agreed,
        share=agreed / len(pairs) if pairs else None,
        kappa=_kappa(pairs, same_people=same_people),
        statistic="Cohen" if same_people else "Fleiss",
        waiting=waiting,
        third=sum(task.answers_wanted > 2 for task in double),
        undecided=sum(task.reason == "no_majority" for task in double),
    )


def _ordered(answers: Sequence[Answer]) -> _Pair:
    """The first two answers, in the order of their labellers' names: who was first says nothing."""
    first, second = sorted(answers[:2], key=lambda answer: answer.labeller)
    return first, second


def _kappa(pairs: Sequence[_Pair], *, same_people: bool) -> float | None:
    if not pairs:
        return None
    number = len(pairs)
    firsts = Counter(first.label for first, _ in pairs)
    seconds = Counter(second.label for _, second in pairs)
    if not same_people:  # nobody is "the first": both shares are those of all answers
        both = firsts + seconds
        chance = sum((count / (2 * number)) ** 2 for count in both.values())
    else:
        chance = sum(firsts[label] * seconds[label] for label in firsts) / number**2
    if chance == 1:
        return None
    observed = sum(first.label == second.label for first, second in pairs) / number
    return (observed - chance) / (1 - chance)
