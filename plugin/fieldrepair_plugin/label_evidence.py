"""What people did for a repair: how many labels, by how many of them, and how well they agree."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from fieldrepair_service.case_book import Agreement, Case, CaseBook, Purpose, TaskState

_GROUND_TRUTH = "ground_truth"


@dataclass(frozen=True)
class LabelEvidence:
    """The labels of one attempt of a case."""

    repair: int
    """Inputs with a label to learn from."""
    acceptance: int
    """Inputs with a label to judge by."""
    skipped: int
    """Questions that nobody answered with a class."""
    reasons: dict[str, int]
    """Why they were skipped -> how many."""
    people: dict[str, int]
    """Labeller -> answers; without ground truth."""
    ground_truth: int
    """Answers that came from records instead of a person."""
    classes: dict[str, int]
    """Class -> labels."""
    agreement: Agreement

    @classmethod
    def of(cls, book: CaseBook, case: Case) -> LabelEvidence:
        """Count what the case book has of the case's present attempt.

        Raises:
            StoreError: the case book does not answer.
        """
        tasks = book.tasks(case.id, attempt=case.attempt)
        answers = book.answers(case.id, attempt=case.attempt)
        labelled = [task for task in tasks if task.label is not None]
        skipped = [task for task in tasks if task.state is TaskState.SKIPPED]
        classes = Counter(case.class_names[task.label] for task in labelled if task.label is not None)
        return cls(
            repair=sum(task.purpose is Purpose.REPAIR for task in labelled),
            acceptance=sum(task.purpose is Purpose.ACCEPTANCE for task in labelled),
            skipped=len(skipped),
            reasons=dict(Counter(task.reason or "skip" for task in skipped)),
            people=dict(Counter(answer.labeller for answer in answers if answer.source != _GROUND_TRUTH)),
            ground_truth=sum(answer.source == _GROUND_TRUTH for answer in answers),
            classes={name: classes[name] for name in case.class_names if classes[name]},
            agreement=book.agreement(case.id),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and numbers."""
        return asdict(self)
