"""Strategies that also learn from every input without a label, by the paper's consistency pass."""

from __future__ import annotations

import numpy as np

from fieldrepair_plugin.repairable import IntArray
from fieldrepair_plugin.strategies.picking import PickingStrategy, PoolView
from fieldrepair_plugin.strategies.spread import Random


class SslRandom(Random):
    """Random labels, and consistency on all the rest: what remains of HybridRepair without its choices."""

    name = "ssl_random"
    recipes = ("paper",)
    consistency = True


class SslConsistency(PickingStrategy):
    """Labels for the most inconsistent inputs, and consistency on all the rest (Gao et al., ECCV 2020).

    Inconsistency is measured as everywhere here: by unsmoothness, which grows when augmented copies are answered
    differently.
    """

    name = "ssl_consistency"
    recipes = ("paper",)
    consistency = True

    def pick(self, view: PoolView, budget: int) -> IntArray:
        """The ``budget`` most unsmooth."""
        return view.open[np.argsort(-view.unsmoothness[view.open], kind="stable")[:budget]]
