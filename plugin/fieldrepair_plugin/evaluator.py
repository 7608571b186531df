"""``mlflow.models.evaluate(..., evaluators="fieldrepair")``: the acceptance test as a model evaluator of MLflow.

It compares a candidate with the champion on labelled field inputs and on labelled reference inputs, by the very code
that decides about a repair (:func:`fieldrepair_plugin.acceptance.judge`), logs the numbers and the whole verdict to the
run, and returns them, so that ``mlflow.validate_evaluation_results`` can hold thresholds against them.

Two ways to say what was answered:

* models: ``model`` is the candidate, ``evaluator_config={"champion": "models:/NAME/VERSION"}``. ``data`` are the field
  inputs, ``(n, numbers per input)``; the reference inputs are the validation set of the champion's hand-over.
* a table: no ``model``; ``data`` is a DataFrame with ``targets`` and ``predictions`` (the candidate's answers),
  ``evaluator_config={"champion_predictions": COLUMN, "sample": COLUMN}``, the latter saying ``field`` or ``reference``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import numpy.typing as npt
from mlflow.models.evaluation.artifacts import JsonEvaluationArtifact
from mlflow.models.evaluation.base import EvaluationResult, ModelEvaluator
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fieldrepair_service.errors import InputError
from fieldrepair_service.inputs import InputSpec, TabularInput

if TYPE_CHECKING:
    from mlflow.models.evaluation import EvaluationArtifact

    from fieldrepair_plugin.acceptance import Predictions, Verdict

VERDICT = "fieldrepair_verdict"
"""Name of the artifact that holds the whole verdict."""

Answers = npt.NDArray[np.int64]


class Data(Protocol):
    """What is used here of MLflow's ``EvaluationDataset``."""

    features_data: Any
    """DataFrame, or array ``(n, features)``."""
    labels_data: Any
    predictions_data: Any
    has_targets: bool
    has_predictions: bool


class Answering(Protocol):
    """What is used here of MLflow's ``PyFuncModel``."""

    def predict(self, data: Any) -> Any:
        """Scores, class numbers or class names."""
        ...


class EvaluatorConfig(BaseModel):
    """What ``evaluator_config`` may hold."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    champion: str | None = None
    """MLflow URI of the champion, ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``, with a hand-over."""

    champion_predictions: str | None = None
    """Column of a DataFrame with the champion's answers."""

    sample: str | None = None
    """Column of a DataFrame that says of each row whether it is a ``field`` or a ``reference`` input."""

    class_names: list[str] | None = Field(default=None, min_length=2)
    """Names of the classes, for a table. Default: what its columns hold."""

    margin: float = Field(default=0.01, gt=0, lt=1)
    """Largest acceptable loss of accuracy on the reference, as a share."""

    alpha: float = Field(default=0.05, gt=0, lt=1)
    """Level of both tests."""

    @model_validator(mode="after")
    def _one_way(self) -> EvaluatorConfig:
        if (self.champion is None) == (self.champion_predictions is None):
            raise ValueError(
                "name the champion once: either champion (an MLflow URI) or champion_predictions (a column)"
            )
        if self.champion_predictions is not None and self.sample is None:
            raise ValueError("champion_predictions needs sample, the column that says field or reference")
        return self


class FieldRepairEvaluator(ModelEvaluator):
    """The evaluator that MLflow finds under the name ``fieldrepair``."""

    @classmethod
    def can_evaluate(cls, *, model_type: str, evaluator_config: Mapping[str, object] | None, **_: object) -> bool:
        """Whether it can; it is for classifiers, and only where it was asked for (nobody else names a champion)."""
        return model_type == "classifier" and bool(evaluator_config)

    def evaluate(  # pyright: ignore[reportIncompatibleMethodOverride] - MLflow's own returns something, but is unannotated
        self,
        *,
        model_type: str,
        dataset: Data,
        run_id: str,
        evaluator_config: Mapping[str, object] | None,
        model: Answering | None = None,
        **_: object,
    ) -> EvaluationResult:
        """Judge the candidate, and log the verdict to the run.

        Returns:
            Metrics by the names in :func:`fieldrepair_plugin.acceptance.verdict_metrics`, and the whole verdict as the
            artifact ``fieldrepair_verdict``.

        Raises:
            InputError: for a configuration or data that cannot be judged.
            RegistryError: MLflow does not answer.
        """
        # Slow to import, and MLflow imports this module whenever it imports its own evaluators.
        from fieldrepair_plugin.acceptance import judge, verdict_metrics

        config = _config(evaluator_config)
        if config.champion_predictions is not None:
            field, reference, names = _from_table(dataset, config)
        else:
            field, reference, names = _from_models(dataset, model, config.champion or "")
        verdict = judge(field, reference, names, margin=config.margin, alpha=config.alpha)
        metrics = verdict_metrics(verdict)
        return EvaluationResult(metrics, _log(run_id, metrics, verdict), run_id)


def _config(given: Mapping[str, object] | None) -> EvaluatorConfig:
    try:
        return EvaluatorConfig.model_validate(dict(given or {}))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'config'}: {one['msg']}" for one in error.errors())
        raise InputError(f"evaluator_config of fieldrepair: {problems}") from error


