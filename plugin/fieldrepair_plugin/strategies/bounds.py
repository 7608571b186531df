"""What bounds a repair from below and above: no labels at all (two ways), and every label there is."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from fieldrepair_plugin.batch_norm import measure_statistics
from fieldrepair_plugin.exemplars import Selection
from fieldrepair_plugin.keeping import keep_reference
from fieldrepair_plugin.progress import Progress, ProgressEvent, silent
from fieldrepair_plugin.randomness import generator_for
from fieldrepair_plugin.recipe import HybridSettings
from fieldrepair_plugin.repairable import IntArray, RepairableModel, Served, TrainingSet
from fieldrepair_plugin.strategies.base import Labels, check_selection
from fieldrepair_plugin.strategies.picking import PickingStrategy, PoolView
from fieldrepair_plugin.training import RepairResult
from fieldrepair_service.errors import InputError

log = logging.getLogger(__name__)


class _NoLabels(PickingStrategy):
    """Asks nothing. Labels that exist already are used where training can use them."""

    recipes = ("paper",)

    def labels_wanted(self, budget: int, askable: int) -> int:
        """None, whatever the budget."""
        return 0

    def pick(self, view: PoolView, budget: int) -> IntArray:
        """Nothing."""
        return np.empty(0, dtype=np.int64)


class Finetune(_NoLabels):
    """The training of :class:`~fieldrepair_plugin.strategies.semi_supervised.SslRandom` without a single field label.

    Reference data is replayed, and the model's own consistent answers on the field are learned from: what fine-tuning
    brings by itself.
    """

    name = "finetune"
    consistency = True

    def labelled(self, selection: Selection, labels: Labels) -> tuple[IntArray, IntArray]:
        """Known labels if there are any; else none."""
        if not labels:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        return super().labelled(selection, labels)


class BatchNormAdaptation(_NoLabels):
    """Batch-norm statistics measured anew on the field pool (Schneider et al., NeurIPS 2020), and nothing trained.

    A model without batch norm comes back as it was; the log says so.
    """

    name = "bn_adapt"

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
        """See :meth:`fieldrepair_plugin.strategies.Strategy.train`. One pass: there is nothing to continue from."""
        check_selection(selection, self.name, pool)
        strangers = sorted(set(labels) - {int(index) for index in selection.known})
        if strangers:
            raise InputError(f"strategy {self.name} asks for no labels, got labels for pool inputs {strangers[:5]}")
        own = model.working_copy()
        inputs = own.pixels(pool, "field pool")
        if len(inputs) < 2:
            raise InputError(f"need at least 2 field inputs to measure batch-norm statistics, got {len(inputs)}")
        measured = measure_statistics(own, inputs, inputs[:0], 0.0, 256, generator_for(settings.seed, "adapt"))
        (progress or silent)(ProgressEvent("batch norm", 1, 1, {"layers": float(measured)}))
        if measured == 0:
            log.warning("the model has no batch norm with running statistics: %s changes nothing", self.name)
        result = RepairResult(
            own.module.to(memory_format=torch.contiguous_format).eval(),
            [],
            kept_epoch=0,
            labels_used=0,
            propagated=0,
            strategy=self.name,
            recipe=selection.recipe,
        )
        return keep_reference(model.module, result, settings.keep_reference)


class Full(PickingStrategy):
    """Every label of the pool: the ceiling. For benchmarks, where the labels are there.

    A ceiling that is too low flatters all others, so it trains ten times as fast as the paper's settings say.
    """

    name = "full"
    recipes = ("paper",)

    def labels_wanted(self, budget: int, askable: int) -> int:
        """All of them.

        Raises:
            InputError: if the budget is smaller than that.
        """
        if budget < askable:
            raise InputError(f"strategy full asks for every label, {askable} of them; the budget is {budget}")
        return askable

    def pick(self, view: PoolView, budget: int) -> IntArray:
        """All."""
        return view.open

    def training_settings(self, settings: HybridSettings) -> HybridSettings:
        """The supervised pass, faster."""
        return replace(super().training_settings(settings), learning_rate=10 * settings.learning_rate)
