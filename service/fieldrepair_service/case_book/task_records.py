"""What goes into the case book about labels and what comes out: frozen values, times in UTC epoch milliseconds."""

from __future__ import annotations

from dataclasses import dataclass, field

from fieldrepair_service.case_book.states import Purpose, TaskState, Verdict
from fieldrepair_service.errors import InputError


@dataclass(frozen=True)
class NewTask:
    """One field input that a person shall label."""

    request_id: str
    row: int
    purpose: Purpose | str
    rank: int = 0
    """Order of importance among tasks of the same purpose; labellers get a mixed order."""
    region: int | None = None
    """Region whose exemplar this is; None for the acceptance sample."""
    answers_wanted: int = 1
    """How many people shall answer: 1, or 2 to learn how well labellers agree."""
    known_label: int | None = None
    """Index of the class if ground truth says it already: then nobody is asked."""

    def __post_init__(self) -> None:
        if self.answers_wanted not in (1, 2):
            raise InputError(f"a task wants 1 or 2 answers (a third follows a disagreement), got {self.answers_wanted}")


@dataclass(frozen=True)
class Task:
    """One field input to label."""

    id: int
    case_id: int
    attempt: int
    request_id: str
    row: int
    purpose: Purpose
    rank: int
    region: int | None
    position: int
    """Place in the mixed order that labellers see."""
    state: TaskState
    label: int | None
    """Index into the case's class names."""
    decided_by: str | None
    """Who labelled or skipped it; several names, joined by commas, if several answers decided it."""
    decided_ms: int | None
    leased_to: str | None
    leased_until_ms: int | None
    answers_wanted: int = 1
    """How many people shall answer it: 1, 2 (double-labelled), 3 (the first two disagreed)."""
    reason: str | None = None
    """Why it was skipped: "skip", "not_sure", "no_majority" or "retry"."""


@dataclass(frozen=True)
class Answer:
    """What one labeller said about one task."""

    task_id: int
    labeller: str
    verdict: Verdict
    label: int | None
    """Index into the case's class names."""
    source: str
    """Where it came from: "api", "console", "terminal", "label-studio", "csv", "ground_truth"."""
    at_ms: int


@dataclass(frozen=True)
class Agreement:
    """How well labellers agree on tasks that two of them answered. The first two answers of a task count."""

    tasks: int
    """Tasks with two answers or more."""
    agreed: int
    """Of these, how many got the same answer from both."""
    share: float | None
    """``agreed / tasks``; None without such tasks."""
    kappa: float | None
    """Agreement beyond chance: 1 = always, 0 = as by chance. None without such tasks, or when all answers are one."""
    statistic: str
    """"Cohen" if the same two people answered all of them, else "Fleiss"."""
    waiting: int
    """Double-labelled tasks that wait for more answers."""
    third: int
    """Tasks that went to a third labeller."""
    undecided: int
    """Tasks without a majority after three answers."""


@dataclass(frozen=True)
class ImportedAnswer:
    """What a labeller said elsewhere."""

    line: int
    """Where in the upload it stands, counted from 1, for messages."""
    task_id: int
    labeller: str
    label: str | None
    """Name of the class; None if the labeller gave none."""
    not_sure: bool = False
    """Of an answer without a label: the labeller could not tell which class it is."""


@dataclass(frozen=True)
class ImportReceipt:
    """What became of an import."""

    stored: int
    """New answers."""
    repeated: int
    """Answers that were stored before, or that agree with the label their task has."""


@dataclass(frozen=True)
class NewGroundTruth:
    """The right answer for one field input, from outside.

    Raises:
        InputError: no client request id, a negative row, or an empty label.
    """

    client_request_id: str
    row: int
    label: str

    def __post_init__(self) -> None:
        if not self.client_request_id or self.row < 0 or not self.label:
            raise InputError(
                "ground truth needs a client request id, a row of at least 0 and a label; got "
                f"{self.client_request_id!r}, {self.row}, {self.label!r}"
            )


@dataclass(frozen=True)
class GroundTruth(NewGroundTruth):
    """The same, stored."""

    source: str
    received_ms: int


@dataclass(frozen=True)
class GroundTruthReceipt:
    """What became of a batch of ground truth."""

    stored: int
    """New ones."""
    repeated: int
    """Known before, with the same label."""
    replaced: int
    """Known before with another label; the new one counts."""


@dataclass(frozen=True)
class PurposeCounts:
    """Tasks of one purpose, by state."""

    open: int = 0
    labelled: int = 0
    skipped: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.open + self.labelled + self.skipped


@dataclass(frozen=True)
class TaskCounts:
    """Tasks of a case's present attempt."""

    planned: bool
    repair: PurposeCounts = field(default_factory=PurposeCounts)
    acceptance: PurposeCounts = field(default_factory=PurposeCounts)

    @property
    def open(self) -> int:
        """Tasks that still wait for a label."""
        return self.repair.open + self.acceptance.open

    @property
    def labelled(self) -> int:
        """Tasks with a label."""
        return self.repair.labelled + self.acceptance.labelled

    @property
    def skipped(self) -> int:
        """Tasks a labeller could not answer."""
        return self.repair.skipped + self.acceptance.skipped

    @property
    def total(self) -> int:
        """All tasks."""
        return self.repair.total + self.acceptance.total

    @property
    def ready(self) -> bool:
        """True once the case is planned and no task waits for a label."""
        return self.planned and self.open == 0
