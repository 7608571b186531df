"""The search of HEBO (Cowen-Rivers et al., JAIR 2022), where its package is installed; it is an extra of its own."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution

from fieldrepair_plugin.errors import MissingExtraError
from fieldrepair_plugin.randomness import derive_seed
from fieldrepair_plugin.training_repair.plan import TrainingPlan
from fieldrepair_plugin.training_repair.search_space import SearchSpace
from fieldrepair_plugin.training_repair.trials import BudgetSpent, Origin, Trials

RANDOM = 8
"""Random trials before HEBO's model is used."""


def search_hebo(trials: Trials, given: TrainingPlan, space: SearchSpace, epochs: int) -> None:
    """The training as given, then HEBO until the budget is spent; every trial is trained to its end.

    Raises:
        MissingExtraError: HEBO is not installed, or cannot be imported here.
    """
    optimiser = _optimiser(space, derive_seed(trials.seed, "search") % 2**32)
    try:
        trials.run(given, "given", epochs=epochs)
        for number in range(trials.left):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of its models, about their own numerics
                asked = optimiser.suggest(n_suggestions=1)
            plan = space.plan(_values(space, asked.iloc[0].to_dict()))
            origin: Origin = "random" if number < RANDOM else "model"
            trial = trials.run(plan, origin, epochs=epochs)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                optimiser.observe(asked, np.array([[-trial.score]]))
    except BudgetSpent:
        return


def _optimiser(space: SearchSpace, seed: int) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            design: Any = importlib.import_module("hebo.design_space.design_space")
            hebo: Any = importlib.import_module("hebo.optimizers.hebo")
    except ImportError as error:
        raise MissingExtraError(
            f"the search hebo needs the package HEBO, which cannot be imported here ({error}); its own pins are old, "
            "so install it without them: pip install --no-deps HEBO gpytorch linear-operator pymoo moocore "
            "alive-progress disjoint-set; or choose another search: bohb and gp need nothing more"
        ) from error
    knobs: list[dict[str, Any]] = []
    for name, each in space.distributions.items():
        if isinstance(each, CategoricalDistribution):
            knobs.append({"name": name, "type": "cat", "categories": [str(choice) for choice in each.choices]})
        elif isinstance(each, FloatDistribution):
            kind: dict[str, Any] = {"type": "pow", "base": 10} if each.log else {"type": "num"}
            knobs.append({"name": name, "lb": each.low, "ub": each.high, **kind})
    np.random.seed(seed)
    return hebo.HEBO(design.DesignSpace().parse(knobs), rand_sample=RANDOM, scramble_seed=seed)


def _values(space: SearchSpace, row: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, each in space.distributions.items():
        if isinstance(each, CategoricalDistribution):
            values[name] = next(choice for choice in each.choices if str(choice) == str(row[name]))
        else:
            values[name] = float(row[name])
    return values
