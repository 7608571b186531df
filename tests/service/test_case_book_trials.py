"""Trials of candidates in the case book: one of a kind runs per model, and what ended stays as it ended."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from fieldrepair_service.case_book import CaseBook, TrialKind, TrialState
from fieldrepair_service.errors import InputError, NotInCaseBook
from fieldrepair_service.trial_reports import CanaryReport, ShadowReport, read_report


def test_a_trial_is_begun_once_reported_on_and_ended(book: CaseBook, clock: SimpleNamespace) -> None:
    trial = book.begin_trial(TrialKind.SHADOW, "digits", "3", "4")
    assert (trial.state, trial.report, trial.ended_ms) == (TrialState.RUNNING, {}, None)
    clock.ms += 5
    assert book.begin_trial(TrialKind.SHADOW, "digits", "3", "4") == trial  # whoever ran it has started anew
    report = ShadowReport(seen=10, agreed=7, disagreed=2, dropped={"not_sampled": 1})
    book.report_trial(trial.id, report.model_dump())
    [stored] = book.trials(TrialKind.SHADOW, "digits", "4")
    assert read_report(ShadowReport, stored.report) == report
    assert stored.updated_ms == trial.started_ms + 5

    clock.ms += 5
    ended = book.end_trial(trial.id, TrialState.ENDED, "version 4 takes the traffic")
    assert (ended.state, ended.ended_ms) == (TrialState.ENDED, clock.ms)
    book.report_trial(trial.id, {})  # late: it does not change what ended
    assert read_report(ShadowReport, book.trials()[0].report) == report
    assert book.end_trial(trial.id, TrialState.CANCELLED, "again").reason == "version 4 takes the traffic"
    assert book.begin_trial(TrialKind.SHADOW, "digits", "3", "4").id != trial.id


def test_another_candidate_ends_the_one_that_was_left_running(book: CaseBook) -> None:
    first = book.begin_trial(TrialKind.CANARY, "digits", "3", "4")
    other_model = book.begin_trial(TrialKind.CANARY, "fashion", "1", "2")
    shadow = book.begin_trial(TrialKind.SHADOW, "digits", "3", "4")
    second = book.begin_trial(TrialKind.CANARY, "digits", "3", "5")
    assert [each.id for each in book.trials(state=TrialState.RUNNING)] == [second.id, shadow.id, other_model.id]
    [cancelled] = book.trials(TrialKind.CANARY, state=TrialState.CANCELLED)
    assert (cancelled.id, cancelled.reason) == (first.id, "version 5 is tried beside version 3 now")
    assert book.trial_counts(TrialKind.CANARY) == {
        TrialState.RUNNING: 2,
        TrialState.CANCELLED: 1,
        TrialState.PASSED: 0,
        TrialState.ROLLED_BACK: 0,
        TrialState.ENDED: 0,
    }


def test_what_cannot_be_is_refused(book: CaseBook) -> None:
    trial = book.begin_trial(TrialKind.CANARY, "digits", "3", "4")
    with pytest.raises(InputError, match="running is no end"):
        book.end_trial(trial.id, TrialState.RUNNING)
    with pytest.raises(InputError, match="cannot store this as JSON"):
        book.report_trial(trial.id, {"x": object()})
    for ask in (lambda: book.report_trial(99, {}), lambda: book.end_trial(99, TrialState.PASSED)):
        with pytest.raises(NotInCaseBook, match="no trial 99"):
            ask()


def test_a_report_of_an_unknown_form_reads_as_an_empty_one() -> None:
    assert read_report(CanaryReport, {"percent": "much"}) == CanaryReport()
    assert read_report(ShadowReport, {"later": 1, "agreed": 2}).agreed == 2
    assert ShadowReport().agreement is None
