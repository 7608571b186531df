"""What a training repair is about: a registered version, its data, and how it was trained as far as that is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import mlflow
import numpy as np
import torch
from torch import nn

from fieldrepair_monitoring.errors import ModelVersionMissingError, RegistryError
from fieldrepair_monitoring.handover import HandOver, load_handover, load_module
from fieldrepair_monitoring.registry import model_version, registry_errors
from fieldrepair_plugin.model_uri import parse_model_uri, wanted_version
from fieldrepair_plugin.repairable import RepairableModel, TrainingSet
from fieldrepair_plugin.training_repair.data import TrialData, split_for_trials
from fieldrepair_plugin.training_repair.data_checks import output_kind
from fieldrepair_plugin.training_repair.losses import fitting_loss
from fieldrepair_plugin.training_repair.plan import TrainingPlan, plan_from_params
from fieldrepair_plugin.training_repair.strategy import trial_data
from fieldrepair_plugin.training_repair.transforms import Network

Start = Literal["auto", "weights", "fresh"]
POOR = 0.6
"""Accuracy below which ``auto`` examines the stored weights: that is where training got stuck."""


@dataclass(frozen=True)
class Patient:
    """A registered version, ready to be examined or trained anew."""

    name: str
    version: str
    handover: HandOver
    module: nn.Module
    network: Network
    data: TrialData
    """The reference set's training inputs, split; its validation inputs are not among them: they are sealed."""
    given: TrainingPlan
    """How it was trained, as far as that is known."""
    known: tuple[str, ...]
    """One sentence for each knob that is known, and for each that could not be read."""
    assumed: tuple[str, ...]
    """Knobs that nobody said anything about."""

    @property
    def uri(self) -> str:
        """Its name in the registry."""
        return f"models:/{self.name}/{self.version}"

    def from_start(self, start: Start) -> tuple[TrainingPlan, str]:
        """The given plan with where it starts from, and that in words."""
        accuracy = self.handover.reference_accuracy
        if start == "weights" or (start == "auto" and accuracy < POOR):
            why = f", because it is right on {accuracy:.1%} only" if start == "auto" else ""
            return self.given.but(initialisation="keep"), f"from the version's weights{why}"
        return self.given.but(initialisation="default"), "from fresh weights, as each layer draws them"


def admit(
    model_uri: str,
    told: Mapping[str, Any],
    *,
    seed: int,
    device: str = "cpu",
    most_inputs: int | None = None,
    cache: Path | None = None,
) -> Patient:
    """Load a version with its reference set, and find out how it was trained.

    Args:
        model_uri: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.
        told: knobs of its training that the caller knows; they outrank the run's params.
        seed: of the split into training and choosing inputs.
        device: where to train.
        most_inputs: at most so many training inputs are used, drawn at random.
        cache: where hand-overs are kept.

    Raises:
        ModelUriError: the URI cannot be read, or nothing is there.
        HandOverMissingError: the version has no hand-over.
        UnsupportedModelError: the version is no pickled PyTorch module.
        RegistryError: MLflow could not answer.
        InputError: the reference set is too small to set something aside.
    """
    target = parse_model_uri(model_uri)
    name, version = target.name, wanted_version(target)
    handover = load_handover(name, version, cache)
    module = load_module(name, version).to(device)
    model = RepairableModel(module, handover.input, handover.embedding_layer, handover.output)
    reference = TrainingSet(handover.reference.train_x, handover.reference.train_y)
    if most_inputs is not None and len(reference.y) > most_inputs:
        kept, _ = split_for_trials(reference.y, 1 - most_inputs / len(reference.y), seed)
        reference = TrainingSet(reference.x[kept], reference.y[kept])
    data = trial_data(model, reference, reference.x[:0], {}, seed)
    network = Network(module.to(memory_format=torch.contiguous_format), data.train_x[:2])
    params = _run_params(name, version)
    plan, found, refused = plan_from_params(params)
    known = [f"{knob} {getattr(plan, knob)}, the run's param {param}" for knob, param in found.items()]
    known += [f"the run's param {param} cannot be read: {why}" for param, why in refused.items()]
    said = {knob: value for knob, value in told.items() if value is not None}
    plan = plan.but(**said)
    known += [f"{knob} {value}, as told" for knob, value in said.items()]
    if "loss" not in found and "loss" not in said:
        plan = plan.but(loss=fitting_loss(output_kind(module, data.train_x)))
    assumed = [
        f"{knob} {getattr(plan, knob)}"
        for knob in ("optimiser", "learning_rate", "batch_size", "epochs", "loss")
        if knob not in found and knob not in said
    ]
    return Patient(name, version, handover, module, network, data, plan, tuple(known), tuple(assumed))


def sealed_answers(module: nn.Module, patient: Patient) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Classes that a module answers for the validation inputs of the reference set: ``(v,)``."""
    handover = patient.handover
    model = RepairableModel(module, handover.input, handover.embedding_layer, handover.output)
    pixels = model.pixels(handover.reference.val_x, "validation set")
    logits, _ = model.logits_and_embeddings(pixels, 512)
    return logits.argmax(axis=1).astype(np.int64)


def _run_params(name: str, version: str) -> dict[str, str]:
    """Params of the run that logged the version; none if it has no run any more."""
    run_id = model_version(name, version).run_id
    if not run_id:
        return {}
    try:
        with registry_errors(f"run {run_id}"):
            return dict(mlflow.MlflowClient().get_run(run_id).data.params)
    except (ModelVersionMissingError, RegistryError):
        return {}
