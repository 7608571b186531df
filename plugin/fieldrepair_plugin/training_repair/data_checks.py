"""Problems of data and loss that show without any training, and that no hyperparameter reaches."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from fieldrepair_plugin.repairable import inference
from fieldrepair_plugin.training_repair.findings import Finding, Problem
from fieldrepair_plugin.training_repair.layout import DROPOUTS, NORMS, layout_of, named
from fieldrepair_plugin.training_repair.plan import TrainingPlan
from fieldrepair_plugin.training_repair.transforms import gives_probabilities

Numbers = npt.NDArray[Any]

LARGE = 10.0
"""Root mean square of inputs above which they are unscaled: 1 is what initialisations reckon with."""
SMALL = 0.02
"""The same below which they are."""
HEAVY = 0.8
"""Share of dropped units from which dropout is heavy."""
UNEVEN = 100.0
"""Largest over smallest column's size (root mean square) above which a table is unscaled."""


def output_kind(module: nn.Module, x: Tensor) -> str:
    """What the module gives: ``probabilities``, ``log_probabilities`` or ``logits``; seen on some inputs."""
    with inference(module):
        outputs = module(x[:256])
    if gives_probabilities(outputs):
        return "probabilities"
    return "log_probabilities" if bool((outputs <= 1e-6).all()) and gives_probabilities(outputs.exp()) else "logits"


def check_data(module: nn.Module, x: Tensor, y: Numbers, classes: int, plan: TrainingPlan) -> list[Finding]:
    """Look at labels, inputs and loss.

    Args:
        module: the model; it is not changed.
        x: ``(n, *shape)`` training inputs as the module takes them.
        y: ``(n,)`` labels as they came, of any number type.
        classes: the module's outputs.
        plan: its loss.

    Returns:
        What is wrong, the most serious first; empty if nothing is.
    """
    checks = (
        _labels(y, classes),
        _inputs(module, x),
        _loss(output_kind(module, x), plan),
        _activations(module, x),
        _dropout(module),
    )
    return [finding for finding in checks if finding is not None]


def _labels(y: Numbers, classes: int) -> Finding | None:
    values = np.unique(y)
    if len(values) == 1:
        return Finding(Problem.CONSTANT_CLASS, f"all {len(y)} training labels are {values[0]:g}")
    shown = ", ".join(f"{value:g}" for value in values[:5]) + (", ..." if len(values) > 5 else "")
    whole = bool((values == np.rint(values)).all())
    if not whole:
        return Finding(Problem.LABELS_SCALED, f"labels are fractions ({shown}), expected whole class numbers")
    low, high = int(values[0]), int(values[-1])
    step = int(np.gcd.reduce(values.astype(np.int64)))
    if step > 1 and len(values) > 2:
        return Finding(Problem.LABELS_SCALED, f"every label is a multiple of {step} ({shown})")
    if low < 0 or high >= classes:
        return Finding(
            Problem.LABELS_OUT_OF_RANGE,
            f"labels go from {low} to {high}, the model's {classes} outputs are for 0..{classes - 1}",
        )
    if len(values) == 2 < classes and high == 1:
        return Finding(
            Problem.LABELS_SCALED,
            f"labels are 0 and 1 only, and the model has {classes} outputs: other classes got lost",
        )
    return None


def _inputs(module: nn.Module, x: Tensor) -> Finding | None:
    if not x.is_floating_point() or _norm_first(module, x):
        return None
    size = float(x.double().square().mean().sqrt())
    low, high = float(x.min()), float(x.max())
    if size > LARGE or (0 < size < SMALL):
        return Finding(
            Problem.INPUTS_UNSCALED,
            f"inputs go from {low:.4g} to {high:.4g} (root mean square {size:.3g}), a network reckons with about 1",
        )
    if x.ndim == 2:
        sizes = x.double().square().mean(dim=0).sqrt()
        sizes = sizes[sizes > 0]
        # Columns of one unit, such as pixels, may differ: a dark corner says little. A table's differ by their units.
        if len(sizes) > 1 and float(sizes.max()) > 3 and float(sizes.max() / sizes.min()) > UNEVEN:
            return Finding(
                Problem.INPUTS_UNSCALED,
                f"columns differ in size by {float(sizes.max() / sizes.min()):.3g} times (root mean squares "
                f"{float(sizes.min()):.2g} to {float(sizes.max()):.2g})",
            )
    return None


def _norm_first(module: nn.Module, x: Tensor) -> bool:
    """Whether a norm comes before the first layer with weights: it brings inputs to scale by itself."""
    layers = layout_of(module, x[:2])
    return not layers.first_weighted and any(isinstance(part, NORMS) for part in module.modules())


def _activations(module: nn.Module, x: Tensor) -> Finding | None:
    layers = layout_of(module, x[:2])
    if len(layers.weighted) < 2 or layers.any_activation:
        return None
    return Finding(Problem.NO_ACTIVATION, f"{len(layers.weighted)} layers follow each other with no activation between")


def _dropout(module: nn.Module) -> Finding | None:
    shares = {name: part.p for name, part in named(module) if isinstance(part, DROPOUTS) and part.p >= HEAVY}
    if not shares:
        return None
    return Finding(Problem.HEAVY_DROPOUT, ", ".join(f"{name} drops {share:.0%}" for name, share in shares.items()))


def _loss(output: str, plan: TrainingPlan) -> Finding | None:
    said = output.replace("_", " ")
    if plan.loss == "mse":
        return Finding(Problem.LOSS_MISMATCH, "a classifier is trained on a squared error")
    if plan.loss == "cross_entropy" and output == "probabilities":
        return Finding(Problem.LOSS_MISMATCH, f"the model gives {said}, and cross_entropy applies a softmax once more")
    if plan.loss == "nll" and output != "probabilities":
        return Finding(Problem.LOSS_MISMATCH, f"the model gives {said}, and nll is for probabilities")
    return None
