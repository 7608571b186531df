"""What a strategy is: it says what to ask people about, and learns from what they answer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from fieldrepair_plugin.exemplars import Selection
from fieldrepair_plugin.progress import Progress
from fieldrepair_plugin.recipe import HybridSettings
from fieldrepair_plugin.repairable import IntArray, RepairableModel, Served, TrainingSet
from fieldrepair_plugin.training import RepairResult
from fieldrepair_service.errors import InputError

Labels = Mapping[int, int]
"""Pool index -> class, or :data:`~fieldrepair_plugin.exemplars.NONE_OF_THESE`."""


class Strategy(Protocol):
    """A way to repair.

    People answer hours later, so choosing and training are two calls, with a selection between that can be saved.

    Both calls leave the given module and torch's global generators alone, and give the same for the same arguments.
    """

    @property
    def name(self) -> str:
        """Its name in settings and records; the name of its entry point in the group ``fieldrepair.strategies``."""
        ...

    @property
    def recipes(self) -> tuple[str, ...]:
        """Values of ``settings.recipe`` it knows; under any other it works by the first."""
        ...

    def labels_wanted(self, budget: int, askable: int) -> int:
        """Questions it will ask when it may ask ``budget`` and ``askable`` inputs have no known label.

        Raises:
            InputError: if the strategy cannot work with this budget.
        """
        ...

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
        """Choose what to ask. Reads no field label but the known ones.

        Args:
            model: the model under repair; it is not changed.
            reference: its training data.
            pool: ``(n, *shape)`` field inputs in served form.
            budget: labels that may be asked for, 1..n less the known ones.
            settings: numbers and seed.
            known: labels of pool inputs that exist already. Nobody is asked about these again.
            progress: told of each step.

        Returns:
            A selection with this strategy's name and with the known inputs.

        Raises:
            InputError: for a budget the pool cannot spend, or data the model cannot take.
        """
        ...

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
        """Repair a copy of the model.

        Args:
            model: the model under repair; it is not changed.
            reference: its training data.
            pool: the pool that was selected from.
            selection: from :meth:`select`.
            labels: what people answered for exemplars, and the known labels. Exemplars may lack an answer.
            settings: numbers and seed; ``keep_reference`` is followed.
            progress: told of each pass and epoch.
            checkpoint: written after each epoch; continued from, exactly, if it is of this very repair.

        Returns:
            The repaired copy, in eval mode.

        Raises:
            InputError: for a selection of another pool or strategy, or labels of other inputs or unknown classes.
            TrainingError: if there is nothing to train, or training diverges.
        """
        ...


def check_selection(selection: Selection, strategy: str, pool: Served) -> None:
    """Refuse to train on what another strategy chose, or on another pool.

    Raises:
        InputError: saying which.
    """
    if selection.strategy != strategy:
        raise InputError(f"the selection was made by strategy {selection.strategy!r}, training is by {strategy!r}")
    if len(selection.unsmoothness) != len(pool):
        raise InputError(
            f"the selection is of a pool of {len(selection.unsmoothness)} inputs, this one has {len(pool)}"
        )


def known_indices(known: Labels | None, pool_size: int) -> IntArray:
    """Pool indices of the known labels, ascending.

    Raises:
        InputError: if one is not in the pool.
    """
    indices = np.array(sorted(known or {}), dtype=np.int64)
    if len(indices) and not (indices[0] >= 0 and indices[-1] < pool_size):
        raise InputError(f"expected known labels of pool inputs 0..{pool_size - 1}, got one of input {indices[-1]}")
    return indices
