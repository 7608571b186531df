"""The search of AutoTrainer: watch a training, and when it shows a problem try that problem's remedies one by one.

A remedy that scores better is kept, and the next is tried on top of it; one that does not is taken back. When no
problem is seen any more, the search ends, whatever is left of its budget: it looks for problems, not for the best
training.
"""

from __future__ import annotations

from collections.abc import Sequence

from fieldrepair_plugin.training_repair.diagnosis import Rules
from fieldrepair_plugin.training_repair.examination import due_diagnosis
from fieldrepair_plugin.training_repair.findings import Problem
from fieldrepair_plugin.training_repair.plan import TrainingPlan
from fieldrepair_plugin.training_repair.remedies import remedies_for
from fieldrepair_plugin.training_repair.training_loop import Epoch
from fieldrepair_plugin.training_repair.trials import BudgetSpent, Ending, Origin, Trial, Trials


def search_autotrainer(trials: Trials, given: TrainingPlan, epochs: int) -> None:
    """Run it.

    Args:
        trials: where trials are run; the best is kept there.
        given: the training as it was given.
        epochs: of one trial.
    """
    try:
        plan = given
        trial, problem = _watched(trials, plan, "given", epochs)
        tried = {plan}
        while problem is not None:
            better = None
            for _, changed in remedies_for(problem, plan, tried):
                tried.add(changed)
                attempt, seen = _watched(trials, changed, "remedy", epochs)
                if seen is None or attempt.score > trial.score:
                    better = (changed, attempt, seen)
                    break
            if better is None:
                return  # every remedy there is was tried
            plan, trial, problem = better
    except BudgetSpent:
        return


def _watched(trials: Trials, plan: TrainingPlan, origin: Origin, epochs: int) -> tuple[Trial, Problem | None]:
    """A trial that ends as soon as a problem shows."""
    found: list[Problem] = []

    def stop(done: Sequence[Epoch]) -> Ending | None:
        finding = due_diagnosis(done, epochs, trials.data, Rules())
        found[:] = [] if finding is None else [finding.problem]
        return None if finding is None else "diagnosed"

    trial = trials.run(plan, origin, epochs=epochs, stop=stop, instruments=True)
    if trial.ended == "broken":
        return trial, Problem.EXPLODING
    if trial.ended == "impossible":
        return trial, None
    return trial, found[0] if found else None
