"""HybridRepair as a strategy: the paper's recipe, or ours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fieldrepair_plugin import hybrid
from fieldrepair_plugin.default_recipe import select_default, train_default
from fieldrepair_plugin.exemplars import Selection, check_budget
from fieldrepair_plugin.keeping import keep_reference
from fieldrepair_plugin.progress import Progress
from fieldrepair_plugin.recipe import HybridSettings
from fieldrepair_plugin.repairable import RepairableModel, Served, TrainingSet
from fieldrepair_plugin.strategies.base import Labels, check_selection, known_indices
from fieldrepair_plugin.training import RepairResult
from fieldrepair_service.errors import InputError


class HybridRepair:
    """Exemplars of unsmooth regions, labels propagated where that is safe, and consistency on the rest.

    ``settings.recipe`` says how: ``paper`` is :mod:`fieldrepair_plugin.hybrid`, ``default`` is
    :mod:`fieldrepair_plugin.default_recipe`.
    """

    name = "hybridrepair"
    recipes = ("paper", "default")

    def labels_wanted(self, budget: int, askable: int) -> int:
        """The whole budget."""
        check_budget(budget, askable)
        return budget

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
        indices = known_indices(known, len(pool))
        check_budget(budget, len(pool) - len(indices))
        if settings.recipe == "default":
            selection = select_default(model, reference, pool, budget, settings, progress, known or {})
        else:
            selection = hybrid.select_exemplars(model, reference, pool, budget, settings, progress, known or {})
        return replace(selection, known=indices, strategy=self.name, recipe=settings.recipe)

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
        """See :meth:`fieldrepair_plugin.strategies.Strategy.train`. Trains by the recipe that was selected by."""
        check_selection(selection, self.name, pool)
        if selection.recipe != settings.recipe:
            raise InputError(
                f"the selection was made by recipe {selection.recipe!r}, training is by {settings.recipe!r}"
            )
        if settings.recipe == "default":
            result = train_default(model, reference, pool, selection, labels, settings, progress, checkpoint)
        else:
            result = hybrid.train(model, reference, pool, selection, labels, settings, progress, checkpoint)
            result = keep_reference(model.module, result, settings.keep_reference)
        return replace(result, strategy=self.name, recipe=settings.recipe)