def _from_table(dataset: Data, config: EvaluatorConfig) -> tuple[Predictions, Predictions, Sequence[str]]:
    """Answers that stand in a DataFrame."""
    from fieldrepair_plugin.acceptance import Predictions

    table = dataset.features_data
    if not hasattr(table, "columns") or not dataset.has_predictions or not dataset.has_targets:
        raise InputError(
            "champion_predictions needs data as a DataFrame with targets= (labels) and predictions= (the candidate's "
            "answers), and no model"
        )
    columns = [str(column) for column in table.columns]
    missing = [name for name in (config.champion_predictions, config.sample) if name not in columns]
    if missing:
        raise InputError(f"data has no column {', '.join(map(repr, missing))}; it has {columns}")
    samples: npt.NDArray[Any] = np.asarray(table[config.sample])
    strange = sorted({str(word) for word in samples} - {"field", "reference"})
    if strange:
        raise InputError(f"column {config.sample!r} says field or reference, got {strange[:5]}")
    answers: dict[str, npt.NDArray[Any]] = {
        "the labels": np.asarray(dataset.labels_data),
        "the candidate's answers": np.asarray(dataset.predictions_data),
        "the champion's answers": np.asarray(table[config.champion_predictions]),
    }
    words = np.concatenate([column.astype(str) for column in answers.values()])
    names: list[str] = config.class_names or np.unique(words).tolist()
    labels, candidate, champion = (_class_numbers(what, column, names) for what, column in answers.items())

    def sample(name: str) -> Predictions:
        chosen = samples == name
        return Predictions(champion[chosen], candidate[chosen], labels[chosen])

    return sample("field"), sample("reference"), names


def _from_models(
    dataset: Data, model: Answering | None, champion_uri: str
) -> tuple[Predictions, Predictions, Sequence[str]]:
    """Answers that two models give now."""
    import mlflow

    from fieldrepair_monitoring.handover import load_handover
    from fieldrepair_plugin.acceptance import Predictions
    from fieldrepair_plugin.model_uri import parse_model_uri, wanted_version

    if model is None or not dataset.has_targets:
        raise InputError("champion (an MLflow URI) needs a model (the candidate) and targets (labels)")
    target = parse_model_uri(champion_uri)
    version = wanted_version(target)
    handover = load_handover(target.name, version)
    champion = cast(Answering, mlflow.pyfunc.load_model(f"models:/{target.name}/{version}"))
    spec = handover.input
    shape, dtype = tuple(spec.shape), np.dtype(spec.dtype)
    by_name = isinstance(spec, TabularInput) and spec.by_name
    frame = cast(Callable[..., Any], importlib.import_module("pandas").DataFrame)  # pandas comes without annotations
    inputs = _rows_of(dataset.features_data, spec)
    if inputs.ndim != 2 or inputs.shape[1] != np.prod(shape):
        raise InputError(
            f"data needs one row of {np.prod(shape)} numbers per field input (served as {shape}), got {inputs.shape}"
        )
    names = handover.class_names

    def taken(x: npt.NDArray[Any]) -> Any:
        """As the models take them: by name, or as they come."""
        return frame(x, columns=list(spec.features)) if by_name and isinstance(spec, TabularInput) else x

    def answers(x: npt.NDArray[Any], labels: Answers) -> Predictions:
        before, after = (
            _class_numbers("a model's answers", np.asarray(one.predict(taken(x))), names) for one in (champion, model)
        )
        return Predictions(before, after, labels)

    labels = _class_numbers("the labels", np.asarray(dataset.labels_data), names)
    reference = handover.reference
    field = answers(inputs.reshape(len(inputs), *shape).astype(dtype, copy=False), labels)
    return field, answers(reference.val_x, reference.val_y), names


def _rows_of(data: Any, spec: InputSpec) -> npt.NDArray[Any]:
    """One row of numbers per input; of a DataFrame with named features those, in the order of the model."""
    columns = [str(column) for column in getattr(data, "columns", ())]
    if isinstance(spec, TabularInput) and set(spec.features) <= set(columns):
        data = data[list(spec.features)]
    return np.asarray(data)


def _class_numbers(what: str, given: npt.NDArray[Any], names: Sequence[str]) -> Answers:
    """Class numbers from scores ``(n, classes)``, class numbers ``(n,)`` or class names ``(n,)``."""
    if given.ndim == 2 and given.shape[1] == len(names):
        return given.argmax(axis=1).astype(np.int64)
    flat = given.reshape(len(given), -1)
    if flat.shape[1] != 1:
        raise InputError(f"{what}: expected one class, or {len(names)} scores, per input; got shape {given.shape}")
    words = cast(list[object], flat[:, 0].tolist())
    numbers = {name: number for number, name in enumerate(names)}
    if all(isinstance(word, str) or str(word) in numbers for word in words):
        strange = sorted({str(word) for word in words} - numbers.keys())
        if strange:
            raise InputError(f"{what}: {strange[:5]} are none of the classes {list(names)[:20]}")
        return np.asarray([numbers[str(word)] for word in words], dtype=np.int64)
    if not np.issubdtype(flat.dtype, np.integer):
        raise InputError(f"{what}: expected class numbers or names, got {flat.dtype} like {words[0]!r}")
    return flat[:, 0].astype(np.int64)


def _log(run_id: str, metrics: Mapping[str, float], verdict: Verdict) -> dict[str, EvaluationArtifact]:
    import mlflow

    client = mlflow.MlflowClient()
    for name, value in metrics.items():
        client.log_metric(run_id, name, value)
    content = verdict.to_json()
    file = f"{VERDICT}.json"
    artifact = JsonEvaluationArtifact(uri=f"{client.get_run(run_id).info.artifact_uri}/{file}", content=content)
    with TemporaryDirectory() as folder:
        artifact._save(str(Path(folder, file)))  # pyright: ignore[reportPrivateUsage] - how MLflow's own evaluators do
        client.log_artifact(run_id, str(Path(folder, file)))
    return {VERDICT: artifact}
