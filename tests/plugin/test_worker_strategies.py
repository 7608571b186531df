"""The worker with a strategy of the user's choice: what it asks, and who trains when the answers are in."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from mlflow import MlflowClient

from fieldrepair_monitoring.handover import load_module
from fieldrepair_plugin.exemplars import Selection
from fieldrepair_plugin.settings import WorkerSettings
from fieldrepair_plugin.worker import Worker
from fieldrepair_service.case_book import CaseState, Purpose
from tests.plugin.conftest import log_versions

if TYPE_CHECKING:
    from tests.plugin.conftest import Field


@pytest.mark.parametrize(
    ("strategy", "recipe", "asked"),
    [("gini", "default", 22), ("bn_adapt", "paper", 0), ("train_random", "paper", 0)],
)
def test_a_case_is_worked_by_the_strategy_that_chose_its_questions(
    field: Field, worker_settings: WorkerSettings, tmp_path: Path, strategy: str, recipe: str, asked: int
) -> None:
    chosen = worker_settings.model_copy(update={"repair_strategy": strategy, "recipe": recipe, "epochs": 1})
    field.send(150)
    case_id = field.open_case()

    def work(settings: WorkerSettings) -> None:
        worker = Worker(settings, field.book, field.log, worker_id="test", stop=threading.Event())
        while worker.round():
            pass

    work(chosen)
    tasks = field.book.tasks(case_id)
    assert sum(task.purpose is Purpose.REPAIR for task in tasks) == asked == field.book.case(case_id).budget
    assert sum(task.purpose is Purpose.ACCEPTANCE for task in tasks) == 40
    selection = Selection.load(worker_settings.cases_dir / str(case_id) / "attempt-1" / "selection.npz")
    assert (selection.strategy, selection.recipe) == (strategy, recipe)
    # Meanwhile somebody has changed the setting: the answers belong to what asked for them.
    field.answer(case_id)
    work(worker_settings.model_copy(update={"epochs": 1}))
    case = field.book.case(case_id)
    assert case.state in (CaseState.ACCEPTED, CaseState.REJECTED), case.note
    assert "error" not in (case.reason or "")
    run = MlflowClient().get_run(case.run_id or "")
    assert (run.data.params["strategy"], run.data.params["recipe"]) == (strategy, recipe)
    assert run.data.metrics["labels_used"] == asked
    if strategy.startswith("train_"):
        path = MlflowClient().download_artifacts(case.run_id or "", "repair/search.json", str(tmp_path))
        search = json.loads(Path(path).read_text())
        assert (search["method"], search["spent"], len(search["trials"])) == ("random", 20, 20)


@pytest.mark.parametrize(("batch_norm", "recipe"), [(True, "default"), (False, "paper")])
def test_a_model_is_repaired_by_the_recipe_that_suits_it(
    field: Field, worker_settings: WorkerSettings, batch_norm: bool, recipe: str
) -> None:
    log_versions(field.name, 1, batch_norm=batch_norm)
    field.version = "2"
    field.send(300)
    case_id = field.open_case()
    settings = worker_settings.model_copy(update={"epochs": 4, "label_fraction": 0.3})
    worker = Worker(settings, field.book, field.log, worker_id="test", stop=threading.Event())
    while worker.round():
        pass
    field.answer(case_id)
    while worker.round():
        pass
    case = field.book.case(case_id)
    assert case.state is CaseState.ACCEPTED, case.reason
    run = MlflowClient().get_run(case.run_id or "")
    assert run.data.params["recipe"] == recipe
    assert load_module(field.name, str(case.candidate_version)).training is False
