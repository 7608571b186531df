"""What can be wrong with a training, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Problem(str, Enum):
    """A training problem, or a data problem that no hyperparameter reaches."""

    DYING_RELU = "dying_relu"
    EXPLODING = "exploding_gradient"
    VANISHING = "vanishing_gradient"
    SLOW = "slow_convergence"
    OSCILLATING = "oscillating_loss"
    LABELS_OUT_OF_RANGE = "labels_out_of_range"
    LABELS_SCALED = "labels_scaled"
    INPUTS_UNSCALED = "inputs_unscaled"
    CONSTANT_CLASS = "constant_class"
    LOSS_MISMATCH = "loss_mismatch"
    NO_ACTIVATION = "no_activation"
    HEAVY_DROPOUT = "heavy_dropout"


ADVICE: dict[Problem, str] = {
    Problem.DYING_RELU: "lower the learning rate; use leaky ReLU or ELU; draw weights by He's rule; add batch norm",
    Problem.EXPLODING: "lower the learning rate; clip gradients (norm 1); add batch norm; scale the inputs",
    Problem.VANISHING: "use ReLU or a relative of it instead of sigmoid or tanh; add batch norm; draw weights by "
    "He's or Glorot's rule, never all alike",
    Problem.SLOW: "raise the learning rate tenfold; use Adam; check that the loss is one for classes",
    Problem.OSCILLATING: "lower the learning rate; let it fall (cosine schedule); use larger batches",
    Problem.LABELS_OUT_OF_RANGE: "number the classes from 0 in the order of the model's outputs, or give the model "
    "more outputs",
    Problem.LABELS_SCALED: "undo the scaling of the labels: a class number is a name, not a quantity",
    Problem.INPUTS_UNSCALED: "bring every input column to about -1..1 (pixels: divide by 255), in training and in "
    "serving",
    Problem.CONSTANT_CLASS: "bring examples of the other classes: from one class nothing can be told apart",
    Problem.LOSS_MISMATCH: "give cross_entropy what comes before the softmax, or train on nll with the softmax in "
    "place; do not train a classifier on a squared error",
    Problem.NO_ACTIVATION: "put an activation (ReLU) between layers: without one, several can do no more than one",
    Problem.HEAVY_DROPOUT: "drop a share of 0.1 to 0.5 of the units, not nearly all",
}
"""What to do, in words; ``fieldrepair retrain`` tries these and more."""


@dataclass(frozen=True)
class Finding:
    """One problem, with what shows it."""

    problem: Problem
    evidence: str
    """Numbers, in a sentence."""
    epoch: int | None = None
    """After which epoch it showed; none for what is seen without training."""

    @property
    def advice(self) -> str:
        """What to do about it."""
        return ADVICE[self.problem]
