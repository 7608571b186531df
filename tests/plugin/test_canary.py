"""When a canary goes back, and what is written down of one that did."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from mlflow import MlflowClient

from fieldrepair_plugin.canary import Tally, estimated_accuracies, reason_to_go_back
from fieldrepair_plugin.canary_plan import CanaryPlan
from fieldrepair_plugin.model_uri import ModelTarget
from fieldrepair_plugin.rolled_back import held_back, settle_roll_back
from fieldrepair_plugin.sidecar_control import Side
from fieldrepair_service.case_book import CaseState, TrialKind, TrialState, WindowRecord
from fieldrepair_service.trial_reports import CanaryReport, SideReport

if TYPE_CHECKING:
    from tests.plugin.conftest import Field, Registry

PLAN = CanaryPlan(percent=10)
CALM = SideReport(requests=1000, failures=0, mean_ms=10.0, accuracy=0.9)


@pytest.mark.parametrize(
    ("canary", "champion", "reason"),
    [
        (SideReport(), CALM, ""),
        (SideReport(requests=1, failures=1), CALM, "1 of its 1 requests failed, of the champion's 0 of 1000"),
        (SideReport(requests=200, failures=4), CALM, ""),  # 2 %, which is allowed
        (SideReport(requests=200, failures=12), CALM, "12 of its 200 requests failed"),
        # Chance can explain 1 of 20; and what the champion fails at, too, is no reason.
        (SideReport(requests=20, failures=1), CALM, ""),
        (SideReport(requests=200, failures=60), SideReport(requests=1000, failures=300), ""),
        (SideReport(requests=60, mean_ms=16.0), CALM, "it takes 16.0 ms on average, the champion 10.0 ms"),
        (SideReport(requests=49, mean_ms=16.0), CALM, ""),
        (SideReport(requests=60, mean_ms=2.5), SideReport(requests=60, mean_ms=0.6), ""),  # fast either way
        (SideReport(requests=60, mean_ms=10.0, accuracy=0.84), CALM, "its estimated accuracy is 84.0%"),
        (SideReport(requests=60, mean_ms=10.0, accuracy=0.86), CALM, ""),
        (SideReport(requests=60, accuracy=0.1), SideReport(requests=60), ""),
    ],
)
def test_reasons_to_go_back(canary: SideReport, champion: SideReport, reason: str) -> None:
    found = reason_to_go_back(PLAN, canary, champion)
    assert found.startswith(reason) if reason else not found


def test_a_sidecar_that_starts_again_does_not_make_anybody_forget() -> None:
    tally = Tally()
    assert tally.report(None) == SideReport()
    tally.update(Side(10, 1, 0.9))
    tally.update(Side(20, 2, 1.8))
    assert tally.report(0.5) == SideReport(requests=20, failures=2, mean_ms=100.0, accuracy=0.5)
    tally.update(Side(5, 0, 0.5))
    tally.update(Side(8, 0, 0.8))
    assert tally.report(None) == SideReport(requests=28, failures=2, mean_ms=100.0)


def window(index: int, at_ms: int, accuracy: float | None) -> WindowRecord:
    return WindowRecord(index, at_ms, at_ms + 1, 100, "mmd", 0.1, 0.2, 0.5, drifted=False, estimated_accuracy=accuracy)


def test_accuracy_is_that_of_windows_since_the_canary_began(field: Field) -> None:
    book, name = field.book, field.name
    assert estimated_accuracies(book, name, "2", "1", 1000) == (None, None)
    book.record_windows(name, "1", {}, [window(0, 500, 0.7), window(1, 900, 0.8)])
    book.record_windows(name, "2", {}, [window(0, 400, 0.1), window(1, 1000, 0.9), window(2, 1100, 0.7)])
    assert estimated_accuracies(book, name, "2", "1", 1000) == (pytest.approx(0.8), 0.8)
    book.record_windows(name, "1", {}, [window(2, 1200, 0.6), window(3, 1300, None)])
    assert estimated_accuracies(book, name, "2", "1", 1000) == (pytest.approx(0.8), 0.6)


def test_a_roll_back_moves_the_alias_back_and_tells_the_case(field: Field, registry: Registry) -> None:
    client, book = MlflowClient(), field.book
    field.name = name = registry.name
    target = ModelTarget(name, alias="tried")
    case_id = field.open_case()
    book.update_case(case_id, candidate_version="2")
    book.transition(case_id, CaseState.TRAINING)
    book.transition(case_id, CaseState.ACCEPTED, "better")
    book.approve(case_id, "ann", "approver")
    book.answer_approval(case_id)
    client.set_registered_model_alias(name, "tried", "2")

    trial = book.begin_trial(TrialKind.CANARY, name, "1", "2")
    assert held_back(book, name, "2", canaries=True) == trial  # `up` ended in the middle of it: it is begun anew
    for version, canaries in (("1", True), ("2", False)):  # or not
        assert held_back(book, name, version, canaries=canaries) is None
        assert book.trials(TrialKind.CANARY, name)[0].state is TrialState.CANCELLED
        trial = book.begin_trial(TrialKind.CANARY, name, "1", "2")
    book.end_trial(trial.id, TrialState.ROLLED_BACK, "slow", CanaryReport(alias_restored=False).model_dump())
    held = held_back(book, name, "2", canaries=True)
    assert held is not None
    assert held.reason == "slow"

    assert settle_roll_back(book, target, "2", "1", "slow", trial.id) == [
        f"case {case_id} says so",
        "alias tried is back on version 1",
    ]
    case = book.case(case_id)
    assert case.state is CaseState.ACCEPTED
    assert case.note == "the canary of version 2 was rolled back: slow"
    assert case.approval is not None
    assert case.approval.problem == case.note
    assert str(client.get_model_version_by_alias(name, "tried").version) == "1"
    assert held_back(book, name, "2", canaries=True) is None
    # Once more, after somebody has moved the alias elsewhere: it stays there.
    client.delete_registered_model_alias(name, "tried")
    assert settle_roll_back(book, target, "2", "1", "slow", trial.id) == [f"case {case_id} says so"]
    # And the person may approve again.
    assert book.approve(case_id, "ann", "approver").approval != case.approval
