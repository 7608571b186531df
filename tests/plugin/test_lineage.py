"""Lineage of a repaired version: the dataset it learned from, the model card, and the way back and forth."""

from __future__ import annotations

import dataclasses
import json
import os
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import mlflow
import mlflow.data
import numpy as np
import pytest
from mlflow import MlflowClient

from fieldrepair_monitoring.errors import FieldInputsMissingError, ModelVersionMissingError
from fieldrepair_plugin import repair_run
from fieldrepair_plugin.errors import ModelUriError
from fieldrepair_plugin.field_window import FieldLogWindow
from fieldrepair_plugin.lineage import case_lineage, version_lineage
from fieldrepair_plugin.lineage_command import run_lineage
from fieldrepair_plugin.model_card import DESCRIPTION_LIMIT
from fieldrepair_plugin.registration import Labelled, register_candidate
from fieldrepair_plugin.repair_run import run_url
from fieldrepair_plugin.settings import WorkerSettings
from fieldrepair_service.case_book import CaseState
from fieldrepair_service.errors import StoreError
from tests.plugin.test_registration import make_candidate
from tests.plugin.test_worker import planned_case, work

if TYPE_CHECKING:
    from tests.plugin.conftest import Field


def dataset_sources(run_id: str) -> dict[str, FieldLogWindow]:
    """The sources of a run's datasets, as MLflow gives them back."""
    inputs = MlflowClient().get_run(run_id).inputs
    assert inputs is not None
    found = {one.dataset.name: mlflow.data.get_source(one) for one in inputs.dataset_inputs}
    return cast("dict[str, FieldLogWindow]", found)


def test_windows_that_begin_alike_are_told_apart(registry: object, tmp_path: Path) -> None:
    """MLflow keeps the first of two datasets with one name and digest; its own digest reads 10,000 numbers."""
    del registry
    experiment = MlflowClient().create_experiment(f"alike-{tmp_path.name}-{os.getpid()}")
    pool = np.zeros((200, 1, 8, 8), dtype=np.float32)
    other = pool.copy()
    other[-1] = 1
    labels = Labelled(pool[:3], np.array([0, 1, 2]))
    first, second = (
        FieldLogWindow(f"{tmp_path}/{place}", "m", "1", {}, {"w": (9, 9)}, rows=200) for place in ("here", "there")
    )
    digests: list[str] = []
    for window, x in ((first, pool), (second, pool), (first, other), (first, pool)):
        with mlflow.start_run(experiment_id=experiment) as run:
            repair_run.RepairRun(run.info.run_id).log_field_data(x, labels, window)
        kept = dataset_sources(run.info.run_id)
        assert {source.field_log for source in kept.values()} == {window.field_log}
        inputs = MlflowClient().get_run(run.info.run_id).inputs
        assert inputs is not None
        digests += [one.dataset.digest for one in inputs.dataset_inputs if one.dataset.name == "field-log-window"]
    assert len(set(digests)) == 3
    assert digests[0] == digests[3]


