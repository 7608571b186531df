"""Events are explained after they were raised, whatever went wrong in between, and once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import numpy as np
import pytest

from fieldrepair_monitoring.drift_run import ARTIFACT_FOLDER, EVENT_TAG, event_key
from fieldrepair_monitoring.explainer import Explainer
from fieldrepair_monitoring.metrics import MonitorMetrics
from fieldrepair_monitoring.monitor import Monitor
from fieldrepair_monitoring.settings import MonitorSettings
from fieldrepair_service.case_book import CaseBook, DriftEvent, open_case_book
from fieldrepair_service.field_log import FieldLog

if TYPE_CHECKING:
    from tests.monitoring.conftest import Digits, FieldWriter, Images

pytestmark = pytest.mark.usefixtures("registry")

MakeSettings = Callable[..., MonitorSettings]


def turned(images: Images) -> Images:
    return np.ascontiguousarray(np.rot90(images, axes=(2, 3)))


@pytest.fixture
def book(tmp_path: Path) -> Iterator[CaseBook]:
    with open_case_book(f"sqlite:///{tmp_path}/state/case_book.db") as opened:
        yield opened


@pytest.fixture
def metrics() -> MonitorMetrics:
    return MonitorMetrics()


@pytest.fixture
def explainer(settings: MakeSettings, log: FieldLog, book: CaseBook, metrics: MonitorMetrics) -> Explainer:
    return Explainer(settings(), log, book, metrics)


@pytest.fixture
def event(
    digits: Digits, field: FieldWriter, settings: MakeSettings, log: FieldLog, book: CaseBook, metrics: MonitorMetrics
) -> DriftEvent:
    """One drift event, not explained yet."""
    field.write(digits.field_x[:100])
    field.write(turned(digits.field_x[100:250]))
    Monitor(settings(), log, book, metrics).round()
    [opened] = book.events()
    assert opened.explanation is None
    return opened


def explanation_of(book: CaseBook, event: DriftEvent) -> dict[str, Any]:
    stored = book.event(event.id).explanation
    assert stored is not None
    return dict(stored)


def runs_of(event: DriftEvent) -> list[Any]:
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("fieldrepair")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], f"tags.`{EVENT_TAG}` = '{event_key(event)}'"))


def count(metrics: MonitorMetrics, outcome: str) -> float | None:
    return metrics.registry.get_sample_value("fieldrepair_monitor_explanations_total", {"outcome": outcome})


def test_an_event_is_explained_with_pictures_in_the_case_and_in_mlflow(
    event: DriftEvent, explainer: Explainer, book: CaseBook, metrics: MonitorMetrics, digits: Digits, tmp_path: Path
) -> None:
    assert explainer.round() == 1
    explanation = explanation_of(book, event)
    assert explanation["field_inputs"] == event.field_inputs_until_alert == 100
    assert explanation["outside"]["share"] > 0.2
    assert explanation["accuracy"]["estimated"] == event.estimated_accuracy
    assert explanation["accuracy"]["reference"] == event.reference_accuracy
    keys = {(each["request_id"], each["row"]) for each in explanation["unlike"]}
    written = {f"{1_700_000_000_000 + 10 * seq}-spool-1-{seq}" for seq in range(101, 201)}
    assert {key for key, _ in keys} <= written, "inputs since the shift began, and no others"
    assert {each.name for each in book.attachments(event.case_id)} == {"unlike.png", "history.png"}

    [run] = runs_of(event)
    assert run.info.run_id == explanation["mlflow_run_id"]
    assert run.info.status == "FINISHED"
    assert run.data.tags["fieldrepair.model_version"] == "1"
    assert run.data.tags["fieldrepair.case"] == str(event.case_id)
    assert run.data.metrics["statistic"] == event.statistic
    folder = Path(mlflow.MlflowClient().download_artifacts(run.info.run_id, ARTIFACT_FOLDER, str(tmp_path)))
    for name in ("unlike.png", "history.png"):
        attachment = book.attachment(event.case_id, name)
        assert attachment is not None
        assert (folder / name).read_bytes() == attachment.content
    assert (folder / "explanation.json").exists()
    assert (count(metrics, "explained"), count(metrics, "failed")) == (1, 0)


def test_an_event_is_explained_once(event: DriftEvent, explainer: Explainer, book: CaseBook) -> None:
    explainer.round()
    first, attachments = explanation_of(book, event), book.attachments(event.case_id)
    assert explainer.round() == 0
    assert explanation_of(book, event) == first
    assert book.attachments(event.case_id) == attachments
    assert len(runs_of(event)) == 1


def test_while_mlflow_is_away_the_pictures_are_there_already_and_the_run_follows(
    event: DriftEvent,
    settings: MakeSettings,
    log: FieldLog,
    book: CaseBook,
    metrics: MonitorMetrics,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from fieldrepair_monitoring import explainer as module
    from fieldrepair_monitoring.errors import RegistryError

    answering = module.log_drift_run

    def away(*_: object) -> str:
        raise RegistryError("artifacts: connection refused")

    monkeypatch.setattr(module, "log_drift_run", away)
    assert Explainer(settings(), log, book, metrics).round() == 0
    explanation = explanation_of(book, event)
    assert "mlflow_run_id" not in explanation
    assert book.attachment(event.case_id, "unlike.png") is not None
    assert count(metrics, "failed") == 1
    assert metrics.registry.get_sample_value("fieldrepair_monitor_explanations_pending") == 1

    monkeypatch.setattr(module, "log_drift_run", answering)
    assert Explainer(settings(), log, book, metrics).round() == 1, "as a monitor that was started again"
    completed = explanation_of(book, event)
    assert completed.pop("mlflow_run_id") == runs_of(event)[0].info.run_id
    assert completed == explanation
    assert metrics.registry.get_sample_value("fieldrepair_monitor_explanations_pending") == 0


def test_a_run_that_was_left_half_done_is_completed_and_no_second_one_made(
    event: DriftEvent, explainer: Explainer, book: CaseBook, settings: MakeSettings, log: FieldLog
) -> None:
    explainer.round()
    explanation = explanation_of(book, event)
    run_id = explanation.pop("mlflow_run_id")
    book.explain_event(event.id, explanation)  # killed after the run was made, before the case book had its id
    assert Explainer(settings(), log, book, MonitorMetrics()).round() == 1
    assert explanation_of(book, event)["mlflow_run_id"] == run_id
    assert len(runs_of(event)) == 1


def test_an_event_whose_inputs_are_gone_says_so_and_is_left_alone(
    event: DriftEvent, settings: MakeSettings, book: CaseBook, metrics: MonitorMetrics, tmp_path: Path
) -> None:
    empty = FieldLog.open(tmp_path / "another_log")
    explainer = Explainer(settings(), empty, book, metrics)
    assert explainer.round() == 1
    explanation = explanation_of(book, event)
    assert explanation["summary"].startswith(
        "No explanation: FieldInputsMissingError: the field log has no 100 field inputs"
    )
    assert "failed" in explanation
    assert (count(metrics, "given_up"), explainer.round()) == (1, 0)


def test_a_store_that_does_not_answer_is_asked_again_later(
    event: DriftEvent, settings: MakeSettings, log: FieldLog, book: CaseBook, metrics: MonitorMetrics, tmp_path: Path
) -> None:
    table = tmp_path / "state" / "field_log"
    explainer = Explainer(settings(poll_seconds=0.001), log, book, metrics)
    table.rename(tmp_path / "away")
    assert explainer.round() == 0
    assert book.event(event.id).explanation is None
    assert count(metrics, "failed") == 1
    (tmp_path / "away").rename(table)
    threading.Event().wait(0.05)
    assert explainer.round() == 1


def test_events_of_other_models_are_left_to_their_own_monitor(
    event: DriftEvent, settings: MakeSettings, log: FieldLog, book: CaseBook, metrics: MonitorMetrics
) -> None:
    assert Explainer(settings(model_name="clothes"), log, book, metrics).round() == 0
    assert book.event(event.id).explanation is None


def test_a_second_event_of_a_case_does_not_replace_the_pictures_of_the_first(
    event: DriftEvent,
    digits: Digits,
    field: FieldWriter,
    settings: MakeSettings,
    log: FieldLog,
    book: CaseBook,
    explainer: Explainer,
    metrics: MonitorMetrics,
) -> None:
    field.write(digits.field_x[250:450])
    field.write(turned(digits.field_x[450:600]))
    Monitor(settings(), log, book, metrics).round()
    second, first = book.events()
    assert (second.case_id, second.opened_case) == (first.case_id, False)
    assert explainer.round() == 2
    names = {each.name: each.event_id for each in book.attachments(first.case_id)}
    assert names == {
        "unlike.png": first.id,
        "history.png": first.id,
        f"unlike-{second.id}.png": second.id,
        f"history-{second.id}.png": second.id,
    }
    assert explanation_of(book, second)["pictures"] == {
        "unlike.png": f"unlike-{second.id}.png",
        "history.png": f"history-{second.id}.png",
    }


def test_a_defect_is_counted_and_given_up_and_never_ends_the_thread(
    event: DriftEvent,
    settings: MakeSettings,
    log: FieldLog,
    book: CaseBook,
    metrics: MonitorMetrics,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from fieldrepair_monitoring import explainer as module

    def broken(*_: object, **__: object) -> object:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(module, "explain", broken)
    with Explainer(settings(poll_seconds=0.001), log, book, metrics).running():
        deadline = threading.Event()
        for _ in range(2000):
            if book.event(event.id).explanation is not None:
                break
            deadline.wait(0.02)
    assert explanation_of(book, event)["failed"] == "ZeroDivisionError: a defect"
    assert (count(metrics, "failed"), count(metrics, "given_up")) == (2, 1)
