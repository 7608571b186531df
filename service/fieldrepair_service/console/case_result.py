"""The acceptance test's verdict as the case page shows it: read from the case's JSON, which older workers wrote too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, ValidationError

from fieldrepair_service.case_book import Task

MATRIX_CLASSES = 12
"""Up to so many classes a confusion matrix is shown whole; beyond, the pairs that changed most."""
_CHANGED_PAIRS = 20
EXAMPLES = 12


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Share(_Part):
    """A share with its 95 % interval."""

    count: int
    total: int
    value: float
    low: float
    high: float


class Counts(_Part):
    """How both models answered one sample."""

    both_right: int
    repaired: int
    broken: int
    both_wrong: int


class Sample(_Part):
    """Both models on one sample."""

    counts: Counts
    champion_accuracy: Share
    candidate_accuracy: Share
    champion_confusion: list[list[int]]
    candidate_confusion: list[list[int]]
    passed: bool


class ClassResult(_Part):
    """One class on the reference validation set."""

    name: str
    inputs: int
    repaired: int
    broken: int
    loss: float | None
    bound: float | None
    judged: bool
    passed: bool


class Answers(_Part):
    """What both models said about each input of the acceptance sample."""

    keys: list[tuple[str, int]]
    labels: list[int]
    champion: list[int]
    candidate: list[int]


class Result(_Part):
    """The verdict."""

    accepted: bool
    reasons: list[str]
    alpha: float
    margin: float
    field: Sample
    reference: Sample
    p_value: float
    repair_rate: Share | None
    negative_flips: int
    loss_bound: float
    classes: list[ClassResult] = []
    answers: Answers | None = None


@dataclass(frozen=True)
class Bar:
    """An accuracy with its interval, in percent of the chart's width."""

    name: str
    share: Share
    x: float
    low: float
    high: float
    after: bool


@dataclass(frozen=True)
class Changed:
    """A cell of the confusion matrix that changed."""

    true: str
    answered: str
    before: int
    after: int


@dataclass(frozen=True)
class Example:
    """An input of the acceptance sample whose answer was repaired or broken."""

    request_id: str
    row: int
    task_id: int | None
    true: str
    before: str
    after: str


def read_result(acceptance: Mapping[str, object] | None) -> Result | None:
    """The verdict; None if there is none, or it is not in a form this version knows."""
    try:
        return Result.model_validate(acceptance) if acceptance else None
    except ValidationError:
        return None


def bars(result: Result) -> tuple[list[Bar], float, float]:
    """The four accuracies on one scale, and the scale's ends (shares)."""
    named = [
        ("Field, before", result.field.champion_accuracy, False),
        ("Field, after", result.field.candidate_accuracy, True),
        ("Reference, before", result.reference.champion_accuracy, False),
        ("Reference, after", result.reference.candidate_accuracy, True),
    ]
    low = max(0.0, min(share.low for _, share, _ in named) - 0.02)
    high = min(1.0, max(share.high for _, share, _ in named) + 0.02)
    span = (high - low) or 1.0

    def place(value: float) -> float:
        return round(100 * (value - low) / span, 2)

    return [Bar(n, s, place(s.value), place(s.low), place(s.high), after) for n, s, after in named], low, high


def heat(cells: Sequence[Sequence[int]]) -> list[list[tuple[int, int]]]:
    """(count, shade 0..9) per cell; the shade is the share of the true class."""
    return [[(count, min(9, round(9 * count / max(1, sum(row))))) for count in row] for row in cells]


def changed_pairs(sample: Sample, names: Sequence[str]) -> list[Changed]:
    """The cells that changed most, largest change first."""
    found = [
        Changed(names[true], names[answered], before, after)
        for true, (left, right) in enumerate(zip(sample.champion_confusion, sample.candidate_confusion, strict=False))
        for answered, (before, after) in enumerate(zip(left, right, strict=False))
        if before != after and true < len(names) and answered < len(names)
    ]
    return sorted(found, key=lambda cell: -abs(cell.after - cell.before))[:_CHANGED_PAIRS]


def examples(result: Result, names: Sequence[str], tasks: Sequence[Task]) -> tuple[list[Example], list[Example]]:
    """Inputs whose answer was repaired, and those whose answer was broken, a few of each."""
    answers = result.answers
    if answers is None:
        return [], []
    places = {(task.request_id, task.row): task.id for task in tasks}
    repaired: list[Example] = []
    broken: list[Example] = []

    def name(number: int) -> str:
        return names[number] if 0 <= number < len(names) else f"class {number}"

    for key, label, before, after in zip(
        answers.keys, answers.labels, answers.champion, answers.candidate, strict=False
    ):
        if (before == label) == (after == label):
            continue
        example = Example(*key, places.get(key), name(label), name(before), name(after))
        (broken if before == label else repaired).append(example)
    return repaired[:EXAMPLES], broken[:EXAMPLES]
