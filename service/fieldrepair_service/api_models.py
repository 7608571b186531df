"""Bodies of the case book's HTTP API. What a labeller must not see (purpose, region, prediction) is not in here."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StringConstraints

from fieldrepair_service import case_book as book

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=r"^[^\p{C}]+$")]
"""A person's name: printable, not empty."""

Line = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2000, pattern=r"^[^\p{C}]+$")]
"""One line of text: printable, not empty."""


class _Body(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True)


class _Question(_Body):
    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, extra="forbid")


Source = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,39}$")]
"""Where an answer comes from, in one word."""


class LabelRequest(_Question):
    """A labeller's answer."""

    label: Annotated[StrictInt, Field(ge=0)] | Annotated[str, StringConstraints(strict=True, max_length=1000)]
    """Index of a class (a number), or its name (a string)."""
    labeller: Name
    """Who answers."""
    source: Source = "api"
    """Where the answer comes from."""


class LabellerRequest(_Question):
    """A labeller who takes an answer back."""

    labeller: Name
    """Who does it."""


class SkipRequest(_Question):
    """A labeller who gives no label."""

    labeller: Name
    """Who does it."""
    not_sure: bool = False
    """True: it is one of the classes, but this labeller cannot tell which. False: it cannot be labelled at all."""
    source: Source = "api"
    """Where the answer comes from."""


class ReasonRequest(_Question):
    """A person who ends a case, or has it tried again."""

    reason: Line
    """Why."""
    actor: Name = "console"
    """Who."""


class CountsView(_Body):
    """Labelling tasks of a case's present attempt."""

    open: int
    """Tasks that wait for a label."""
    labelled: int
    """Tasks with a label."""
    skipped: int
    """Tasks a labeller could not answer."""
    total: int
    """All tasks."""

    @classmethod
    def of(cls, counts: book.TaskCounts) -> CountsView:
        """The view of these counts."""
        return cls(open=counts.open, labelled=counts.labelled, skipped=counts.skipped, total=counts.total)


class ApprovalView(_Body):
    """That somebody wants a case's candidate promoted, and what became of it."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, from_attributes=True)

    by: str
    """Who approved."""
    at_ms: int
    version: str
    """The model version that is to take the traffic."""
    moved_ms: int | None
    """When the registry's alias was moved to it; null while that waits."""
    problem: str
    """Why it could not be moved so far; empty if nothing is wrong."""


class CaseView(_Body):
    """One repair case. All times are UTC epoch milliseconds."""

    id: int
    event_id: int
    """The drift event that opened it."""
    model_name: str
    model_version: str
    state: book.CaseState
    reason: str
    """Why it is in this state."""
    note: str
    """What it is doing or waiting for."""
    attempt: int
    """1, and one more for each retry."""
    budget: int | None
    """How many labels it may ask for; null until it is planned."""
    acceptance_size: int | None
    """How many of them judge the result; null until it is planned."""
    tasks: CountsView
    class_names: list[str]
    input_spec: dict[str, object]
    """Layout of its field inputs."""
    progress: dict[str, object]
    """How far the training is."""
    run_id: str | None
    """MLflow run of the repair."""
    candidate_version: str | None
    """Model version that the repair produced."""
    acceptance: dict[str, object] | None
    """The acceptance test's verdict."""
    approval: ApprovalView | None
    """Who wants the candidate promoted; null while nobody has said so."""
    claimed_by: str | None
    """The worker that works on it."""
    created_ms: int
    updated_ms: int

    @classmethod
    def of(cls, case: book.Case, counts: book.TaskCounts) -> CaseView:
        """The view of a case."""
        return cls(
            id=case.id,
            event_id=case.event_id,
            model_name=case.model_name,
            model_version=case.model_version,
            state=case.state,
            reason=case.reason,
            note=case.note,
            attempt=case.attempt,
            budget=case.budget,
            acceptance_size=case.acceptance_size,
            tasks=CountsView.of(counts),
            class_names=list(case.class_names),
            input_spec=dict(case.input_spec),
            progress=dict(case.progress),
            run_id=case.run_id,
            candidate_version=case.candidate_version,
            acceptance=None if case.acceptance is None else dict(case.acceptance),
            approval=None if case.approval is None else ApprovalView.model_validate(case.approval),
            claimed_by=case.claimed_by,
            created_ms=case.created_ms,
            updated_ms=case.updated_ms,
        )


