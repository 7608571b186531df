"""``fieldrepair retrain``: search for a better training of a version, judge what was found, register it as candidate.

The reference set's training inputs are split: trials train on most, and are chosen by the rest. Its validation inputs
are sealed; they are what the acceptance test and the report look at, once everything has been chosen.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import numpy as np
from torch import nn

from fieldrepair_monitoring.handover import HANDOVER_TAG
from fieldrepair_monitoring.registry import registry_errors
from fieldrepair_plugin.acceptance import Predictions, Verdict, judge, verdict_metrics
from fieldrepair_plugin.case_progress import terminal_progress
from fieldrepair_plugin.model_logging import log_model
from fieldrepair_plugin.progress import Progress
from fieldrepair_plugin.randomness import derive_seed
from fieldrepair_plugin.registration import inherited, set_candidate
from fieldrepair_plugin.repair_run import ARTIFACT_FOLDER, EXPERIMENT
from fieldrepair_plugin.training_repair.examination import examine
from fieldrepair_plugin.training_repair.patient import Patient, admit, sealed_answers
from fieldrepair_plugin.training_repair.plan import TrainingPlan, vars_of
from fieldrepair_plugin.training_repair.report import Arm, OverSeeds, RetrainReport
from fieldrepair_plugin.training_repair.search import SearchResult, search
from fieldrepair_plugin.training_repair.training_loop import Training

if TYPE_CHECKING:
    from fieldrepair_plugin.commands import RetrainCommand

log = logging.getLogger(__name__)

NOT_FOUND = 3
"""Exit status where no repair was found."""


def retrain(
    model_uri: str,
    told: Mapping[str, Any],
    *,
    method: str,
    trainings: int = 20,
    random_arm: bool = False,
    fresh_seeds: int = 5,
    margin: float = 0.01,
    alpha: float = 0.05,
    seed: int = 0,
    device: str = "cpu",
    folder: Path,
    cache: Path | None = None,
    register: bool = True,
    progress: Progress | None = None,
) -> RetrainReport:
    """Search, judge, and register what was found if it is better.

    Stopped anywhere, it can be called again with the same arguments: trials that were run are not run again.

    Args:
        model_uri: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.
        told: knobs of the version's training, by the names of :class:`~.plan.TrainingPlan`.
        method: a search, see :data:`~.search.METHODS`.
        trainings: the budget, in trainings of the plan's epochs.
        random_arm: also spend the same budget on random draws, to compare with.
        fresh_seeds: train the given and the found plan anew under so many seeds; 0: not at all. This is no part of the
            budget.
        margin: largest acceptable loss of accuracy, per class where counts allow.
        alpha: level of the acceptance test.
        seed: of every draw.
        device: where to train.
        folder: where the searches are kept.
        cache: where hand-overs are kept.
        register: whether an accepted result becomes a version.
        progress: told of each epoch of a search.

    Raises:
        FieldRepairError: as :func:`~.patient.admit`; an unknown or absent search; a registry that does not answer.
    """
    patient = admit(model_uri, told, seed=seed, device=device, cache=cache)
    epochs = patient.given.epochs
    given, _ = patient.from_start("auto")
    findings = examine(patient.network, patient.data, given, derive_seed(seed, "doctor")).findings

    def searched(name: str) -> SearchResult:
        return search(
            name,
            patient.network,
            patient.data,
            given,
            epochs=epochs,
            budget=trainings * epochs,
            seed=seed,
            folder=folder / name,
            progress=progress,
        )

    result = searched(method)
    chance = searched("random") if random_arm and method != "random" else None
    over_seeds = _over_seeds(patient, result, given, fresh_seeds, seed)
    # Everything is chosen: only now is the sealed part looked at.
    reference = patient.handover.reference
    before = sealed_answers(patient.module, patient)
    after = before if result.best is None else sealed_answers(result.best.module, patient)
    answers = Predictions(before, after, reference.val_y)
    verdict = judge(answers, answers, patient.handover.class_names, margin=margin, alpha=alpha)
    report = RetrainReport(
        model=patient.uri,
        method=method,
        seed=seed,
        findings=findings,
        before=_share(before, reference.val_y),
        inputs=len(reference.val_y),
        arm=Arm(result, None if result.best is None else _share(after, reference.val_y)),
        random_arm=None if chance is None else Arm(chance, _sealed(chance, patient)),
        over_seeds=over_seeds,
        reasons=tuple(verdict.reasons),
        accepted=verdict.accepted,
        version=None,
    )
    return _record(patient, report, verdict, given, folder, register=register)


def _over_seeds(patient: Patient, result: SearchResult, given: TrainingPlan, seeds: int, seed: int) -> OverSeeds | None:
    """Both plans trained anew; accuracy on the inputs that are sealed."""
    if seeds == 0 or result.best is None or result.best.trial.number == 0:
        return None
    found = result.best.trial.plan
    labels = patient.handover.reference.val_y
    pairs = [
        tuple(
            _share(sealed_answers(_trained(patient, plan, derive_seed(seed, "fresh", at)), patient), labels)
            for plan in (given, found)
        )
        for at in range(seeds)
    ]
    return OverSeeds(tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs))


def _trained(patient: Patient, plan: TrainingPlan, seed: int) -> nn.Module:
    training = Training(patient.network, patient.data, plan, seed, instruments=False)
    while len(training.done) < plan.epochs and not training.broken:
        training.epoch()
    return training.finished()


def _record(
    patient: Patient, report: RetrainReport, verdict: Verdict, given: TrainingPlan, folder: Path, *, register: bool
) -> RetrainReport:
    """One run for all of it: settings, every trial, the verdict, the report; and the new version, if there is one."""
    result = report.arm.result
    with (
        registry_errors(f"run of retraining {patient.uri}"),
        mlflow.start_run(experiment_id=_experiment(), run_name=f"retrain {patient.name} {patient.version}"),
    ):
        mlflow.log_params(
            {
                "model_name": patient.name,
                "model_version": patient.version,
                "strategy": report.method,
                "seed": report.seed,
                "budget_epochs": result.budget,
                **{f"given_{name}": str(value) for name, value in vars_of(given).items()},
            }
        )
        numbers = {"trials": float(len(result.trials)), "epochs_spent": float(result.spent)}
        mlflow.log_metrics({**verdict_metrics(verdict), **numbers})
        for trial in result.trials:
            mlflow.log_metric("trial_val_accuracy", trial.score, step=trial.number)
        if report.accepted and register and result.best is not None:
            report = replace(report, version=_register(patient, result, result.best.module, verdict))
        folder.mkdir(parents=True, exist_ok=True)
        for path in report.save(folder):
            mlflow.log_artifact(str(path), ARTIFACT_FOLDER)
    return report


def _experiment() -> str:
    # Not mlflow.set_experiment: that would change where the caller's own runs go.
    client = mlflow.MlflowClient()
    found = client.get_experiment_by_name(EXPERIMENT)
    return str(client.create_experiment(EXPERIMENT) if found is None else found.experiment_id)


def _register(patient: Patient, result: SearchResult, module: nn.Module, verdict: Verdict) -> str:
    """A new version under the same name, with the same reference set, alias ``candidate``; inside the active run."""
    name = patient.name
    with tempfile.TemporaryDirectory(prefix="fieldrepair-parent-") as scratch:
        options = inherited(patient.name, patient.version, Path(scratch))
        logged = log_model(
            module.cpu(),
            name="model",
            reference=patient.handover.reference,
            class_names=patient.handover.class_names,
            input=patient.handover.input,
            embedding_layer=patient.handover.embedding_layer,
            allow_poor_accuracy=True,
            **options,
        )
    tags = {
        HANDOVER_TAG: logged.handover_uri,
        "fieldrepair.parent_version": patient.version,
        "fieldrepair.training_search": result.method,
        "fieldrepair.acceptance": "accepted",
    }
    version = str(mlflow.register_model(logged.model_uri, name, tags=tags).version)
    mlflow.MlflowClient().update_model_version(name, version, description=_describe(patient, result, verdict))
    set_candidate(name, version)
    log.info("registered models:/%s/%s", name, version)
    return version


def _describe(patient: Patient, result: SearchResult, verdict: Verdict) -> str:
    changes = "" if result.best is None else ", ".join(result.best.trial.plan.difference(result.given.plan))
    lines = [
        f"Version {patient.version} trained anew by fieldrepair ({result.method}, {len(result.trials)} trials).",
        "",
        f"**Changed:** {changes or 'nothing'}",
        "",
        "**Verdict,** on the validation set of the reference, which no trial saw:",
        *(f"- {reason}" for reason in verdict.reasons),
        "",
        f"Approve it by moving alias `champion` of `{patient.name}` to this version.",
    ]
    return "\n".join(lines)


def _sealed(result: SearchResult, patient: Patient) -> float | None:
    if result.best is None:
        return None
    return _share(sealed_answers(result.best.module, patient), patient.handover.reference.val_y)


def _share(answers: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> float:
    return float((answers == labels).mean())


def run_retrain(settings: RetrainCommand) -> int:
    """The command: search, judge, register, print; its exit status."""
    # MLflow says on standard output where a run can be seen, in the middle of what may be JSON.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    target = settings.model.removeprefix("models:/").replace("/", "-").replace("@", "-")
    with terminal_progress(f"retrain {settings.model}") as bars:
        report = retrain(
            settings.model,
            settings.told,
            method=settings.strategy,
            trainings=settings.trainings,
            random_arm=settings.random_arm,
            fresh_seeds=settings.fresh_seeds,
            margin=settings.margin,
            alpha=settings.alpha,
            seed=settings.training_seed,
            device=settings.training_device,
            folder=settings.state_dir.absolute() / "retrain" / f"{target}-seed-{settings.training_seed}",
            cache=settings.state_dir.absolute() / "cache" / "handovers",
            register=settings.register_candidate,
            progress=bars[0] if bars else None,
        )
    text = json.dumps(report.to_json(), indent=2) if settings.output == "json" else "\n".join(report.lines())
    sys.stdout.write(text + "\n")
    return 0 if report.accepted else NOT_FOUND
