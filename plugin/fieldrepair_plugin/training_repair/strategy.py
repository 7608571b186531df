"""Searches for a better training as repair strategies: the worker starts one like any other, with no questions asked.

Their names begin with ``train_``: ``random`` is already the name of a strategy that asks for labels at random.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from fieldrepair_plugin.errors import TrainingError
from fieldrepair_plugin.exemplars import Selection
from fieldrepair_plugin.progress import Progress
from fieldrepair_plugin.recipe import HybridSettings
from fieldrepair_plugin.repairable import RepairableModel, Served, TrainingSet
from fieldrepair_plugin.strategies.base import Labels, check_selection, known_indices
from fieldrepair_plugin.training import RepairResult
from fieldrepair_plugin.training_repair import SEARCH_REPORT
from fieldrepair_plugin.training_repair.data import TrialData, split_for_trials
from fieldrepair_plugin.training_repair.data_checks import output_kind
from fieldrepair_plugin.training_repair.losses import fitting_loss
from fieldrepair_plugin.training_repair.plan import TrainingPlan
from fieldrepair_plugin.training_repair.report import result_json, search_lines
from fieldrepair_plugin.training_repair.search import SearchResult, search
from fieldrepair_plugin.training_repair.transforms import Network
from fieldrepair_service.errors import InputError

log = logging.getLogger(__name__)

TRAININGS = 20
"""Budget of a search, in trainings of ``settings.epochs`` epochs."""
CHOOSING = 0.2
"""Share of the training inputs that choose among trials."""


class TrainingSearch:
    """Trains the model anew on its own training inputs, by better and better plans.

    It asks nobody. Labels that exist already are trained on, too: in a drift case they are all that it knows of the
    field. ``keep_reference`` has no meaning here, weights may start anew; the acceptance test judges the old world.
    """

    name: ClassVar[str]
    method: ClassVar[str]
    recipes = ("paper",)

    def labels_wanted(self, budget: int, askable: int) -> int:
        """None, whatever the budget."""
        return 0

    def select(
        self,
        model: RepairableModel,
        reference: TrainingSet,
        pool: Served,
        budget: int,
        settings: HybridSettings,
        *,
        known: Labels | None = None,
        progress: Progress | None = None,
    ) -> Selection:
        """See :meth:`fieldrepair_plugin.strategies.Strategy.select`. Chooses nothing; the pool is not looked at."""
        indices = known_indices(known, len(pool))
        model.pixels(pool, "field pool")
        return Selection(
            exemplars=np.empty(0, dtype=np.int64),
            regions=[],
            unsmoothness=np.zeros(len(pool)),
            tau=0.0,
            known=indices,
            strategy=self.name,
            recipe="paper",
        )

    def train(
        self,
        model: RepairableModel,
        reference: TrainingSet,
        pool: Served,
        selection: Selection,
        labels: Labels,
        settings: HybridSettings,
        *,
        progress: Progress | None = None,
        checkpoint: Path | None = None,
    ) -> RepairResult:
        """See :meth:`fieldrepair_plugin.strategies.Strategy.train`.

        ``checkpoint`` is a folder here: it holds the search's trials, and its report, ``search.json``. Where no trial
        can be trained, that is a :class:`TrainingError`.
        """
        check_selection(selection, self.name, pool)
        strangers = sorted(set(labels) - {int(index) for index in selection.known})
        if strangers:
            raise InputError(f"strategy {self.name} asks for no labels, got labels for pool inputs {strangers[:5]}")
        if not any(parameter.requires_grad for parameter in model.module.parameters()):
            raise TrainingError("the model has nothing to train: no parameter requires a gradient")
        learnt = {index: label for index, label in labels.items() if label >= 0}
        data = trial_data(model, reference, pool, learnt, settings.seed)
        network = Network(model.working_copy().module.to(memory_format=torch.contiguous_format), data.train_x[:2])
        given = TrainingPlan(
            optimiser="sgd",
            learning_rate=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            batch_size=settings.batch_size,
            epochs=settings.epochs,
            loss=fitting_loss(output_kind(network.module, data.train_x)),  # type: ignore[arg-type]
        )
        found = search(
            self.method,
            network,
            data,
            given,
            epochs=settings.epochs,
            budget=TRAININGS * settings.epochs,
            seed=settings.seed,
            folder=checkpoint,
            progress=progress,
        )
        return self._result(found, len(learnt), checkpoint)

    def _result(self, found: SearchResult, labels: int, folder: Path | None) -> RepairResult:
        for line in search_lines(found):
            log.info("%s", line)
        if folder is not None:
            (folder / SEARCH_REPORT).write_text(json.dumps(result_json(found), indent=2) + "\n", encoding="utf-8")
        if found.best is None:
            why = next((trial.why for trial in found.trials if trial.why), "every trial broke down")
            raise TrainingError(f"none of {len(found.trials)} trials could be trained: {why}")
        return RepairResult(
            found.best.module,
            [],
            kept_epoch=found.best.trial.best_epoch,
            labels_used=0,
            propagated=0,
            labels_known=labels,
            strategy=self.name,
            recipe="paper",
        )


class TrainRandom(TrainingSearch):
    """Random draws from the search space, each trained to its end."""

    name = "train_random"
    method = "random"


class TrainAutoTrainer(TrainingSearch):
    """AutoTrainer: problems and their remedies."""

    name = "train_autotrainer"
    method = "autotrainer"


class TrainBohb(TrainingSearch):
    """TPE with Hyperband."""

    name = "train_bohb"
    method = "bohb"


class TrainGp(TrainingSearch):
    """A Gaussian process."""

    name = "train_gp"
    method = "gp"


class TrainHebo(TrainingSearch):
    """HEBO, where it is installed."""

    name = "train_hebo"
    method = "hebo"


class TrainGuided(TrainingSearch):
    """A diagnosis, what it calls for first, then TPE with Hyperband."""

    name = "train_guided"
    method = "guided"


def trial_data(model: RepairableModel, reference: TrainingSet, pool: Served, labels: Labels, seed: int) -> TrialData:
    """The model's training inputs and the pool inputs with a known label, split into training and choosing ones.

    Raises:
        InputError: for inputs the model cannot take, or a class it does not have.
    """
    indices = np.array(sorted(labels), dtype=np.int64)
    x = model.pixels(reference.x, "training set")
    y = reference.y
    if len(indices):
        x = torch.cat([x, model.pixels(pool[indices], "field pool")])
        y = np.concatenate([y, np.array([labels[int(at)] for at in indices], dtype=np.int64)])
    served = model.served(x)
    with torch.no_grad():
        own = model.working_copy()
        classes = own.logits(x[:2].to(own.device)).shape[1]
    if y.max() >= classes:
        raise InputError(f"expected classes 0..{classes - 1}, got {int(y.max())}")
    training, choosing = split_for_trials(y, CHOOSING, seed)
    served = served.to(own.device)
    return TrialData(served[training], y[training], served[choosing], y[choosing], int(classes))
