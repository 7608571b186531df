"""The worker on a real field log, case book and registry: from the first field input to a candidate or a refusal."""

from __future__ import annotations

import json
import shutil
import threading
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch
from mlflow import MlflowClient, pyfunc
from mlflow import pytorch as mlflow_pytorch
from torch import nn

from fieldrepair_monitoring.handover import load_handover
from fieldrepair_plugin.case_planning import waiting_note
from fieldrepair_plugin.errors import AlreadyRunningError
from fieldrepair_plugin.registration import CASE_KEY_TAG
from fieldrepair_plugin.settings import WorkerSettings
from fieldrepair_plugin.worker import Worker, only_worker, run_worker
from fieldrepair_service.case_book import Case, CaseState, NewGroundTruth, Purpose

if TYPE_CHECKING:
    from tests.plugin.conftest import Field


def work(field: Field, settings: WorkerSettings, case_id: int, *until: CaseState) -> Case:
    """Go round until the case is in one of these states, or nothing moves any more."""
    worker = Worker(settings, field.book, field.log, worker_id="test", stop=threading.Event())
    while worker.round() and field.book.case(case_id).state not in until:
        pass
    return field.book.case(case_id)


def planned_case(field: Field, settings: WorkerSettings) -> int:
    field.send(150)
    case_id = field.open_case()
    case = work(field, settings, case_id)
    assert case.planned_ms is not None, case.note
    return case_id


def test_waits_for_field_inputs_then_asks(field: Field, worker_settings: WorkerSettings) -> None:
    field.send(50)
    case_id = field.open_case()
    case = work(field, worker_settings, case_id)
    assert case.note == "waiting for 70 more field inputs (50 of 120)"
    assert case.planned_ms is None

    field.send(100)
    case = work(field, worker_settings, case_id)
    assert (case.budget, case.acceptance_size) == (22, 40)  # 15 % of 150, rounded down
    assert case.state is CaseState.ANNOTATING
    assert case.note == "waiting for 62 of 62 labels"
    assert waiting_note(field.log, case, worker_settings) is None

    tasks = field.book.tasks(case_id)
    judged = {task.request_id for task in tasks if task.purpose is Purpose.ACCEPTANCE}
    trained = {task.request_id for task in tasks if task.purpose is Purpose.REPAIR}
    assert not judged & trained

    # The business knows one of them already: nobody is asked for it any more.
    known = tasks[7]
    label = case.class_names[field.truth[known.request_id, known.row]]
    field.book.receive_ground_truth([NewGroundTruth(f"client-{known.request_id}", known.row, label)], "returns")
    assert work(field, worker_settings, case_id).note == "waiting for 61 of 62 labels"
    assert field.book.task(known.id).decided_by == "ground truth"

    plan = json.loads((worker_settings.cases_dir / str(case_id) / "attempt-1" / "plan.json").read_text())
    assert not judged & {request for request, _ in plan["pool"]}


def test_an_accepted_repair_is_a_version_that_can_be_repaired_again(
    field: Field, worker_settings: WorkerSettings
) -> None:
    case_id = planned_case(field, worker_settings)
    field.answer(case_id)
    case = work(field, worker_settings, case_id)
    assert case.state is CaseState.ACCEPTED, case.reason
    assert case.candidate_version == "2"
    assert case.acceptance is not None
    assert case.acceptance["labels_for_repair"] == case.budget == 22
    assert case.progress["stage"] == "unsmoothness" or case.progress["epoch"] == worker_settings.epochs
    assert case.claimed_by is None

    client = MlflowClient()
    version = client.get_model_version_by_alias(field.name, "candidate")
    assert str(version.version) == "2"
    expected = {"case": str(case_id), "event": "1", "parent_version": "1", "budget": "22", "labels_used": "22"}
    assert {f"fieldrepair.{name}": value for name, value in expected.items()}.items() <= version.tags.items()
    assert version.tags["fieldrepair.acceptance"] == "accepted"
    assert "What shifted" in (version.description or "")

    # Loads by MLflow's own means, answers alike, and is trainable.
    uri = f"models:/{field.name}/2"
    module = cast(nn.Module, mlflow_pytorch.load_model(uri))
    served: Any = pyfunc.load_model(uri)
    handover = load_handover(field.name, "2")
    x = handover.reference.val_x[:5]
    assert np.allclose(served.predict(x), module(torch.from_numpy(x)).detach().numpy(), atol=1e-5)
    assert module.train().training
    assert all(parameter.requires_grad for parameter in module.parameters())

    # Its reference set knows the field as world 1: labelled exemplars to train on, the acceptance sample to validate.
    reference = handover.reference
    assert reference.worlds == (0, 1)
    assert (reference.train_world == 1).sum() == 22
    assert (reference.val_world == 1).sum() == 40
    assert len(reference.normal_x) == 110
    assert handover.accuracy_by_world[1] > 0.8

    run = client.get_run(case.run_id or "")
    assert run.info.status == "FINISHED"
    assert run.data.params["budget"] == "22"
    assert run.data.metrics["field_accuracy_after"] > run.data.metrics["field_accuracy_before"]
    epochs = client.get_metric_history(run.info.run_id, "total_unsmoothness")
    assert [metric.step for metric in epochs] == [1, 2, 3]
    assert run.inputs is not None
    assert {item.dataset.name for item in run.inputs.dataset_inputs} == {"field-log-window", "labels"}
    assert all("field_log" in item.dataset.source for item in run.inputs.dataset_inputs)
    files = {item.path.removeprefix("repair/") for item in client.list_artifacts(run.info.run_id, "repair")}
    pictures = {"confusion_field.png", "confusion_reference.png", "repaired.png", "broken.png"}
    records = {"verdict.json", "epochs.json", "labels.csv", "plan.json", "selection.npz", "lineage.json"}
    assert files == pictures | records | {"model_card.md"}


