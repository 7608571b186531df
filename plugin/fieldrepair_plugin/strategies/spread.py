"""Strategies that spread their questions: at random, far from what is labelled (CoreSet), by gradient (BADGE)."""

from __future__ import annotations

import faiss
import numpy as np

from fieldrepair_plugin.repairable import IntArray
from fieldrepair_plugin.strategies.picking import PickingStrategy, PoolView


class Random(PickingStrategy):
    """Inputs drawn at random: the arm every other has to beat."""

    name = "random"

    def pick(self, view: PoolView, budget: int) -> IntArray:
        """``budget`` of them, without replacement."""
        return view.random.permutation(view.open)[:budget]


class CoreSet(PickingStrategy):
    """The k-centre greedy core set (Sener and Savarese, ICLR 2018).

    Again and again the input farthest from everything labelled so far: training data, known inputs, what was picked.
    """

    name = "coreset"

    def pick(self, view: PoolView, budget: int) -> IntArray:
        """``budget`` centres."""
        points = np.ascontiguousarray(view.embeddings[view.open])
        labelled = faiss.IndexFlatL2(points.shape[1])
        labelled.add(view.training_embeddings)
        if len(view.known):
            labelled.add(np.ascontiguousarray(view.embeddings[view.known]))
        squared, _ = labelled.search(points, 1)
        nearest = squared[:, 0].astype(np.float64)
        picked: list[int] = []
        for _ in range(budget):
            farthest = int(nearest.argmax())
            picked.append(farthest)
            nearest = np.minimum(nearest, np.square(points - points[farthest]).sum(axis=1))
            nearest[picked] = -1.0
        return view.open[picked]


class Badge(PickingStrategy):
    """Batch active learning by diverse gradient embeddings (Ash et al., ICLR 2020).

    An input's gradient embedding is the last layer's gradient if the model's answer were right: the outer product of
    (probabilities - answer) and embedding. k-means++ on these picks inputs that are unsure (long) and diverse.
    """

    name = "badge"

    def pick(self, view: PoolView, budget: int) -> IntArray:
        """``budget`` inputs, the one with the longest gradient first."""
        probabilities = view.probabilities[view.open].astype(np.float64)
        error = probabilities.copy()
        error[np.arange(len(error)), probabilities.argmax(axis=1)] -= 1.0
        return view.open[k_means_plus_plus(error, view.embeddings[view.open].astype(np.float64), budget, view.random)]


def k_means_plus_plus(
    left: np.ndarray[tuple[int, int], np.dtype[np.float64]],
    right: np.ndarray[tuple[int, int], np.dtype[np.float64]],
    count: int,
    random: np.random.Generator,
) -> IntArray:
    """k-means++ centres among the outer products of two sets of rows, without making the outer products.

    A dot product of two outer products is the product of two dot products, so memory stays at ``n`` numbers per step
    where scikit-learn's ``kmeans_plusplus`` would need ``n * a * b``: gigabytes for a thousand classes.

    Args:
        left: ``(n, a)``.
        right: ``(n, b)``.
        count: centres wanted, 1..n.
        random: the source of randomness.

    Returns:
        ``(count,)`` distinct row numbers: the longest first, each further one drawn with a chance proportional to its
        squared distance from the nearest so far (evenly among the rest once no distance is left).
    """
    norms = np.square(left).sum(axis=1) * np.square(right).sum(axis=1)
    nearest = np.full(len(left), np.inf)
    picked: list[int] = [int(norms.argmax())]
    while len(picked) < count:
        last = picked[-1]
        dots = (left @ left[last]) * (right @ right[last])
        nearest = np.minimum(nearest, np.clip(norms + norms[last] - 2 * dots, 0.0, None))
        nearest[picked] = 0.0
        total = nearest.sum()
        if total > 0:
            picked.append(int(random.choice(len(left), p=nearest / total)))
        else:
            rest = np.setdiff1d(np.arange(len(left)), picked)
            picked.append(int(random.choice(rest)))
    return np.array(picked, dtype=np.int64)