def test_from_a_version_back_to_its_field_inputs_and_forward_from_its_case(
    field: Field, worker_settings: WorkerSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = worker_settings.model_copy(update={"double_label_share": 1.0})
    case_id = planned_case(field, settings)
    field.send(30)  # traffic goes on: it is no part of the window
    for person in ("ada", "grace"):
        while (task := field.book.next_task(case_id, person)) is not None:
            truth = field.truth[task.request_id, task.row]
            # One of them has her own idea of the first question; a third person decides.
            wrong = person == "grace" and task.position == 0
            field.book.submit(task.id, (truth + 1) % 4 if wrong else truth, person)
    field.answer(case_id)
    case = work(field, settings, case_id)
    assert case.state is CaseState.ACCEPTED, case.reason

    # The dataset: MLflow knows its kind by the entry point, and it reads the same rows again.
    source = dataset_sources(case.run_id or "")["field-log-window"]
    assert type(source) is FieldLogWindow
    table = source.load(columns=["request_id"])
    assert table.num_rows == source.rows == 150
    assert set(table.column("request_id").to_pylist()) == {f"{number:08d}" for number in range(30)}
    assert source.load().column("input").null_count == 0

    # The walk, from both ends.
    lineage = version_lineage(field.name, "2", look_into_log=True)
    newest, first = lineage.links
    assert (newest.version, newest.parent_version, newest.aliases) == ("2", "1", ("candidate",))
    assert (first.version, first.parent_version, first.children, first.repair) == ("1", None, ("2",), None)
    assert newest.run_id == case.run_id
    assert newest.rows_left == 150
    repair = cast("dict[str, Any]", newest.repair)
    assert repair["event"]["summary"] == "mmd 0.3 > 0.01"
    assert repair["labels"]["people"] == {"ada": 62, "grace": 62, "labeller": 1}
    assert repair["labels"]["agreement"]["agreed"] == 61
    forward = case_lineage(field.book, case_id)
    assert [one.links[0].version for one in forward.versions] == ["2"]

    book = f"sqlite:///{field.folder}/case_book.db"
    run_lineage(f"models:/{field.name}@candidate", book, as_json=False, look_into_log=True)
    said = capsys.readouterr().out
    for part in (f"models:/{field.name}/2 @candidate", f"models:/{field.name}/1", "150 rows of", "all of them still"):
        assert part in said
    run_lineage(f"case:{case_id}", book, as_json=True, look_into_log=False)
    assert json.loads(capsys.readouterr().out)["versions"][0]["links"][1]["version"] == "1"

    # Retention takes rows away, and the source says so instead of giving less.
    assert field.log.delete_before(date(2023, 11, 15)) == 180
    with pytest.raises(FieldInputsMissingError, match=r"holds 0 of the 150 rows .* retention"):
        source.load()
    assert source.load(partial=True).num_rows == 0
    assert version_lineage(field.name, "2", look_into_log=True).links[0].rows_left == 0

    # The card is an artifact beside its pictures, and the description of the version.
    folder = Path(MlflowClient().download_artifacts(case.run_id or "", "repair", str(field.folder)))
    card = (folder / "model_card.md").read_text(encoding="utf-8")
    assert case.acceptance is not None
    verdict = cast("dict[str, Any]", case.acceptance)
    for part in (
        "mmd 0.3 \\> 0.01",
        f"| field (acceptance sample) | 40 | {verdict['field']['champion_accuracy']['value']:.1%} [",
        "- 22 field inputs to learn from (budget 22), 40 to judge by",
        "By 3 people: ada (62), grace (62), labeller (1)",
        "- Agreement: 61 of 62 inputs that two people labelled, Cohen's kappa 0.",
        "- Every class had enough reference inputs to be judged.",
        f'set_registered_model_alias("{field.name}", "champion", "1")',
        "![repaired](repaired.png)",
        "recipe paper",
        f"150 rows of `{settings.field_log_uri}`",
    ):
        assert part in card, part
    assert all((folder / name).exists() for name in ("repaired.png", "broken.png"))
    description = MlflowClient().get_model_version(field.name, "2").description or ""
    assert len(description) <= DESCRIPTION_LIMIT
    assert description.startswith(f"# {field.name}: repair of version 1")
    assert "## Approve, and roll back" in description


def test_generations_and_gaps(field: Field) -> None:
    candidate = make_candidate(field)
    assert register_candidate(candidate) == "2"
    grandchild = dataclasses.replace(candidate, case=dataclasses.replace(candidate.case, model_version="2"))
    assert register_candidate(grandchild) == "3"
    links = version_lineage(field.name, "3").links
    assert [link.version for link in links] == ["3", "2", "1"]
    assert links[0].repair is None  # a run without a record of it
    client = MlflowClient()
    client.delete_model_version(field.name, "1")
    assert version_lineage(field.name, "3").links[-1].registered_ms is None
    with pytest.raises(ModelVersionMissingError):
        version_lineage(field.name, "1")


def test_a_target_that_is_none(field: Field, tmp_path: Path) -> None:
    with pytest.raises(ModelUriError, match=r"expected models:/NAME/VERSION, .* or case:ID, got 'seven'"):
        run_lineage("seven", "sqlite:///none.db", as_json=False, look_into_log=False)
    with pytest.raises(StoreError, match="there is no case book at"):
        run_lineage("case:1", f"sqlite:///{tmp_path}/none.db", as_json=False, look_into_log=False)
    assert not (tmp_path / "none.db").exists()


def test_a_window_survives_json(tmp_path: Path) -> None:
    window = FieldLogWindow(
        str(tmp_path), "m", "1", {"a": (1, 2)}, {"a": [9, 0], "b": (3, 4)}, rows=5, first_ms=1, last_ms=2
    )
    again = FieldLogWindow.from_json(window.to_json())
    assert isinstance(again, FieldLogWindow)
    assert again.to_dict() == window.to_dict()
    assert not np.any([FieldLogWindow._can_resolve(str(tmp_path))])  # pyright: ignore[reportPrivateUsage]


def test_the_address_of_a_run_tells_no_password(field: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = MlflowClient().get_model_version(field.name, "1").run_id or ""
    page = run_url(run_id)
    assert page.startswith("#/experiments/")
    monkeypatch.setattr(repair_run.mlflow, "get_tracking_uri", lambda: "https://ada:secret@mlflow.example/base/")
    client = MlflowClient(tracking_uri=str(mlflow.get_registry_uri()))
    monkeypatch.setattr(repair_run.mlflow, "MlflowClient", lambda: client)
    assert run_url(run_id) == f"https://mlflow.example/base/{page}"
