"""Strategies that pick single inputs and all train alike: they differ in what is picked, so comparing them is fair."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fieldrepair_plugin.default_recipe import train_default
from fieldrepair_plugin.exemplars import FloatVector, Selection, check_budget, propagate
from fieldrepair_plugin.keeping import keep_reference
from fieldrepair_plugin.pool_copies import PoolCopies
from fieldrepair_plugin.progress import Progress, ProgressEvent, silent
from fieldrepair_plugin.randomness import derive_seed
from fieldrepair_plugin.recipe import HybridSettings
from fieldrepair_plugin.repairable import FloatArray, IntArray, RepairableModel, Served, TrainingSet
from fieldrepair_plugin.strategies.base import Labels, check_selection, known_indices
from fieldrepair_plugin.training import RepairResult, fine_tune
from fieldrepair_plugin.unsmoothness import unsmoothness
from fieldrepair_service.errors import InputError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PoolView:
    """What the model says about the pool; each part is computed when first asked for, and once."""

    model: RepairableModel
    reference: TrainingSet
    pool: Served
    open: IntArray
    """``(m,)`` pool indices that may be asked about, ascending: those without a known label."""
    known: IntArray
    """``(k,)`` pool indices with a known label."""
    settings: HybridSettings
    tell: Progress

    @cached_property
    def random(self) -> np.random.Generator:
        """The strategy's own randomness."""
        return np.random.default_rng(derive_seed(self.settings.seed, "pick"))

    @cached_property
    def inputs(self) -> Tensor:
        """The pool as the engine works with it."""
        return self.model.pixels(self.pool, "field pool")

    @cached_property
    def _answers(self) -> tuple[FloatArray, FloatArray]:
        return self._finite(self.inputs, "field pool")

    @property
    def embeddings(self) -> FloatArray:
        """``(n, dimensions)`` of the whole pool."""
        return self._answers[1]

    @cached_property
    def probabilities(self) -> FloatArray:
        """``(n, classes)`` of the whole pool, rows sum to 1."""
        return torch.from_numpy(self._answers[0]).softmax(dim=1).numpy().astype(np.float32)

    @cached_property
    def training_embeddings(self) -> FloatArray:
        """``(r, dimensions)`` of the reference data."""
        return self._finite(self.model.pixels(self.reference.x, "training data"), "training data")[1]

    @cached_property
    def unsmoothness(self) -> FloatVector:
        """``(n,)`` of the whole pool."""
        copies = PoolCopies(self.model, self.inputs, self.settings)
        return unsmoothness(self.model, copies, self._counting("unsmoothness"))

    def _finite(self, inputs: Tensor, name: str) -> tuple[FloatArray, FloatArray]:
        logits, embeddings = self.model.logits_and_embeddings(
            inputs, self.settings.inference_batch_size, self._counting("scores")
        )
        if not np.isfinite(logits).all():
            raise InputError(f"{name}: expected finite answers of the model, got NaN or infinity")
        return logits, embeddings

    def _counting(self, stage: str) -> Callable[[int, int], None]:
        return lambda done, total: self.tell(ProgressEvent(stage, done, total))


class PickingStrategy(ABC):
    """Picks ``budget`` inputs; each label speaks for its own input only.

    Training is the engine's. By the recipe ``paper`` the supervised pass over replayed and labelled inputs, and where
    :attr:`consistency` is set also the paper's consistency pass, over all inputs without a label. By the recipe
    ``default``, where :attr:`recipes` has it, HybridRepair's own training, so that only the choice of inputs differs.
    """

    name: ClassVar[str]
    recipes: ClassVar[tuple[str, ...]] = ("paper", "default")
    consistency: ClassVar[bool] = False

    def labels_wanted(self, budget: int, askable: int) -> int:
        """The whole budget."""
        check_budget(budget, askable)
        return budget

    @abstractmethod
    def pick(self, view: PoolView, budget: int) -> IntArray:
        """Choose ``budget`` distinct members of ``view.open``, the most important first."""

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
        """See :meth:`fieldrepair_plugin.strategies.Strategy.select`."""
        with_label = known_indices(known, len(pool))
        wanted = self.labels_wanted(budget, len(pool) - len(with_label))
        tell = progress or silent
        view = PoolView(
            model.working_copy(),
            reference,
            pool,
            np.setdiff1d(np.arange(len(pool), dtype=np.int64), with_label),
            with_label,
            settings,
            tell,
        )
        _ = view.inputs  # bad data is refused even by a strategy that does not look at it
        picked = self.pick(view, wanted).astype(np.int64)
        tell(ProgressEvent("exemplars", 1, 1, {"exemplars": len(picked), "covered": len(picked)}))
        # Without regions there is no tau: where unlabelled inputs take part at all, all of them do.
        return Selection(
            picked,
            [picked[at : at + 1] for at in range(len(picked))],
            np.zeros(len(pool)),
            1.0,
            known=with_label,
            strategy=self.name,
            recipe=self._recipe(settings),
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
        """See :meth:`fieldrepair_plugin.strategies.Strategy.train`."""
        check_selection(selection, self.name, pool)
        if self._recipe(settings) == "default":
            result = train_default(model, reference, pool, selection, labels, settings, progress, checkpoint)
            return replace(result, strategy=self.name, recipe="default")
        own = self.training_settings(settings)
        labelled = self.labelled(selection, labels)
        result = fine_tune(model, reference, pool, selection, labels, labelled, own, progress or silent, checkpoint)
        return keep_reference(model.module, result, settings.keep_reference)

    def _recipe(self, settings: HybridSettings) -> str:
        return settings.recipe if settings.recipe in self.recipes else self.recipes[0]

    def training_settings(self, settings: HybridSettings) -> HybridSettings:
        """What the paper's engine trains with.

        How smoothly the pool is answered says something of a training that the pool took part in. One by labels alone
        is smoothest before it has learned anything, so its last epoch is kept, and one copy of an input is enough.
        """
        own = replace(settings, consistency=self.consistency, unlabelled="all")
        return own if self.consistency else replace(own, kept="last", copies=1)

    def labelled(self, selection: Selection, labels: Labels) -> tuple[IntArray, IntArray]:
        """Pool indices and classes to train on; at least one."""
        return propagate(selection, labels)
