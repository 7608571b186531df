"""AutoTrainer's rules (Zhang, Zhai, Ma, Shen: AutoTrainer, ICSE 2021): which problem a training has, and what shows it.

The numbers are those of the authors' code. A training is looked at every three epochs and at its end, at the gradients
of each such epoch's first batch; what is said about accuracy counts from 30 % of the epochs on. Precedence: dying ReLU,
exploding, vanishing, slow, oscillating.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from fieldrepair_plugin.training_repair.findings import Finding, Problem
from fieldrepair_plugin.training_repair.training_loop import Epoch


@dataclass(frozen=True)
class Rules:
    """AutoTrainer's thresholds."""

    every: int = 3
    """Epochs between two looks."""
    accuracy_from: float = 0.3
    """Share of the epochs after which accuracy counts."""
    low_accuracy: float = 0.6
    """Best accuracy, training and validation alike, below which a model is poor."""
    slow_gain: float = 0.01
    """Best gain of one epoch below which a training is slow."""
    dead_share: float = 0.7
    """Share of zero gradients from which units are dead."""
    exploding_loss: float = 1e5
    """Validation loss from which a training has exploded."""
    exploding_ratio: float = 70.0
    """First over last layer's gradient above which gradients explode."""
    vanishing_ratio: float = 1e-3
    """First over last layer's gradient below which gradients vanish ..."""
    vanishing_norm: float = 1e-4
    """... if the first layer's is below this, too."""
    noise: float = 2.0
    """Standard errors of a difference up to which a change of accuracy is chance."""
    swing: float = 0.03
    """Fall of accuracy, from a peak to the next trough, that is a swing."""
    swing_share: float = 0.2
    """Swings per epoch so far from which a training oscillates."""


def look_due(epoch: int, epochs: int, rules: Rules) -> bool:
    """Whether a training is looked at after this epoch."""
    return epoch % rules.every == 0 or epoch == epochs


def diagnose(done: Sequence[Epoch], epochs: int, inputs: tuple[int, int], rules: Rules | None = None) -> Finding | None:
    """What is wrong with a training, going by its epochs so far.

    Args:
        done: at least one epoch, with readings.
        epochs: how many it is planned to have.
        inputs: how many accuracies are measured on, in training and in validation: they say how much is chance.
        rules: thresholds; default: AutoTrainer's.

    Returns:
        The first problem in the order of precedence; none if it is well.
    """
    rules = rules or Rules()
    last = done[-1]
    finding = _ill(done, epochs, inputs, rules)
    return None if finding is None else Finding(finding[0], finding[1], last.epoch)


def gain_beyond_chance(before: float, after: float, inputs: int, errors: float) -> float:
    """What accuracy gained, 0 where that is no more than chance makes of so many inputs; a loss is negative.

    The standard error is that of the difference of two shares measured on samples of their own.
    """
    middle = (before + after) / 2
    noise = errors * math.sqrt(2 * middle * (1 - middle) / inputs)
    return after - before if after - before > noise else min(after - before, 0.0)


def swings(accuracies: Sequence[float], least: float, inputs: int, errors: float) -> int:
    """Falls of at least ``least`` from a peak to the trough after it, where they are more than chance makes."""
    count, peak, trough = 0, -math.inf, math.inf
    for before, here in zip(accuracies, [*accuracies[1:], math.inf], strict=True):
        if here > before:  # a rise ends a fall
            trough = min(trough, before)
            if peak > trough and peak - trough >= least - 1e-9:  # 0.63 - 0.6 is a little less than 0.03
                count += gain_beyond_chance(trough, peak, inputs, errors) > 0
            peak, trough = -math.inf, math.inf
        elif here < before:
            peak = max(peak, before)
    return count


def _ill(done: Sequence[Epoch], epochs: int, inputs: tuple[int, int], rules: Rules) -> tuple[Problem, str] | None:
    last = done[-1]
    reading = last.reading
    counts = last.epoch >= rules.accuracy_from * epochs
    best = max(max(each.train_accuracy, each.val_accuracy) for each in done)
    low = counts and best < rules.low_accuracy
    train_inputs, val_inputs = inputs
    steps = [
        gain_beyond_chance(one.train_accuracy, other.train_accuracy, train_inputs, rules.noise)
        for one, other in pairwise(done)
    ]
    steps += [
        gain_beyond_chance(each.val_before, each.val_accuracy, val_inputs, rules.noise)
        for each in done
        if each.val_before is not None
    ]
    gain = max(steps, default=math.inf)
    slow = counts and gain < rules.slow_gain
    poor = f"best accuracy {best:.1%}" + (f", best gain of one epoch {max(gain, 0.0):.1%}" if slow else "")
    if reading is not None and reading.has_relu and (low or slow) and reading.zero_share >= rules.dead_share:
        dead = max(reading.dead_units.values(), default=0.0)
        units = f", up to {dead:.0%} of a layer's units silent" if dead else ""
        return Problem.DYING_RELU, f"{reading.zero_share:.0%} of all gradients are zero{units}; {poor}"
    if not math.isfinite(last.train_loss) or not math.isfinite(last.val_loss):
        return Problem.EXPLODING, f"the loss is {last.train_loss:.3g} in training and {last.val_loss:.3g} in validation"
    if reading is not None and not reading.finite:
        return Problem.EXPLODING, "gradients or weights hold NaN or infinity"
    if last.val_loss >= rules.exploding_loss:
        return Problem.EXPLODING, f"the validation loss is {last.val_loss:.3g}"
    if reading is not None and (low or slow):
        norms = f"first layer's gradient {reading.first_norm:.2g}, last layer's {reading.last_norm:.2g}"
        if reading.ratio > rules.exploding_ratio:
            return Problem.EXPLODING, f"{norms}: {reading.ratio:.3g} times as long; {poor}"
        if reading.ratio < rules.vanishing_ratio and reading.first_norm < rules.vanishing_norm:
            return Problem.VANISHING, f"{norms}: a share of {reading.ratio:.2g}; {poor}"
    if slow:
        return Problem.SLOW, f"no epoch gained {100 * rules.slow_gain:g} point of accuracy or more; {poor}"
    found = swings([each.train_accuracy for each in done], rules.swing, train_inputs, rules.noise)
    if counts and found >= rules.swing_share * last.epoch:
        return (
            Problem.OSCILLATING,
            f"training accuracy fell {found} times by {100 * rules.swing:g} points or more in {last.epoch} epochs",
        )
    return None
