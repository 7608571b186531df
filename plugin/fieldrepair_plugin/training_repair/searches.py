"""Searches by Optuna: random draws, BOHB-like (TPE with Hyperband), and a Gaussian process."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from fieldrepair_plugin.randomness import derive_seed
from fieldrepair_plugin.training_repair.plan import TrainingPlan
from fieldrepair_plugin.training_repair.search_space import SearchSpace
from fieldrepair_plugin.training_repair.training_loop import Epoch
from fieldrepair_plugin.training_repair.trials import BudgetSpent, Ending, Origin, Trial, Trials

Kind = Literal["random", "bohb", "gp"]
STARTUP = 10
"""Random trials before a model of trials is trusted (Optuna's default); with Hyperband, in each of its brackets."""
_LEARNT_FROM = (TrialState.COMPLETE, TrialState.PRUNED)


class _ToldTpe(TPESampler):
    """TPE that knows whether it drew the last trial by its model."""

    modelled = False

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        self.modelled = len(study.get_trials(deepcopy=False, states=_LEARNT_FROM)) >= STARTUP
        return super().sample_relative(study, trial, search_space)


class _ToldGp(GPSampler):
    """The Gaussian process, likewise."""

    modelled = False

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        enough = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) >= STARTUP
        self.modelled = enough and bool(search_space)
        return super().sample_relative(study, trial, search_space)


class OptunaSearch:
    """One study over a search space, whose trials are run by :class:`~.trials.Trials`.

    Args:
        trials: where trials are run; the best is kept there.
        space: what is searched.
        epochs: of one whole trial.
        kind: how points are drawn; ``bohb`` also ends poor trials early.
    """

    def __init__(self, trials: Trials, space: SearchSpace, epochs: int, kind: Kind) -> None:
        self._trials, self._space, self._epochs = trials, space, epochs
        self._queued = 0
        seed = derive_seed(trials.seed, "search") % 2**32
        pruner: BasePruner = NopPruner()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._sampler: BaseSampler
            if kind == "bohb":
                self._sampler = _ToldTpe(seed=seed, multivariate=True, group=True, n_startup_trials=STARTUP)
                pruner = HyperbandPruner(min_resource=1, max_resource=epochs, reduction_factor=3)
            elif kind == "gp":
                self._sampler = _ToldGp(seed=seed, n_startup_trials=STARTUP, warn_independent_sampling=False)
            else:
                self._sampler = RandomSampler(seed=seed)
        # The name decides which bracket of Hyperband a trial is in: it has to be the same in every run.
        storage = optuna.storages.InMemoryStorage()
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            self._study = optuna.create_study(
                direction="maximize", sampler=self._sampler, pruner=pruner, study_name="trials", storage=storage
            )
        finally:
            optuna.logging.set_verbosity(verbosity)

    def learn(self, trial: Trial) -> None:
        """Let the study know of a trial that it did not ask for, if it lies in the space and ran to its end."""
        point = self._space.point(trial.plan)
        if point is None or not trial.epochs or trial.ended in ("diagnosed", "budget"):
            return
        distributions = {name: self._space.distributions[name] for name in point}
        self._study.add_trial(optuna.trial.create_trial(params=point, distributions=distributions, value=trial.score))

    def first(self, plan: TrainingPlan) -> bool:
        """Let the study begin with this plan; whether it lies in the space."""
        point = self._space.point(plan)
        if point is None:
            return False
        self._study.enqueue_trial(point)
        self._queued += 1
        return True

    def run(self, most: int | None = None) -> None:
        """Run trials until the budget is spent, or so many."""
        ran = 0
        while most is None or ran < most:
            if self._trials.left < 1:
                return
            self._one()
            ran += 1

    def _one(self) -> None:
        asked = self._study.ask()
        if isinstance(self._sampler, _ToldTpe | _ToldGp):
            self._sampler.modelled = False
        plan = self._space.suggest(asked)
        origin: Origin = "model" if getattr(self._sampler, "modelled", False) else "random"
        if self._queued > 0:
            self._queued -= 1
            origin = "remedy"

        def stop(done: Sequence[Epoch]) -> Ending | None:
            asked.report(done[-1].val_accuracy, len(done))
            return "pruned" if len(done) < self._epochs and asked.should_prune() else None

        try:
            trial = self._trials.run(plan, origin, epochs=self._epochs, stop=stop)
        except BudgetSpent:
            self._study.tell(asked, state=TrialState.FAIL)
            return
        if trial.ended == "pruned":
            self._study.tell(asked, state=TrialState.PRUNED)
        elif trial.ended == "impossible":
            self._study.tell(asked, 0.0)
        else:
            self._study.tell(asked, trial.score)


def search_optuna(trials: Trials, given: TrainingPlan, space: SearchSpace, epochs: int, kind: Kind) -> None:
    """The training as given, then a search until the budget is spent."""
    search = OptunaSearch(trials, space, epochs, kind)
    try:
        search.learn(trials.run(given, "given", epochs=epochs))
    except BudgetSpent:
        return
    search.run()
