"""``doctor`` and ``retrain`` on registered versions, as a person calls them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from torch import nn

from fieldrepair_monitoring.handover import load_handover, load_module
from fieldrepair_monitoring.reference import Reference
from fieldrepair_plugin import log_model
from fieldrepair_plugin.training_repair.doctor import diagnose_version
from fieldrepair_service.cli import main
from tests.plugin.conftest import CLASSES, SPEC, quadrants

if TYPE_CHECKING:
    from tests.plugin.conftest import Registry


@pytest.fixture
def poor(registry: Registry, tmp_path: Path) -> str:
    """A version that was poor from the start: trained with a learning rate of one in a million."""
    name = f"poor-{tmp_path.name}"
    reference = Reference(*quadrants(200, seed=1), *quadrants(600, seed=2))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4))
    with mlflow.start_run():
        mlflow.log_params({"optimizer": "SGD", "lr": 1e-6, "batch_size": 20, "epochs": 6, "criterion": "unheard of"})
        log_model(
            network,
            reference=reference,
            class_names=CLASSES,
            input=SPEC,
            registered_model_name=name,
            allow_poor_accuracy=True,
            pip_requirements=["torch"],
        )
    return name


def test_the_doctor_names_what_is_wrong_and_exits_with_3(poor: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", f"models:/{poor}/1"])
    assert ended.value.code == 3
    text = capsys.readouterr().out
    assert "slow_convergence (after epoch 3)" in text
    assert "do:     raise the learning rate" in text
    assert "learning_rate 1e-06, the run's param lr" in text
    assert "the run's param criterion cannot be read: 'unheard of'" in text
    assert "from the version's weights, because it is right on" in text
    assert f"next: fieldrepair retrain models:/{poor}/1" in text
    with pytest.raises(SystemExit):
        main(["doctor", f"models:/{poor}/1", "--output", "json"])
    found = json.loads(capsys.readouterr().out)
    assert [each["problem"] for each in found["findings"]] == ["slow_convergence"]
    assert found["plan"]["learning_rate"] == 1e-6
    assert len(found["epochs"]) == 3


def test_the_doctor_finds_nothing_wrong_with_a_healthy_version(
    registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    before = MlflowClient().get_model_version(registry.name, "1")
    assert main(["doctor", f"models:/{registry.name}/1", "--learning-rate", "0.02", "--training-epochs", "8"]) == 0
    text = capsys.readouterr().out
    assert text.endswith("nothing wrong was found\n")
    assert "from fresh weights" in text
    assert "assumed: optimiser adam, batch_size 32, loss cross_entropy" in text
    assert MlflowClient().get_model_version(registry.name, "1").tags == before.tags


def test_the_doctor_says_what_a_wrong_model_is(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "models:/nothing/1"]) == 1
    assert "there is no model version" in capsys.readouterr().err
    assert main(["doctor", f"models:/{registry.name}/1", "--learning-rate", "-1"]) == 2


def test_a_version_that_was_poor_from_the_start_is_trained_anew_and_waits_for_approval(
    poor: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--strategy", "guided", "--trainings", "4", "--fresh-seeds", "5", "--random-arm"]
    command = ["retrain", f"models:/{poor}/1", *options, "--state-dir", str(tmp_path), "--margin", "0.05"]
    assert main([*command, "--output", "json"]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert report["accepted"]
    assert report["version"] == "2"
    assert report["arm"]["spent"] <= report["arm"]["budget"] == 24
    assert report["random_arm"]["spent"] == 24
    assert report["arm"]["sealed"] > report["before"] + 0.3
    assert report["over_seeds"]["p_value"] == pytest.approx(1 / 32)
    assert [each["problem"] for each in report["findings"]] == ["slow_convergence"]
    client = MlflowClient()
    assert str(client.get_model_version_by_alias(poor, "candidate").version) == "2"
    version = client.get_model_version(poor, "2")
    assert version.tags["fieldrepair.parent_version"] == "1"
    assert "learning_rate" in str(version.description)
    # The new version is what was measured, and can itself be watched and repaired.
    handover = load_handover(poor, "2")
    with torch.no_grad():
        answers = load_module(poor, "2")(torch.from_numpy(handover.reference.val_x)).argmax(dim=1).numpy()
    assert float((answers == handover.reference.val_y).mean()) == pytest.approx(report["arm"]["sealed"])
    run_id = str(version.run_id)
    run = client.get_run(run_id)
    assert run.data.metrics["field_accuracy_after"] == pytest.approx(report["arm"]["sealed"])
    assert {each.path for each in client.list_artifacts(run_id, "repair")} == {
        "repair/report.json",
        "repair/report.txt",
    }


def test_no_repair_found_is_a_result(registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = MlflowClient().search_model_versions(f"name = '{registry.name}'")
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "retrain", f"models:/{registry.name}/1", "--trainings", "2", "--training-epochs", "2",
                "--fresh-seeds", "0", "--state-dir", str(tmp_path),
            ]
        )  # fmt: skip
    assert ended.value.code == 3
    text = capsys.readouterr().out
    assert text.endswith("no repair found: the version stays as it is\n")
    assert "field: cannot show the candidate is better" in text
    assert len(MlflowClient().search_model_versions(f"name = '{registry.name}'")) == len(before)


def test_scaled_and_fresh_starts_can_be_asked_for(poor: str) -> None:
    fresh = diagnose_version(f"models:/{poor}/1", {"learning_rate": 0.05, "optimiser": "adam"}, start="fresh")
    assert fresh.examination.findings == ()
    assert fresh.plan.initialisation == "default"
    assert fresh.examination.epochs[-1].val_accuracy > 0.9
    stuck = diagnose_version(f"models:/{poor}/1", {}, start="weights", most_inputs=100)
    assert len(stuck.patient.data.train_y) + len(stuck.patient.data.val_y) == pytest.approx(100, abs=4)
    assert np.array_equal(np.unique(stuck.patient.data.train_y), np.arange(4))
