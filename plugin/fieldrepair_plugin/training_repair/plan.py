"""A training, written down: every knob that a training repair reads or turns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

Optimiser = Literal["sgd", "adam", "adamw", "rmsprop", "adagrad"]
Loss = Literal["cross_entropy", "nll", "mse"]
Initialisation = Literal["keep", "default", "he", "glorot", "orthogonal"]
Activation = Literal["keep", "relu", "leaky_relu", "elu", "gelu", "tanh"]
Norm = Literal["keep", "batch"]
Schedule = Literal["constant", "cosine", "step"]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", use_attribute_docstrings=True))
class TrainingPlan:
    """One way to train one network.

    ``keep`` means: as the module is. The defaults are what PyTorch users write first.

    Raises:
        pydantic.ValidationError: for a value out of range or an unknown name.
    """

    optimiser: Optimiser = "adam"
    """Optimiser, by its name in ``torch.optim``."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Its learning rate at the start."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of sgd and rmsprop; the others have none."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Its weight decay."""
    batch_size: int = Field(default=32, ge=1)
    """Inputs per step."""
    epochs: int = Field(default=10, ge=1)
    """Passes over the training inputs."""
    schedule: Schedule = "constant"
    """How the learning rate falls: not at all, along a cosine to 0, or to a tenth at half and at three quarters."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Longest gradient, of all parameters together; none: as long as it is."""
    loss: Loss = "cross_entropy"
    """What is minimised: cross_entropy is right for logits, nll (its logarithm is taken) for probabilities; mse is the
    squared error against one-hot classes."""
    initialisation: Initialisation = "keep"
    """Where weights start: as the module has them, as each layer's own ``reset_parameters`` draws them, or drawn by
    He's, Glorot's or the orthogonal rule."""
    activation: Activation = "keep"
    """What every activation between layers is replaced with."""
    norm: Norm = "keep"
    """``batch`` puts a batch norm before every activation between layers that has none."""
    dropout: float | None = Field(default=None, ge=0, lt=1)
    """Share of units that every dropout layer drops; none: as the layers have it."""
    inputs: Literal["keep", "scaled"] = "keep"
    """``scaled`` trains on inputs brought to the scale of 1; the first layer's weights then take that over."""
    labels: Literal["keep", "ranked"] = "keep"
    """``ranked`` reads labels that are not class numbers by their rank: the smallest value is class 0."""

    def but(self, **changes: Any) -> TrainingPlan:
        """This plan with some knobs turned."""
        return replace(self, **changes)

    def difference(self, other: TrainingPlan) -> dict[str, tuple[object, object]]:
        """Knobs that differ: name -> (here, there)."""
        pairs = {each.name: (getattr(self, each.name), getattr(other, each.name)) for each in fields(self)}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


_PARAMS: dict[str, tuple[str, ...]] = {
    "optimiser": ("optimiser", "optimizer", "optimizer_name", "optim"),
    "learning_rate": ("learning_rate", "lr", "optimizer_lr"),
    "momentum": ("momentum",),
    "weight_decay": ("weight_decay",),
    "batch_size": ("batch_size", "train_batch_size"),
    "epochs": ("epochs", "num_epochs", "max_epochs", "n_epochs"),
    "schedule": ("schedule",),
    "clip_norm": ("clip_norm", "gradient_clip_val", "max_grad_norm"),
    "loss": ("loss", "criterion", "loss_fn"),
}
"""Names that people and MLflow's autologging give these knobs among a run's params."""
_WORDS = {
    "crossentropyloss": "cross_entropy",
    "crossentropy": "cross_entropy",
    "nllloss": "nll",
    "mseloss": "mse",
    "mean_squared_error": "mse",
}


def plan_from_params(params: Mapping[str, str]) -> tuple[TrainingPlan, dict[str, str], dict[str, str]]:
    """The plan that a run's params tell of.

    Returns:
        The plan; ``knob -> param`` of what was found; ``param -> why`` of what was found and could not be read.
    """
    found: dict[str, str] = {}
    refused: dict[str, str] = {}
    plan = TrainingPlan()
    lower = {name.lower(): (name, value) for name, value in params.items()}
    for knob, names in _PARAMS.items():
        for alias in names:
            if alias not in lower:
                continue
            name, value = lower[alias]
            word = value.strip().lower()
            try:
                values: dict[str, Any] = {**vars_of(plan), knob: _WORDS.get(word, word)}
                plan = TrainingPlan(**values)
            except ValidationError as error:
                refused[name] = f"{value!r}: {error.errors()[0]['msg']}"
                continue
            found[knob] = name
            break
    return plan, found, refused


def vars_of(plan: TrainingPlan) -> dict[str, Any]:
    """Knob -> value, in the order of the class."""
    return {each.name: getattr(plan, each.name) for each in fields(plan)}