def test_skipped_tasks_do_not_block_and_too_few_acceptance_labels_reject(
    field: Field, worker_settings: WorkerSettings
) -> None:
    case_id = planned_case(field, worker_settings)
    judged = [task.id for task in field.book.tasks(case_id, Purpose.ACCEPTANCE)][5:]
    field.answer(case_id, skip=lambda task: task.id in judged)
    case = work(field, worker_settings, case_id)
    assert case.state is CaseState.REJECTED
    assert case.reason == (
        "only 5 of 40 acceptance inputs were labelled, the others were skipped; need at least 10 to judge a repair"
    )


def test_another_worker_can_take_over_a_planned_case(field: Field, worker_settings: WorkerSettings) -> None:
    case_id = planned_case(field, worker_settings)
    assert MlflowClient().get_run(field.book.case(case_id).run_id or "").info.status == "SCHEDULED"
    shutil.rmtree(worker_settings.cases_dir)
    field.answer(case_id)
    case = work(field, worker_settings, case_id)
    assert case.state is CaseState.ACCEPTED, case.reason


def test_no_repair_found_is_a_result(field: Field, worker_settings: WorkerSettings) -> None:
    """Labelled at random there is nothing to learn, and nothing to register."""
    case_id = planned_case(field, worker_settings)
    generator = np.random.default_rng(0)
    field.truth = {key: int(generator.integers(4)) for key in field.truth}
    field.answer(case_id)
    case = work(field, worker_settings, case_id)
    assert case.state is CaseState.REJECTED
    assert case.reason.startswith("no repair found: field: cannot show the candidate is better")
    assert case.candidate_version is None
    assert len(MlflowClient().search_model_versions(f"name = '{field.name}'")) == 1
    run = MlflowClient().get_run(case.run_id or "")
    assert run.data.metrics["accepted"] == 0.0

    # A person may retry: new acceptance inputs, none of those asked before, and earlier labels count once more.
    asked = {(task.request_id, task.row) for task in field.book.tasks(case_id)}
    field.book.transition(case_id, CaseState.ANNOTATING, "labelled more carefully", actor="ann")
    case = work(field, worker_settings, case_id)
    assert case.planned_ms is None
    assert case.note.startswith("waiting for 32 more field inputs that the model can take (88 of 120;")
    field.send(60)
    case = work(field, worker_settings, case_id)
    assert case.planned_ms is not None
    assert case.budget == 9  # 15 % of 210, less the 22 labels of the first attempt
    again = {(task.request_id, task.row) for task in field.book.tasks(case_id, attempt=2)}
    assert not again & asked
    truth = {key: value for key, value in field.truth.items() if key in again}
    field.truth = truth
    field.answer(case_id)
    case = work(field, worker_settings, case_id)
    assert case.state in (CaseState.ACCEPTED, CaseState.REJECTED)
    assert case.acceptance is not None
    assert case.acceptance["labels_for_repair"] == 31


def test_one_worker_per_state_folder(field: Field, worker_settings: WorkerSettings) -> None:
    with (
        only_worker(field.folder) as first,
        pytest.raises(AlreadyRunningError, match="another worker already works in"),
    ):
        run_worker(worker_settings.model_copy(update={"worker_once": True}))
    with only_worker(field.folder) as second:
        assert first == second


def test_a_registered_version_is_found_after_a_crash(
    field: Field, worker_settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends between registering the version and telling the case book: it is not registered twice."""
    from fieldrepair_plugin import case_training

    case_id = planned_case(field, worker_settings)
    field.answer(case_id)

    def crash(_name: str, _version: str) -> None:
        raise SystemExit("the power is out")

    with monkeypatch.context() as broken:
        broken.setattr(case_training, "set_candidate", crash)
        with pytest.raises(SystemExit):
            work(field, worker_settings, case_id)
    assert field.book.case(case_id).state is CaseState.TRAINING
    case = work(field, worker_settings, case_id)
    assert case.state is CaseState.ACCEPTED
    assert case.candidate_version == "2"
    versions = MlflowClient().search_model_versions(f"name = '{field.name}'")
    assert sorted(str(version.version) for version in versions) == ["1", "2"]
    assert sum(CASE_KEY_TAG in version.tags for version in versions) == 1
    assert str(MlflowClient().get_model_version_by_alias(field.name, "candidate").version) == "2"
