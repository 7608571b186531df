"""The knobs that searches turn, with their ranges; only those that fit the model, each only where it has a meaning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import Trial as OptunaTrial

from fieldrepair_plugin.training_repair.plan import TrainingPlan
from fieldrepair_plugin.training_repair.transforms import Network

OPTIMISERS = ("sgd", "adam", "adamw", "rmsprop", "adagrad")
BATCH_SIZES = (16, 32, 64, 128)
CLIPS = (None, 1.0, 5.0)
_WITH_MOMENTUM = ("sgd", "rmsprop")


@dataclass(frozen=True)
class SearchSpace:
    """What can be turned on one network, beginning from one plan."""

    given: TrainingPlan
    """What is not turned stays as here."""
    activations: tuple[str, ...]
    norms: tuple[str, ...]
    dropouts: tuple[float | None, ...]
    losses: tuple[str, ...]
    """The given one, and the one that fits the model's output, if that is another."""
    batch_sizes: tuple[int, ...]

    @classmethod
    def of(cls, network: Network, given: TrainingPlan, fitting_loss: str, inputs: int) -> SearchSpace:
        """The space of a network that gives what ``fitting_loss`` is right for, trained on so many inputs."""
        sizes = tuple(size for size in BATCH_SIZES if size <= max(16, inputs // 4))
        return cls(
            given=given,
            activations=("keep", "relu", "leaky_relu", "elu", "gelu", "tanh") if network.can_activate else ("keep",),
            norms=("keep", "batch") if network.can_norm else ("keep",),
            dropouts=(None, 0.0, 0.2, 0.5) if network.layout.dropouts else (None,),
            losses=tuple(dict.fromkeys((given.loss, fitting_loss))),
            batch_sizes=sizes,
        )

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Every knob's range; ``momentum`` counts with sgd and rmsprop only."""
        every: dict[str, BaseDistribution] = {
            "optimiser": CategoricalDistribution(OPTIMISERS),
            "learning_rate": FloatDistribution(1e-5, 1.0, log=True),
            "momentum": FloatDistribution(0.0, 0.99),
            "weight_decay": FloatDistribution(1e-6, 1e-2, log=True),
            "batch_size": CategoricalDistribution(self.batch_sizes),
            "schedule": CategoricalDistribution(("constant", "cosine", "step")),
            "clip_norm": CategoricalDistribution(CLIPS),
            "initialisation": CategoricalDistribution(("keep", "default", "he", "glorot", "orthogonal")),
            "activation": CategoricalDistribution(self.activations),
            "norm": CategoricalDistribution(self.norms),
            "dropout": CategoricalDistribution(self.dropouts),
            "loss": CategoricalDistribution(self.losses),
        }
        return {
            name: each
            for name, each in every.items()
            if not (isinstance(each, CategoricalDistribution) and len(each.choices) == 1)
        }

    @property
    def knobs(self) -> int:
        """How many there are."""
        return len(self.distributions)

    def plan(self, values: dict[str, Any]) -> TrainingPlan:
        """The plan that a point of the space means."""
        return self.given.but(**values)

    def suggest(self, trial: OptunaTrial) -> TrainingPlan:
        """Let a trial choose a point."""
        values: dict[str, Any] = {}
        for name, each in self.distributions.items():
            if name == "momentum" and values["optimiser"] not in _WITH_MOMENTUM:
                continue
            if isinstance(each, CategoricalDistribution):
                values[name] = trial.suggest_categorical(name, each.choices)
            elif isinstance(each, FloatDistribution):
                values[name] = trial.suggest_float(name, each.low, each.high, log=each.log)
        return self.plan(values)

    def point(self, plan: TrainingPlan) -> dict[str, Any] | None:
        """The point of the space that a plan is; none if it lies outside: then a model cannot learn from it."""
        values: dict[str, Any] = {}
        for name, each in self.distributions.items():
            if name == "momentum" and plan.optimiser not in _WITH_MOMENTUM:
                continue
            value = getattr(plan, name)
            inside = (
                value in each.choices
                if isinstance(each, CategoricalDistribution)
                else (isinstance(each, FloatDistribution) and each.low <= value <= each.high)
            )
            if not inside:
                return None
            values[name] = value
        return values
