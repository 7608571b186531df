"""Strategies that ask where the model is unsure: DeepGini, and MCP, which spreads them over class boundaries."""

from __future__ import annotations

import numpy as np

from fieldrepair_plugin.repairable import FloatArray, IntArray
from fieldrepair_plugin.strategies.picking import PickingStrategy, PoolView


class Gini(PickingStrategy):
    """The inputs with the largest Gini impurity of the model's answer (Feng et al., "DeepGini", ISSTA 2020)."""

    name = "gini"

    def pick(self, view: PoolView, budget: int) -> IntArray:
        """The ``budget`` most impure."""
        impurity = gini_impurity(view.probabilities[view.open])
        return view.open[np.argsort(-impurity, kind="stable")[:budget]]


class Mcp(PickingStrategy):
    """Multiple-boundary clustering and prioritisation (Shen et al., ASE 2020).

    Inputs are grouped by the boundary they lie at: their most and second most likely class. Each boundary in turn gives
    its least decided input (second probability over first), until the budget is spent.
    """

    name = "mcp"

    def pick(self, view: PoolView, budget: int) -> IntArray:
        """Round after round, one input of each boundary."""
        probabilities = view.probabilities[view.open].astype(np.float64)
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :2]
        first, second = np.take_along_axis(probabilities, order, axis=1).T
        closeness = second / first
        boundary = order[:, 0] * probabilities.shape[1] + order[:, 1]
        # An input's round is its rank within its boundary; within a round the least decided come first.
        by_closeness = np.argsort(-closeness, kind="stable")
        rounds = np.empty(len(boundary), dtype=np.int64)
        for each in np.unique(boundary):
            members = by_closeness[boundary[by_closeness] == each]
            rounds[members] = np.arange(len(members))
        return view.open[np.lexsort((-closeness, rounds))[:budget]]


def gini_impurity(probabilities: FloatArray) -> FloatArray:
    """``1 - sum of squares`` of each row of ``(n, classes)``: 0 for a sure answer, ``1 - 1/classes`` for none."""
    return (1.0 - np.square(probabilities.astype(np.float64)).sum(axis=1)).astype(np.float32)
