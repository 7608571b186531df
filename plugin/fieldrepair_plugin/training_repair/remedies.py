"""AutoTrainer's remedies, in the order in which they are tried, and which of them answer which problem."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fieldrepair_plugin.training_repair.findings import Problem
from fieldrepair_plugin.training_repair.plan import TrainingPlan


@dataclass(frozen=True)
class Remedy:
    """One change of a plan."""

    name: str
    apply: Callable[[TrainingPlan], TrainingPlan]


def _up(plan: TrainingPlan) -> TrainingPlan:
    return plan.but(learning_rate=min(plan.learning_rate * 10, 1.0))


def _down(plan: TrainingPlan) -> TrainingPlan:
    return plan.but(learning_rate=plan.learning_rate / 10)


_INITIALISATION = Remedy("initialisation", lambda plan: plan.but(initialisation="he"))
_ACTIVATION = Remedy("activation", lambda plan: plan.but(activation="leaky_relu"))
_NORM = Remedy("batch norm", lambda plan: plan.but(norm="batch"))
_CLIPPING = Remedy("gradient clipping", lambda plan: plan.but(clip_norm=1.0))
_OPTIMISER = Remedy(
    "optimiser",
    lambda plan: plan.but(optimiser="sgd" if plan.optimiser == "adam" else "adam"),
)
_FASTER = Remedy("learning rate (times 10)", _up)
_SLOWER = Remedy("learning rate (a tenth)", _down)
_SCHEDULE = Remedy("schedule", lambda plan: plan.but(schedule="cosine"))
_BATCH = Remedy("batch size", lambda plan: plan.but(batch_size=min(2 * plan.batch_size, 128)))
_MOMENTUM = Remedy("momentum", lambda plan: plan.but(momentum=0.9 if plan.momentum < 0.9 else 0.5))

ANSWERS: dict[Problem, tuple[Remedy, ...]] = {
    Problem.DYING_RELU: (_INITIALISATION, _ACTIVATION, _NORM, _OPTIMISER, _SLOWER),
    Problem.EXPLODING: (_INITIALISATION, _ACTIVATION, _NORM, _CLIPPING, _OPTIMISER, _SLOWER),
    Problem.VANISHING: (_INITIALISATION, _ACTIVATION, _NORM, _OPTIMISER, _FASTER),
    Problem.SLOW: (_INITIALISATION, _ACTIVATION, _OPTIMISER, _FASTER, _SCHEDULE, _BATCH, _MOMENTUM),
    Problem.OSCILLATING: (_OPTIMISER, _SLOWER, _SCHEDULE, _BATCH, _MOMENTUM),
}
"""Each list keeps the documented order: initialisation, activation, batch norm, gradient clipping, optimiser, learning
rate, schedule, batch size, momentum."""


def remedies_for(
    problem: Problem, plan: TrainingPlan, tried: set[TrainingPlan]
) -> Iterator[tuple[Remedy, TrainingPlan]]:
    """Remedies of a problem that change this plan into one that was not tried yet, in order."""
    for remedy in ANSWERS.get(problem, ()):
        changed = remedy.apply(plan)
        if changed != plan and changed not in tried:
            yield remedy, changed
