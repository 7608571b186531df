"""``mlflow.models.evaluate(..., evaluators="fieldrepair")``, against the acceptance test itself."""

from __future__ import annotations

import importlib
import json
from typing import Any

import mlflow
import numpy as np
import numpy.typing as npt
import pytest
from mlflow.artifacts import load_text
from mlflow.models import MetricThreshold
from mlflow.models.evaluation.validation import ModelValidationFailedException

from fieldrepair_plugin.acceptance import Predictions, judge, verdict_metrics
from fieldrepair_service.errors import InputError
from tests.plugin.conftest import CLASSES, Registry, quadrants

# Neither has types here.
pd: Any = importlib.import_module("pandas")
mlflow_evaluate: Any = importlib.import_module("mlflow.models").evaluate
load_pyfunc: Any = importlib.import_module("mlflow.pyfunc").load_model
Table = Any


def answers(n: int, right: float, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Labels of 4 classes, and answers of which about the share ``right`` is right."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 4, n)
    wrong = (labels + generator.integers(1, 4, n)) % 4
    return labels, np.where(generator.random(n) < right, labels, wrong)


@pytest.fixture
def table() -> Table:
    """A hundred field inputs that the candidate answers better, and a thousand reference inputs."""
    parts: list[Table] = []
    for sample, n, before, after in (("field", 100, 0.5, 0.9), ("reference", 1000, 0.95, 0.95)):
        labels, champion = answers(n, before, seed=1)
        same, candidate = answers(n, after, seed=1)
        assert (labels == same).all()
        part = pd.DataFrame({"label": labels, "old": champion, "new": candidate})
        parts.append(part.assign(sample=sample))
    return pd.concat(parts, ignore_index=True)


def evaluate(table: Table, **config: object) -> Any:
    return mlflow_evaluate(
        data=table,
        targets="label",
        predictions="new",
        model_type="classifier",
        evaluators="fieldrepair",
        evaluator_config={"champion_predictions": "old", "sample": "sample", **config},
    )


def test_a_table_is_judged_by_the_acceptance_test(registry: Registry, table: Table) -> None:
    with mlflow.start_run() as run:
        result = evaluate(table, class_names=list(CLASSES), margin=0.02)

    def sample(name: str) -> Predictions:
        rows = table[table["sample"] == name]
        return Predictions(rows["old"].to_numpy(), rows["new"].to_numpy(), rows["label"].to_numpy())

    verdict = judge(sample("field"), sample("reference"), CLASSES, margin=0.02)
    assert verdict.accepted
    assert result.metrics == verdict_metrics(verdict)
    stored = mlflow.get_run(run.info.run_id)
    assert stored.data.metrics == pytest.approx(result.metrics)
    logged = load_text(f"{stored.info.artifact_uri}/fieldrepair_verdict.json")
    assert (
        json.loads(logged)
        == json.loads(json.dumps(verdict.to_json()))
        == result.artifacts["fieldrepair_verdict"].content
    )


def test_thresholds_hold_against_its_numbers(registry: Registry, table: Table) -> None:
    with mlflow.start_run():
        result = evaluate(table, margin=0.02)
    passes = {"mcnemar_p": MetricThreshold(threshold=0.05, greater_is_better=False)}
    mlflow.validate_evaluation_results(passes, result)
    fails = {"negative_flips": MetricThreshold(threshold=-1, greater_is_better=False)}
    with pytest.raises(ModelValidationFailedException, match="negative_flips"):
        mlflow.validate_evaluation_results(fails, result)


def test_names_and_numbers_of_classes_mean_the_same(registry: Registry, table: Table) -> None:
    named = table.copy()
    for column in ("label", "old", "new"):
        named[column] = [CLASSES[number] for number in table[column]]
    with mlflow.start_run():
        by_number = evaluate(table, class_names=list(CLASSES))
    with mlflow.start_run():
        by_name = evaluate(named, class_names=list(CLASSES))
    assert by_number.metrics == by_name.metrics


def test_two_versions_are_compared_on_the_hand_overs_reference(registry: Registry) -> None:
    inputs, labels = quadrants(60, seed=9)
    candidate = load_pyfunc(f"models:/{registry.name}/2")
    champion = load_pyfunc(f"models:/{registry.name}/1")
    with mlflow.start_run():
        result = mlflow_evaluate(
            model=f"models:/{registry.name}/2",
            data=inputs.reshape(60, -1),
            targets=labels,
            model_type="classifier",
            evaluators="fieldrepair",
            evaluator_config={"champion": f"models:/{registry.name}/1"},
        )
    val_x, val_y = quadrants(300, seed=2)  # what the fixture handed over
    for name, x, y in (("field", inputs, labels), ("reference", val_x, val_y)):
        for when, model in (("before", champion), ("after", candidate)):
            right = float((np.asarray(model.predict(x)).argmax(axis=1) == y).mean())
            assert result.metrics[f"{name}_accuracy_{when}"] == pytest.approx(right)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"champion": "models:/quadrants/1"}, "name the champion once"),
        ({"sample": None}, "needs sample"),
        ({"champion_predictions": "older"}, "no column 'older'"),
        ({"class_names": ["left", "right", "up", "down"], "sample": "old"}, "says field or reference"),
        ({"margin": 2}, "margin: Input should be less than 1"),
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
    ],
)
def test_a_wrong_configuration_says_what_is_expected(
    registry: Registry, table: Table, config: dict[str, object], says: str
) -> None:
    with mlflow.start_run(), pytest.raises(InputError, match=says):
        evaluate(table, **config)


def test_a_class_that_nobody_knows_is_refused(registry: Registry, table: Table) -> None:
    table["old"] = "somewhere"
    with (
        mlflow.start_run(),
        pytest.raises(InputError, match=r"champion's answers: .*'somewhere'.* none of the classes"),
    ):
        evaluate(table, class_names=list(CLASSES))


def test_inputs_of_another_size_are_refused(registry: Registry) -> None:
    with mlflow.start_run(), pytest.raises(InputError, match=r"one row of 64 numbers.*got \(5, 63\)"):
        mlflow_evaluate(
            model=f"models:/{registry.name}/2",
            data=np.zeros((5, 63), dtype=np.float32),
            targets=np.zeros(5, dtype=np.int64),
            model_type="classifier",
            evaluators="fieldrepair",
            evaluator_config={"champion": f"models:/{registry.name}/1"},
        )
