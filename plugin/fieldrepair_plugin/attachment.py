"""``fieldrepair attach``: store a hand-over with a model version that was logged without one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import numpy.typing as npt
from mlflow.entities import LifecycleStage

from fieldrepair_monitoring.errors import ModelVersionMissingError
from fieldrepair_monitoring.handover import HandOver, load_module
from fieldrepair_monitoring.reference import Reference, read_arrays
from fieldrepair_monitoring.registry import model_version, registry_errors, version_signature
from fieldrepair_plugin.handover_check import prepare_handover
from fieldrepair_plugin.handover_store import write_handover
from fieldrepair_plugin.logits_only import answers_with_object
from fieldrepair_plugin.model_uri import parse_model_uri, wanted_version
from fieldrepair_plugin.rebuilding import Factory, rebuild, store_module
from fieldrepair_plugin.signatures import feature_columns
from fieldrepair_service.inputs import InputSpec

EXPERIMENT = "fieldrepair"


@dataclass(frozen=True)
class Attached:
    """What was stored, and where."""

    name: str
    """Registered model."""
    version: str
    """Its version."""
    run_id: str
    """The run that holds the hand-over."""
    handover_uri: str
    """The hand-over's folder."""
    handover: HandOver
    """What was stored."""
    notes: tuple[str, ...]
    """What was guessed, and what looks odd; one sentence each."""


def attach(
    model_uri: str,
    reference: Reference | str | Path,
    *,
    class_names: Sequence[str] | None = None,
    input: InputSpec | None = None,
    embedding_layer: str | None = None,
    factory: Factory | str | None = None,
    state_dict: str | Path | None = None,
    code_paths: Sequence[str | Path] = (),
    allow_poor_accuracy: bool = False,
    device: str = "cpu",
) -> Attached:
    """Check a registered version against a reference set and store the hand-over with it.

    Args:
        model_uri: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.
        reference: reference set, or the ``.npz`` file that holds it (see :class:`Reference`); the file may also hold
            ``class_names``, and of table rows ``feature_names``.
        class_names: one per output; default: those of the file, else ``"0", "1", ...``.
        input: how a served instance is laid out and scaled; default: guessed where the reference leaves no doubt.
        embedding_layer: layer whose input is the embedding; default: the linear or convolutional one that runs last.
        factory: of a version logged as pt2, which cannot be trained: what makes its network anew, untrained; a function
            without arguments, or ``"MODULE:FUNCTION"``.
        state_dict: of such a version, the file with its weights (``torch.save(module.state_dict(), FILE)``); default:
            those in the version itself.
        code_paths: files or folders that define the network; stored with it, so that others can load it.
        allow_poor_accuracy: take a model that is right on the reference no more often than chance.
        device: where to run the model for the check.

    Raises:
        ModelUriError: the URI cannot be read, or nothing is there.
        ReferenceSetError: the reference set cannot be read.
        HandOverMismatchError: model, reference set and description contradict each other.
        UnsupportedModelError: the version is no pickled PyTorch module, and cannot be made one from what is given.
        RegistryError: MLflow could not answer or could not take the hand-over.
    """
    target = parse_model_uri(model_uri)
    name, version = target.name, wanted_version(target)
    feature_names: list[str] | None = None
    if not isinstance(reference, Reference):
        path = Path(reference)
        arrays = read_arrays(path)
        class_names = _stored_names(arrays, "class_names") if class_names is None else class_names
        feature_names = _stored_names(arrays, "feature_names")
        reference = Reference.load_npz(path)
    columns = feature_columns(version_signature(name, version))
    if factory is None and state_dict is None:
        module, rebuilt = load_module(name, version), None
    else:
        rebuilt = rebuild(name, version, factory, state_dict, code_paths, reference)
        module = rebuilt.module
    checked = prepare_handover(
        module,
        reference,
        class_names=class_names,
        input=input,
        feature_names=feature_names,
        columns=columns,
        embedding_layer=embedding_layer,
        allow_poor_accuracy=allow_poor_accuracy,
        device=device,
    )
    notes = list(checked.notes)
    if answers_with_object(module, reference.val_x[:2], checked.handover.input):
        notes.append(
            "the model answers with an object; monitor and repair read its logits, but MLflow's scoring server refuses "
            "it: log it with fieldrepair_plugin.log_model to have it served by `fieldrepair up`"
        )
    run_id = _run_for(name, version)
    if rebuilt is not None:
        notes += rebuilt.notes
        store_module(run_id, name, version, rebuilt)  # before the hand-over, which makes the version watched
    uri = write_handover(run_id, name, version, checked.handover)
    return Attached(name, version, run_id, uri, checked.handover, tuple(notes))


def run_attach(
    model_uri: str,
    reference: Path,
    *,
    class_names: Sequence[str] | None = None,
    input: InputSpec | None = None,
    embedding_layer: str | None = None,
    factory: str | None = None,
    state_dict: Path | None = None,
    code_paths: Sequence[Path] = (),
    allow_poor_accuracy: bool = False,
    device: str = "cpu",
) -> None:
    """The command: :func:`attach`, then say on standard output what was stored."""
    attached = attach(
        model_uri,
        reference,
        class_names=class_names,
        input=input,
        embedding_layer=embedding_layer,
        factory=factory,
        state_dict=state_dict,
        code_paths=code_paths,
        allow_poor_accuracy=allow_poor_accuracy,
        device=device,
    )
    sys.stdout.write(describe(attached))


def describe(attached: Attached) -> str:
    """What a person should read after attaching."""
    handover = attached.handover
    reference = handover.reference
    lines = [f"note: {note}" for note in attached.notes]
    lines += [
        f"models:/{attached.name}/{attached.version} can now be watched and repaired",
        f"  classes            {len(handover.class_names)}: {', '.join(handover.class_names)}",
        f"  reference set      {len(reference.train_x)} training and {len(reference.val_x)} validation inputs",
        f"  accuracy           {handover.reference_accuracy:.1%} on the validation inputs",
        f"  embedding layer    {handover.embedding_layer} (its input)",
        f"  model's output     {handover.output}",
        f"  stored as          {attached.handover_uri}",
    ]
    return "\n".join(lines) + "\n"


def _stored_names(arrays: dict[str, npt.NDArray[Any]], which: str) -> list[str] | None:
    names = arrays.get(which)
    return None if names is None else [str(name) for name in np.atleast_1d(names)]


def _run_for(name: str, version: str) -> str:
    """The run that logged the version; a new one if it has none any more."""
    client = mlflow.MlflowClient()
    run_id = model_version(name, version).run_id
    if run_id:
        try:
            with registry_errors(f"run {run_id}"):
                if client.get_run(run_id).info.lifecycle_stage == LifecycleStage.ACTIVE:
                    return run_id
        except ModelVersionMissingError:
            run_id = None  # deleted for good: the version has outlived its run
    with registry_errors(f"experiment {EXPERIMENT}"):
        # Not mlflow.set_experiment: that would change where the caller's own runs go.
        experiment = client.get_experiment_by_name(EXPERIMENT)
        experiment_id = client.create_experiment(EXPERIMENT) if experiment is None else experiment.experiment_id
        run = client.create_run(experiment_id, run_name=f"attach {name} {version}")
        client.set_terminated(run.info.run_id)
    return str(run.info.run_id)
