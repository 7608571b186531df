"""Our own search: a diagnosis, what it calls for first, then TPE with Hyperband from there.

1. The training as given, under instruments, until a problem shows. Data and loss are checked as ``doctor`` does.
2. What no hyperparameter reaches is put right for all that follows: inputs are scaled, scaled labels are read by rank,
   a loss that does not match the head is replaced.
3. A few sound plans around that, chosen by what was found, are the first trials of the search.
4. The rest of the budget is the search's (:mod:`~.searches`, ``bohb``), whose model of trials has these to learn from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from fieldrepair_plugin.training_repair.data_checks import check_data
from fieldrepair_plugin.training_repair.diagnosis import Rules
from fieldrepair_plugin.training_repair.examination import due_diagnosis
from fieldrepair_plugin.training_repair.findings import Finding, Problem
from fieldrepair_plugin.training_repair.plan import TrainingPlan
from fieldrepair_plugin.training_repair.search_space import SearchSpace
from fieldrepair_plugin.training_repair.searches import OptunaSearch
from fieldrepair_plugin.training_repair.training_loop import Epoch
from fieldrepair_plugin.training_repair.trials import BudgetSpent, Ending, Trials


def search_guided(trials: Trials, given: TrainingPlan, space: SearchSpace, epochs: int, fitting_loss: str) -> None:
    """Run it.

    Args:
        trials: where trials are run; the best is kept there.
        given: the training as it was given.
        space: what can be turned.
        epochs: of one whole trial.
        fitting_loss: the loss that is right for what the model gives.
    """
    try:
        findings = _examined(trials, given, epochs)
        base = put_right(given, findings, trials, fitting_loss)
        search = OptunaSearch(
            trials, SearchSpace.of(trials.network, base, fitting_loss, len(trials.data.train_x)), epochs, "bohb"
        )
        for plan in first_plans(base, [each.problem for each in findings], space):
            search.first(plan)
        search.run()
    except BudgetSpent:
        return


def put_right(given: TrainingPlan, findings: Sequence[Finding], trials: Trials, fitting_loss: str) -> TrainingPlan:
    """The plan with what no hyperparameter reaches put right, as far as it can be."""
    problems = {each.problem for each in findings}
    base = given
    if Problem.INPUTS_UNSCALED in problems and trials.network.scalable:
        base = base.but(inputs="scaled")
    mislabelled = problems & {Problem.LABELS_SCALED, Problem.LABELS_OUT_OF_RANGE}
    if mislabelled and len(np.unique(trials.data.train_y)) == trials.data.classes:
        base = base.but(labels="ranked")
    if Problem.LOSS_MISMATCH in problems:
        base = base.but(loss=fitting_loss)
    if Problem.HEAVY_DROPOUT in problems:
        base = base.but(dropout=0.2)
    return base


def first_plans(base: TrainingPlan, problems: Sequence[Problem], space: SearchSpace) -> Iterator[TrainingPlan]:
    """Sound plans around a given one, in the order in which they are tried.

    What was found decides what they change besides the optimiser: where units died or gradients vanish, activations and
    weights; where gradients explode, their length.
    """
    found = set(problems)
    batch = min(space.batch_sizes, key=lambda size: abs(size - 32))
    sound = base.but(
        optimiser="adam", learning_rate=3e-3, batch_size=batch, weight_decay=1e-5, schedule="cosine", clip_norm=None
    )
    if found & {Problem.DYING_RELU, Problem.VANISHING, Problem.SLOW, Problem.EXPLODING, Problem.NO_ACTIVATION}:
        sound = sound.but(initialisation="he", activation="leaky_relu" if len(space.activations) > 1 else "keep")
    if found & {Problem.EXPLODING, Problem.OSCILLATING}:
        sound = sound.but(clip_norm=1.0)
    fresh = sound.but(initialisation="he", activation="relu" if len(space.activations) > 1 else "keep")
    normed = "batch" if len(space.norms) > 1 else "keep"
    plans = [
        sound,
        fresh.but(norm=normed),
        sound.but(learning_rate=1e-2, batch_size=max(space.batch_sizes[0], batch // 2)),
        fresh.but(initialisation="default", optimiser="sgd", learning_rate=0.1, momentum=0.9, clip_norm=1.0),
        sound.but(learning_rate=1e-3, batch_size=space.batch_sizes[0]),
    ]
    yield from dict.fromkeys(plans)


def _examined(trials: Trials, given: TrainingPlan, epochs: int) -> list[Finding]:
    data = trials.data
    findings = check_data(trials.network.module, data.train_x, data.train_y, data.classes, given)
    shown: list[Finding] = []

    def stop(done: Sequence[Epoch]) -> Ending | None:
        finding = due_diagnosis(done, epochs, data, Rules())
        shown[:] = [] if finding is None else [finding]
        return None if finding is None else "diagnosed"

    trial = trials.run(given, "given", epochs=epochs, stop=stop, instruments=True)
    if (
        trial.ended == "broken"
        and (finding := due_diagnosis(trial.epochs, epochs, data, Rules(), broken=True)) is not None
    ):
        shown = [finding]
    return findings + shown
