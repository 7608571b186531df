"""What goes into the case book and what comes out: frozen values, never live database objects.

What is about labels is in :mod:`.task_records`.
All times are UTC epoch milliseconds. ``progress``, ``acceptance`` and ``input_spec`` are JSON objects.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from fieldrepair_service.case_book.states import CaseState
from fieldrepair_service.errors import InputError

Cursor: TypeAlias = dict[str, tuple[int, int]]
"""Position in the field log: writer -> last consumed (seq, row). The same type as the field log's."""

JsonObject: TypeAlias = Mapping[str, object]


@dataclass(frozen=True)
class WindowRecord:
    """One window of field inputs that the monitor has judged.

    Raises:
        InputError: for a window that cannot be (no inputs, ends before it starts, a statistic that is not finite).
    """

    index: int
    """Counts the windows of one model version, without gaps."""
    first_timestamp_ms: int
    last_timestamp_ms: int
    size: int
    """Number of field inputs in it."""
    detector: str
    statistic: float
    threshold: float
    p_value: float | None
    drifted: bool
    estimated_accuracy: float | None = None
    cursor_start: Mapping[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    """Position in the field log just before its first input; where a repair's pool starts if an alert begins here."""
    accuracy_low: float | None = None
    """Lower end of the interval of ``estimated_accuracy``."""
    accuracy_high: float | None = None
    """Upper end of it."""
    accuracy_trusted: bool | None = None
    """Whether the estimate can be trusted; None if that is not known."""
    labelled_accuracy: float | None = None
    """Accuracy on those inputs whose right answer is known."""
    labelled_count: int | None = None
    """How many these are."""
    effect_size: float | None = None
    """How large the difference is, in units of the detector that do not grow with the window."""
    scores: JsonObject | None = None
    """Per detector: ``{name: {statistic, threshold, p_value, drifted, effect_size, confirmed}}``."""

    def __post_init__(self) -> None:
        if self.index < 0 or self.size < 1 or self.last_timestamp_ms < self.first_timestamp_ms:
            raise InputError(
                f"a window needs index >= 0, size >= 1 and an end not before its start; got index {self.index}, "
                f"size {self.size}, {self.first_timestamp_ms}..{self.last_timestamp_ms} ms"
            )
        _require_finite(
            "window",
            statistic=self.statistic,
            threshold=self.threshold,
            p_value=self.p_value,
            accuracy_low=self.accuracy_low,
            accuracy_high=self.accuracy_high,
            labelled_accuracy=self.labelled_accuracy,
            effect_size=self.effect_size,
        )

    @property
    def times_threshold(self) -> float:
        """The statistic in units of its threshold: the detector that is clearest differs from window to window."""
        return self.statistic / self.threshold if self.threshold > 0 else self.statistic


@dataclass(frozen=True)
class NewDriftEvent:
    """What the monitor says when it raises an alert. The case that follows copies the class names and input layout.

    Raises:
        InputError: for no class names, repeated class names, or numbers that are not finite.
    """

    model_name: str
    model_version: str
    detector: str
    statistic: float
    p_value: float | None
    threshold: float
    window_index: int
    """The window that completed the alert."""
    cursor_start: Mapping[str, tuple[int, int]]
    """Position in the field log just before the first shifted window: the case's pool starts there."""
    field_inputs_until_alert: int
    estimated_accuracy: float | None
    reference_accuracy: float | None
    summary: str
    """One line for people."""
    class_names: Sequence[str]
    input_spec: JsonObject
    """``ImageInput.model_dump(mode="json")``, or a like description of another kind of input."""

    def __post_init__(self) -> None:
        if not self.class_names or len(set(self.class_names)) != len(self.class_names):
            raise InputError(f"a case needs distinct class names, got {list(self.class_names)}")
        _require_finite("drift event", statistic=self.statistic, threshold=self.threshold, p_value=self.p_value)


@dataclass(frozen=True)
class Checkpoint:
    """How far the monitor has come with one model version."""

    model_name: str
    model_version: str
    cursor: Cursor
    next_window_index: int
    updated_ms: int
    memory: Mapping[str, str] = field(default_factory=dict[str, str])
    """What detectors remember of the windows before, by the name the monitor gave it."""


@dataclass(frozen=True)
class DriftEvent:
    """One alert of the monitor, stored."""

    id: int
    case_id: int
    """The case it opened, or the one that was already at work on this model version."""
    opened_case: bool
    """False when it joined a case that was already at work."""
    model_name: str
    model_version: str
    detector: str
    statistic: float
    p_value: float | None
    threshold: float
    window_index: int
    cursor_start: Cursor
    field_inputs_until_alert: int
    estimated_accuracy: float | None
    reference_accuracy: float | None
    summary: str
    opened_ms: int
    ended_ms: int | None
    """When the shift went away; None while it lasts."""
    explanation: JsonObject | None = None
    """What changed, once somebody has worked it out."""


@dataclass(frozen=True)
class Notification:
    """One message of the outbox that someone outside must get at least once."""

    id: int
    kind: str
    event_id: int | None
    case_id: int | None
    payload: JsonObject
    created_ms: int
    attempts: int
    last_attempt_ms: int | None
    last_error: str | None
    sent_ms: int | None


@dataclass(frozen=True)
class Approval:
    """That somebody wants a candidate promoted, and what became of it."""

    by: str
    at_ms: int
    version: str
    moved_ms: int | None = None
    """When the alias was moved to the version; None while that waits."""
    problem: str = ""
    """Why it could not be moved so far."""


@dataclass(frozen=True)
class Case:
    """One repair case."""

    id: int
    event_id: int
    """The drift event that opened it."""
    model_name: str
    model_version: str
    state: CaseState
    reason: str
    """Why it is in this state."""
    note: str
    """One line: what it is doing or waiting for."""
    attempt: int
    """1 at first; one more for each retry of a rejected case. Tasks are planned once per attempt."""
    planned_ms: int | None
    budget: int | None
    acceptance_size: int | None
    cursor_start: Cursor
    """Where its field data starts: the opening event's ``cursor_start``."""
    pool_cursor: Cursor | None
    """Where the field data of its plan ends."""
    class_names: tuple[str, ...]
    input_spec: JsonObject
    progress: JsonObject
    run_id: str | None
    candidate_version: str | None
    acceptance: JsonObject | None
    """The acceptance test's verdict."""
    claimed_by: str | None
    claimed_until_ms: int | None
    created_ms: int
    updated_ms: int
    approval: Approval | None = None
    """Who wants the candidate promoted, once somebody does."""


@dataclass(frozen=True)
class HistoryEntry:
    """One move of a case."""

    at_ms: int
    from_state: CaseState | None
    """None for the opening."""
    to_state: CaseState
    reason: str
    actor: str


@dataclass(frozen=True)
class AttachmentInfo:
    """A small picture or JSON document derived from a case's data, without its content."""

    id: int
    case_id: int
    event_id: int | None
    """The drift event it explains, if it is about one."""
    name: str
    media_type: str
    size: int
    """Bytes."""
    created_ms: int


@dataclass(frozen=True)
class Attachment(AttachmentInfo):
    """The same with its content."""

    content: bytes


@dataclass(frozen=True)
class AuditEntry:
    """Something a person or a program did."""

    id: int
    at_ms: int
    actor: str
    role: str
    action: str
    """One word: label, skip, undo, import, promote, dismiss."""
    target: str
    """What it was done to: "case 3", "task 17"."""
    detail: JsonObject | None


def _require_finite(what: str, **numbers: float | None) -> None:
    wrong = {name: value for name, value in numbers.items() if value is not None and not math.isfinite(value)}
    if wrong:
        raise InputError(f"a {what} needs finite numbers, got {wrong}")