class HistoryView(_Body):
    """One move of a case."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, from_attributes=True)

    at_ms: int
    from_state: book.CaseState | None
    """Null for the opening."""
    to_state: book.CaseState
    reason: str
    actor: str
    """Who moved it."""


class TaskView(_Body):
    """One field input to label, as a labeller sees it."""

    task_id: int
    case_id: int
    image_url: str
    """Path of the picture on this server."""
    class_names: list[str]
    """The possible answers."""
    key: tuple[str, int]
    """Name of the field input in the field log: (request_id, row)."""
    remaining: int
    """Tasks of the case that wait for a label, with this one."""
    total: int
    """All tasks of the case."""
    position: int
    """Place in the queue; ``after`` takes it to pass this task over."""
    leased_until_ms: int
    """Until when nobody else gets this task, UTC epoch milliseconds."""


class InputView(_Body):
    """A task's field input in words and numbers; the picture of an image is at ``image_url``."""

    kind: str
    """image, tabular or text."""
    width: int | None = None
    """Of an image, in pixels."""
    height: int | None = None
    rows: list[tuple[str, str, str]] | None = None
    """Of a table row: (feature, value, unit)."""
    text: str | None = None
    """Of a text."""


class DecisionView(_Body):
    """What is stored about a task after a labeller's answer."""

    task_id: int
    case_id: int
    state: book.TaskState
    label: int | None
    """Index of the class."""
    class_name: str | None
    labeller: str | None
    """Who decided it."""
    decided_ms: int | None
    remaining: int
    """Tasks of the case that still wait for a label."""
    total: int
    """All tasks of the case."""

    @classmethod
    def of(cls, task: book.Task, case: book.Case, counts: book.TaskCounts) -> DecisionView:
        """The view of a task."""
        return cls(
            task_id=task.id,
            case_id=task.case_id,
            state=task.state,
            label=task.label,
            class_name=None if task.label is None else case.class_names[task.label],
            labeller=task.decided_by,
            decided_ms=task.decided_ms,
            remaining=counts.open,
            total=counts.total,
        )


class AgreementView(_Body):
    """How well labellers agree on tasks that two of them answered."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, from_attributes=True)

    tasks: int
    """Tasks with two answers or more."""
    agreed: int
    """Of these, how many got the same answer from both."""
    share: float | None
    """``agreed / tasks``; null without such tasks."""
    kappa: float | None
    """Agreement beyond chance; null without such tasks, or when all answers are the same."""
    statistic: str
    """"Cohen" or "Fleiss"."""
    waiting: int
    """Tasks that wait for more answers."""
    third: int
    """Tasks that went to a third labeller."""
    undecided: int
    """Tasks without a majority."""


class EventView(_Body):
    """One drift event. All times are UTC epoch milliseconds."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, from_attributes=True)

    id: int
    case_id: int
    """The case it opened or joined."""
    opened_case: bool
    """False if the model version already had a case at work."""
    model_name: str
    model_version: str
    detector: str
    statistic: float
    p_value: float | None
    threshold: float
    window_index: int
    """The window that completed the alert."""
    field_inputs_until_alert: int
    estimated_accuracy: float | None
    """Estimated without labels."""
    reference_accuracy: float | None
    summary: str
    opened_ms: int
    ended_ms: int | None
    """When the shift went away; null while it lasts."""


class WindowView(_Body):
    """One judged window of field inputs. All times are UTC epoch milliseconds."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, from_attributes=True)

    index: int
    first_timestamp_ms: int
    last_timestamp_ms: int
    size: int
    """Number of field inputs."""
    detector: str
    statistic: float
    threshold: float
    p_value: float | None
    drifted: bool
    estimated_accuracy: float | None
    """Estimated without labels."""
    accuracy_low: float | None
    """Lower end of the estimate's 95 % interval."""
    accuracy_high: float | None
    """Upper end of it."""
    accuracy_trusted: bool | None
    """False if the estimate cannot be trusted; null if that is not known."""


class StreamView(_Body):
    """How far the monitor has come with one model version."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, from_attributes=True)

    model_name: str
    model_version: str
    next_window_index: int
    """Windows judged so far, if the first had index 0."""
    updated_ms: int
