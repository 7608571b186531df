"""The five searches by name, and what a finished one has to tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from fieldrepair_plugin.progress import Progress
from fieldrepair_plugin.training_repair.autotrainer import search_autotrainer
from fieldrepair_plugin.training_repair.data import TrialData
from fieldrepair_plugin.training_repair.data_checks import output_kind
from fieldrepair_plugin.training_repair.guided import search_guided
from fieldrepair_plugin.training_repair.hebo import search_hebo
from fieldrepair_plugin.training_repair.losses import fitting_loss
from fieldrepair_plugin.training_repair.plan import TrainingPlan
from fieldrepair_plugin.training_repair.search_space import SearchSpace
from fieldrepair_plugin.training_repair.searches import Kind, search_optuna
from fieldrepair_plugin.training_repair.transforms import Network
from fieldrepair_plugin.training_repair.trials import Best, Trial, Trials
from fieldrepair_service.errors import InputError

Method = Literal["autotrainer", "random", "bohb", "gp", "hebo", "guided"]
METHODS: tuple[str, ...] = get_args(Method)


@dataclass(frozen=True)
class SearchResult:
    """A finished search."""

    method: str
    trials: tuple[Trial, ...]
    best: Best | None
    """The best trial by validation accuracy; none if no trial finished an epoch."""
    budget: int
    """Epochs that could be spent."""
    spent: int
    """Epochs that were."""
    knobs: int
    """Of the space that was searched."""

    @property
    def given(self) -> Trial:
        """The training as it was given."""
        return self.trials[0]

    def count(self, origin: str) -> int:
        """Trials of one origin."""
        return sum(trial.origin == origin for trial in self.trials)

    @property
    def effectively_random(self) -> bool:
        """Whether a search by a model had no more trials than knobs, or drew none by its model: then chance chose."""
        by_model = self.method in ("bohb", "gp", "hebo", "guided")
        chosen = self.count("model") + self.count("random")
        return by_model and (chosen <= self.knobs or self.count("model") == 0)


def search(
    method: str,
    network: Network,
    data: TrialData,
    given: TrainingPlan,
    *,
    epochs: int,
    budget: int,
    seed: int,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> SearchResult:
    """Search for a training that scores better on the validation part.

    Args:
        method: one of :data:`METHODS`.
        network: the network under repair; it is not changed.
        data: what trials train on and are chosen by.
        given: the training as it was given; every search runs it first.
        epochs: of one whole trial.
        budget: epochs over all trials.
        seed: fixes every draw.
        folder: where the search is kept, so that a stopped one goes on.
        progress: told of each epoch.

    Raises:
        InputError: for an unknown method, or a budget of nothing.
        MissingExtraError: for ``hebo`` where it is not installed.
    """
    if method not in METHODS:
        raise InputError(f"expected a search out of {', '.join(METHODS)}; got {method!r}")
    fitting = fitting_loss(output_kind(network.module, data.train_x))
    space = SearchSpace.of(network, given, fitting, len(data.train_x))
    trials = Trials(network, data, budget, seed, folder=folder, progress=progress)
    if method == "autotrainer":
        search_autotrainer(trials, given, epochs)
    elif method == "guided":
        search_guided(trials, given, space, epochs, fitting)
    elif method == "hebo":
        search_hebo(trials, given, space, epochs)
    else:
        search_optuna(trials, given, space, epochs, cast(Kind, method))
    return SearchResult(method, tuple(trials.done), trials.best, budget, trials.spent, space.knobs)


def origins(trials: Sequence[Trial]) -> dict[str, int]:
    """Trials by who thought of them."""
    return {name: sum(trial.origin == name for trial in trials) for name in ("given", "random", "model", "remedy")}
