"""``log_model``: log a PyTorch classifier to MLflow together with what is needed to watch and repair it."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import mlflow
from mlflow import pytorch as mlflow_pytorch
from mlflow.models import ModelSignature
from torch import nn

from fieldrepair_monitoring.handover import HANDOVER_TAG, HandOver
from fieldrepair_monitoring.reference import Reference
from fieldrepair_monitoring.registry import registry_errors
from fieldrepair_plugin.handover_check import prepare_handover
from fieldrepair_plugin.handover_store import store_handover
from fieldrepair_plugin.logits_only import answers_with_object, logits_only, pickled_whole
from fieldrepair_plugin.signatures import FRAME_DTYPE, default_signature, feature_columns
from fieldrepair_service.inputs import InputSpec, TabularInput

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelInfo:
    """Where a model went."""

    model_uri: str
    """``models:/NAME/VERSION`` if registered, else MLflow's URI of the logged model."""
    name: str | None
    """Registered model, or None if it was not registered."""
    version: str | None
    """Its version, or None if it was not registered."""
    run_id: str
    """The run that holds model and hand-over."""
    handover_uri: str
    """The hand-over's folder."""
    handover: HandOver
    """What was stored."""


def log_model(
    module: nn.Module,
    *,
    name: str = "model",
    reference: Reference | str | Path,
    class_names: Sequence[str] | None = None,
    input: InputSpec | None = None,
    embedding_layer: str | None = None,
    registered_model_name: str | None = None,
    allow_poor_accuracy: bool = False,
    **mlflow_options: Any,
) -> ModelInfo:
    """Log a model, register it if asked, and store its hand-over.

    Like ``mlflow.pytorch.log_model``, it uses the active run, and makes one if there is none. Everything is checked
    before anything is logged, and the registered version carries its hand-over from its first moment.

    Args:
        module: a classifier: served instances as a tensor in, ``(n, classes)`` out. Logged in evaluation mode. One that
            answers with an object that has ``logits`` (HuggingFace's) is logged so that it answers with these alone.
        name: name of the logged model within the run.
        reference: reference set, or the ``.npz`` file that holds it (see :class:`Reference`).
        class_names: one per output; default ``"0", "1", ...``.
        input: how a served instance is laid out and scaled; default: guessed where the reference leaves no doubt.
        embedding_layer: layer whose input is the embedding; default: the linear or convolutional one that runs last.
        registered_model_name: register the model as a new version of this name.
        allow_poor_accuracy: take a model that is right on the reference no more often than chance.
        mlflow_options: passed on to ``mlflow.pytorch.log_model`` (``pip_requirements``, ``code_paths``, ...). Without a
            ``signature``, the model server takes table rows as data frames with named columns, all else as tensors.

    Raises:
        HandOverMismatchError: model, reference set and description contradict each other.
        ReferenceSetError: the reference set cannot be read.
        UnsupportedModelError: the model is of a kind that cannot be repaired.
        RegistryError: MLflow could not take it.
    """
    refused = {"serialization_format", "export_model"} & set(mlflow_options)
    if refused:
        raise TypeError(f"log_model sets {', '.join(sorted(refused))} itself: only pickled modules can be repaired")
    if not isinstance(reference, Reference):
        reference = Reference.load_npz(Path(reference))
    if answers_with_object(module, reference.val_x[:2], input):
        module = logits_only(module, input)
    checked = prepare_handover(
        module,
        reference,
        class_names=class_names,
        input=input,
        columns=_columns(input, mlflow_options),
        embedding_layer=embedding_layer,
        allow_poor_accuracy=allow_poor_accuracy,
    )
    for note in checked.notes:
        logger.warning("%s", note)
    handover = checked.handover
    if mlflow.active_run() is not None:
        return _log(module, name, handover, registered_model_name, mlflow_options)
    with mlflow.start_run():
        return _log(module, name, handover, registered_model_name, mlflow_options)


def _log(
    module: nn.Module, name: str, handover: HandOver, registered_model_name: str | None, options: dict[str, Any]
) -> ModelInfo:
    run = mlflow.active_run()
    if run is None:
        raise RuntimeError("log_model lost its MLflow run")
    run_id = str(run.info.run_id)
    if "signature" not in options:
        options = {**options, "signature": default_signature(handover)}
    # Older MLflow knows one format only, the one we need, and no such option.
    log = cast(Callable[..., Any], mlflow_pytorch.log_model)
    if "serialization_format" in inspect.signature(log).parameters:
        options = {**options, "serialization_format": "pickle"}
    uri = store_handover(run_id, handover)
    with registry_errors(f"model {registered_model_name or name}"), pickled_whole():
        logged = log(module.eval(), name=name, **options)
        # Also on the logged model, so that a version registered from it later finds its hand-over.
        mlflow.MlflowClient().set_logged_model_tags(str(logged.model_id), {HANDOVER_TAG: uri})
        if registered_model_name is None:
            return ModelInfo(str(logged.model_uri), None, None, run_id, uri, handover)
        version = str(
            mlflow.register_model(str(logged.model_uri), registered_model_name, tags={HANDOVER_TAG: uri}).version
        )
    model_uri = f"models:/{registered_model_name}/{version}"
    return ModelInfo(model_uri, registered_model_name, version, run_id, uri, handover)


def _columns(input: InputSpec | None, options: dict[str, Any]) -> tuple[str, ...] | None:
    """Names of the columns that the model server will take: those of the signature, else those of the table rows."""
    signature = cast("ModelSignature | None", options.get("signature"))
    if signature is not None:
        return feature_columns(signature)
    return input.features if isinstance(input, TabularInput) and input.dtype == FRAME_DTYPE else None
