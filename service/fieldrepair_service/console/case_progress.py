"""How far a case is, in words and bars: what the case page shows, and its live part shows again and again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from fieldrepair_service.case_book import Approval, Case, CaseState, HistoryEntry, TaskCounts

_STAGES = {
    "unsmoothness": "measuring how steady the answers are",
    "threshold": "measuring density around the training data",
    "regions": "finding regions",
    "exemplars": "choosing exemplars",
    "replay": "choosing training inputs to replay",
    "supervised": "learning from labels",
    "consistency": "learning from unlabelled inputs",
    "training": "an epoch is finished",
}
_NOT_METRICS = frozenset({"stage", "done", "total", "epoch", "epochs", "failures", "replayed"})


@dataclass(frozen=True)
class Step:
    """One station on the line of states."""

    title: str
    kind: str
    """done, now, ended, failed, or ahead."""
    at_ms: int | None
    """When the case came here; None if it has not."""
    text: str


@dataclass(frozen=True)
class Work:
    """What the worker is doing."""

    stage: str
    done: int
    total: int
    epoch: int | None
    epochs: int | None
    metrics: dict[str, float]


@dataclass(frozen=True)
class Live:
    """The part of the case page that changes while somebody looks at it."""

    case: Case
    counts: TaskCounts
    work: Work | None
    approval: Approval | None

    @property
    def place(self) -> str:
        """Changes when the rest of the page is out of date."""
        case = self.case
        return f"{case.state}/{case.attempt}/{case.budget}/{case.candidate_version}"

    @property
    def announcement(self) -> str:
        """For screen readers: changes once per stage or epoch, not once per second."""
        work = self.work
        if work is None:
            return f"Case {self.case.id} is {self.case.state}. {self.case.note}"
        epoch = f"epoch {work.epoch} of {work.epochs} finished" if work.epoch and work.epochs else work.stage
        return f"Case {self.case.id} is {self.case.state}: {epoch}"


def live_view(case: Case, counts: TaskCounts) -> Live:
    """The live part of a case."""
    working = case.state is CaseState.TRAINING or (case.state is CaseState.ANNOTATING and not counts.planned)
    return Live(case, counts, _work(case.progress) if working else None, case.approval)


def steps_of(case: Case, history: list[HistoryEntry]) -> list[Step]:
    """The line of states of the present attempt, with the times it came to each."""
    begin = max((i for i, entry in enumerate(history) if entry.to_state is CaseState.ANNOTATING), default=0)
    came = {entry.to_state: entry for entry in history[begin:]}
    verdict = CaseState.REJECTED if CaseState.REJECTED in came else CaseState.ACCEPTED
    end = CaseState.DISMISSED if CaseState.DISMISSED in came else CaseState.PROMOTED
    names = {
        CaseState.ANNOTATING: ("Annotating", "field inputs are chosen, people label them"),
        CaseState.TRAINING: ("Training", "the model is repaired and judged"),
        CaseState.ACCEPTED: (
            "Accepted" if CaseState.ACCEPTED in came else "Accepted or rejected",
            "by the acceptance test",
        ),
        CaseState.REJECTED: ("Rejected", "no repair found, the champion stays"),
        CaseState.PROMOTED: (
            "Promoted" if CaseState.PROMOTED in came else "Promoted or dismissed",
            "by a person",
        ),
        CaseState.DISMISSED: ("Dismissed", "ended without a new version"),
    }
    steps: list[Step] = []
    for state in (CaseState.ANNOTATING, CaseState.TRAINING, verdict, end):
        title, text = names[state]
        entry = came.get(state)
        if entry is None:
            kind = "ahead"
        elif state is CaseState.DISMISSED or (state is CaseState.REJECTED and case.state is state):
            kind = "failed"
        elif state is CaseState.PROMOTED:
            kind = "ended"
        else:
            kind = "now" if case.state is state else "done"
        steps.append(Step(title, kind, entry.at_ms if entry else None, text))
    return steps


def _work(progress: Mapping[str, object]) -> Work | None:
    stage = progress.get("stage")
    if not isinstance(stage, str):
        return None
    metrics = {
        name: float(value)
        for name, value in progress.items()
        if name not in _NOT_METRICS and isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    return Work(
        stage=_STAGES.get(stage, stage),
        done=_whole(progress, "done") or 0,
        total=_whole(progress, "total") or 0,
        epoch=_whole(progress, "epoch"),
        epochs=_whole(progress, "epochs"),
        metrics=metrics,
    )


def _whole(progress: Mapping[str, object], name: str) -> int | None:
    value = progress.get(name)
    return int(cast(float, value)) if isinstance(value, (int, float)) else None
