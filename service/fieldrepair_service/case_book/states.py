"""The states of a repair case and of a labelling task, and which moves are legal."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from fieldrepair_service.errors import IllegalTransition


class _Word(str, Enum):
    """A word that is its own text (``enum.StrEnum`` needs Python 3.11)."""

    __str__ = str.__str__


class CaseState(_Word):
    """Where a repair case stands, from the drift event to its end."""

    ANNOTATING = "annotating"
    """The case is being planned, or waits for people to label its tasks."""
    TRAINING = "training"
    """The worker repairs the model and judges the result."""
    ACCEPTED = "accepted"
    """The candidate beat the champion and waits for a person's approval."""
    REJECTED = "rejected"
    """No repair found; the champion stays. The case can be retried."""
    PROMOTED = "promoted"
    """The candidate became the champion. Final."""
    DISMISSED = "dismissed"
    """A person, or the worker with a reason, ended the case without a new version. Final."""


class TaskState(_Word):
    """Where one labelling task stands."""

    OPEN = "open"
    LABELLED = "labelled"
    SKIPPED = "skipped"


class Verdict(_Word):
    """What a labeller says about a task."""

    LABEL = "label"
    """It belongs to this class."""
    SKIP = "skip"
    """It cannot be labelled: broken, or none of the classes."""
    NOT_SURE = "not_sure"
    """It belongs to one of the classes, but this labeller cannot tell to which."""


class Purpose(_Word):
    """What a label is for. Never shown to a labeller."""

    REPAIR = "repair"
    """The label trains the candidate."""
    ACCEPTANCE = "acceptance"
    """The label judges the candidate; selection and training never see it."""


LEGAL: Mapping[CaseState, frozenset[CaseState]] = {
    CaseState.ANNOTATING: frozenset({CaseState.TRAINING, CaseState.REJECTED, CaseState.DISMISSED}),
    CaseState.TRAINING: frozenset(
        {CaseState.ACCEPTED, CaseState.REJECTED, CaseState.ANNOTATING, CaseState.DISMISSED},
    ),
    CaseState.ACCEPTED: frozenset({CaseState.PROMOTED, CaseState.DISMISSED}),
    CaseState.REJECTED: frozenset({CaseState.ANNOTATING, CaseState.DISMISSED}),
    CaseState.PROMOTED: frozenset(),
    CaseState.DISMISSED: frozenset(),
}
"""Every legal move; anything else is refused."""

OPEN_STATES = frozenset({CaseState.ANNOTATING, CaseState.TRAINING, CaseState.ACCEPTED})
"""A case in one of these is at work. Of these there is at most one per model version; a rejected case does not
stand in the way of a new one, else a shift that comes back would find nobody to repair it."""


def check_transition(case_id: int, current: CaseState, to: CaseState) -> None:
    """Refuse a move that is not in :data:`LEGAL`.

    Raises:
        IllegalTransition: naming both states and the legal ones.
    """
    if to not in LEGAL[current]:
        raise IllegalTransition(case_id, current, to, tuple(state for state in CaseState if state in LEGAL[current]))
