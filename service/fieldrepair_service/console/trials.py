"""Shadows and canaries as the pages show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fieldrepair_service.case_book import CaseBook, Trial, TrialKind, TrialState
from fieldrepair_service.trial_reports import CanaryReport, ShadowReport, read_report

SHOWN = 12
"""Disagreements that are shown."""


@dataclass(frozen=True)
class Disagreed:
    """A field input that two versions answer differently, with their answers in words."""

    request_id: str
    row: int
    champion: str
    candidate: str
    champion_confidence: float | None
    candidate_confidence: float | None


@dataclass(frozen=True)
class ShadowView:
    """A shadow."""

    trial: Trial
    report: ShadowReport
    disagreements: list[Disagreed]
    """The last ones, newest first."""

    @property
    def running(self) -> bool:
        """Whether it still does."""
        return self.trial.state is TrialState.RUNNING

    @property
    def is_image(self) -> bool:
        """Whether its field inputs can be shown as pictures."""
        return self.report.input_spec.get("kind") == "image"

    @property
    def not_compared(self) -> int:
        """Field inputs that were left out, for whatever reason."""
        return sum(self.report.dropped.values())


@dataclass(frozen=True)
class CanaryView:
    """A canary."""

    trial: Trial
    report: CanaryReport

    @property
    def running(self) -> bool:
        """Whether it still does."""
        return self.trial.state is TrialState.RUNNING


def shadow_of(book: CaseBook, model_name: str, candidate: str | None) -> ShadowView | None:
    """The last shadow of a candidate, if there was one."""
    found = book.trials(TrialKind.SHADOW, model_name, candidate, limit=1) if candidate else []
    return _shadow(found[0]) if found else None


def canary_of(book: CaseBook, model_name: str, candidate: str | None) -> CanaryView | None:
    """The last canary of a candidate, if there was one."""
    found = book.trials(TrialKind.CANARY, model_name, candidate, limit=1) if candidate else []
    return CanaryView(found[0], read_report(CanaryReport, found[0].report)) if found else None


def running_trials(book: CaseBook, model_name: str) -> tuple[ShadowView | None, CanaryView | None]:
    """What runs now for a model."""
    found = book.trials(model_name=model_name, state=TrialState.RUNNING)
    shadow = next((trial for trial in found if trial.kind is TrialKind.SHADOW), None)
    canary = next((trial for trial in found if trial.kind is TrialKind.CANARY), None)
    return (
        _shadow(shadow) if shadow else None,
        CanaryView(canary, read_report(CanaryReport, canary.report)) if canary else None,
    )


def _shadow(trial: Trial) -> ShadowView:
    report = read_report(ShadowReport, trial.report)
    names = report.class_names
    shown = [
        Disagreed(
            each.request_id,
            each.row,
            _name(names, each.champion),
            _name(names, each.candidate),
            each.champion_confidence,
            each.candidate_confidence,
        )
        for each in reversed(report.disagreements[-SHOWN:])
    ]
    return ShadowView(trial, report, shown)


def _name(names: Sequence[str], number: int) -> str:
    return names[number] if 0 <= number < len(names) else f"class {number}"
