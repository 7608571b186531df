"""``fieldrepair doctor``: what is wrong with the training of a registered version, what shows it and what to do."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fieldrepair_plugin.randomness import derive_seed
from fieldrepair_plugin.training_repair.examination import Examination, examine
from fieldrepair_plugin.training_repair.patient import Patient, Start, admit
from fieldrepair_plugin.training_repair.plan import TrainingPlan, vars_of
from fieldrepair_plugin.training_repair.report import listed

ILL = 3
"""Exit status where something was found."""
FEW_EPOCHS = 10
"""Epochs of the examination where nobody says otherwise; a version that was trained for fewer is trained for those."""


@dataclass(frozen=True)
class Diagnosis:
    """A finished examination of a version."""

    patient: Patient
    plan: TrainingPlan
    started: str
    """Where its training started from, in words."""
    examination: Examination

    def lines(self) -> list[str]:
        """What people read."""
        patient, examination = self.patient, self.examination
        accuracy = patient.handover.reference_accuracy
        lines = [
            f"{patient.uri}: right on {accuracy:.1%} of its validation inputs, {patient.data.classes} classes",
            f"examined by training {self.started}, on {len(patient.data.train_x)} inputs, "
            f"for {len(examination.epochs)} of {self.plan.epochs} epochs",
            *(f"  known:   {each}" for each in patient.known),
            *([f"  assumed: {', '.join(patient.assumed)}"] if patient.assumed else []),
        ]
        if examination.untrainable:
            lines.append(f"not trained: {examination.untrainable}")
        for each in examination.epochs:
            reading = each.reading
            gradients = (
                ""
                if reading is None
                else (
                    f", gradients first/last layer {reading.first_norm:.2g}/{reading.last_norm:.2g}, "
                    f"{reading.zero_share:.0%} zero"
                )
            )
            lines.append(
                f"  epoch {each.epoch:>2}: loss {each.train_loss:.3g}, right {each.train_accuracy:.1%} in training, "
                f"{each.val_accuracy:.1%} on inputs set aside{gradients}"
            )
        if not examination.findings:
            return [*lines, "nothing wrong was found"]
        return [
            *lines,
            f"{len(examination.findings)} found:",
            *listed(examination.findings),
            f"next: fieldrepair retrain {patient.uri}",
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and strings."""
        return {
            "model": self.patient.uri,
            "reference_accuracy": self.patient.handover.reference_accuracy,
            "plan": vars_of(self.plan),
            "known": list(self.patient.known),
            "assumed": list(self.patient.assumed),
            "started": self.started,
            "untrainable": self.examination.untrainable,
            "epochs": [each.to_json() for each in self.examination.epochs],
            "findings": [
                {"problem": each.problem.value, "evidence": each.evidence, "advice": each.advice, "epoch": each.epoch}
                for each in self.examination.findings
            ],
        }


def diagnose_version(
    model_uri: str,
    told: Mapping[str, Any],
    *,
    start: Start = "auto",
    seed: int = 0,
    device: str = "cpu",
    most_inputs: int | None = 10_000,
    cache: Path | None = None,
) -> Diagnosis:
    """Examine a registered version; it is not changed, and nothing is stored.

    Args:
        model_uri: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.
        told: knobs of its training, by the names of :class:`~.plan.TrainingPlan`.
        start: where the examination's training starts from; ``auto``: the stored weights of a poor version, else fresh.
        seed: of every draw.
        device: where to train.
        most_inputs: at most so many training inputs are used.
        cache: where hand-overs are kept.

    Raises:
        FieldRepairError: as :func:`~.patient.admit`.
    """
    patient = admit(model_uri, told, seed=seed, device=device, most_inputs=most_inputs, cache=cache)
    plan, started = patient.from_start(start)
    if told.get("epochs") is None:
        plan = plan.but(epochs=min(plan.epochs, FEW_EPOCHS))
    examination = examine(patient.network, patient.data, plan, derive_seed(seed, "doctor"))
    return Diagnosis(patient, plan, started, examination)


def run_doctor(diagnosis: Diagnosis, *, as_json: bool) -> int:
    """Print a diagnosis; the command's exit status."""
    text = json.dumps(diagnosis.to_json(), indent=2) if as_json else "\n".join(diagnosis.lines())
    sys.stdout.write(text + "\n")
    return ILL if diagnosis.examination.findings else 0
