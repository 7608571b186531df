"""Step 3: the pool as groups of neighbours in embedding space, without the inputs that have no neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np
from sklearn.cluster import HDBSCAN, kmeans_plusplus

from fieldrepair_plugin.recipe import HybridSettings
from fieldrepair_plugin.repairable import FloatArray, IntArray
from fieldrepair_plugin.threshold import unit_rows

MIN_CLUSTER_SIZE = 5
"""HDBSCAN's smallest cluster: the default of both scikit-learn and the package the paper used."""


@dataclass(frozen=True)
class Regions:
    """Disjoint groups of pool indices, and what belongs to none."""

    members: list[IntArray]
    """Each region's pool indices, ascending; no region is empty."""
    centres: FloatArray
    """``(regions, dimensions)``: the mean of each region's unit-length embeddings."""
    noise: IntArray
    """Pool indices HDBSCAN found no dense neighbourhood for."""


def find_regions(embeddings: FloatArray, budget: int, settings: HybridSettings) -> Regions:
    """Groups of about ``region_size`` neighbours, at least ``budget`` groups where there are enough inputs.

    HDBSCAN drops noise, then k-means cuts the rest, both on embeddings of length 1 (so that Euclidean distance ranks
    like cosine distance).

    Args:
        embeddings: ``(n, dimensions)``.
        budget: labels to ask for; there is one region per label.
        settings: ``min_samples``, ``region_size`` and ``seed``.

    Returns:
        The regions. Fewer than ``budget`` when noise or equal inputs leave too little to group.
    """
    unit = unit_rows(embeddings)
    dense = np.flatnonzero(_dense(unit, settings.min_samples))
    noise = np.setdiff1d(np.arange(len(unit)), dense)
    count = min(len(dense), max(len(dense) // settings.region_size, budget))
    members: list[IntArray] = []
    if count > 0:
        assignment = _k_means(unit[dense], count, settings.seed)
        order = np.argsort(assignment, kind="stable")
        cuts = np.flatnonzero(np.diff(assignment[order])) + 1
        members = [dense[part] for part in np.split(order, cuts)]
    centres = np.array([unit[part].mean(axis=0) for part in members], dtype=np.float32).reshape(-1, unit.shape[1])
    return Regions(members, centres, noise)


def _dense(unit: FloatArray, min_samples: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    if len(unit) < max(min_samples, MIN_CLUSTER_SIZE):  # too few for HDBSCAN to find even one cluster
        return np.zeros(len(unit), dtype=np.bool_)
    clusters = HDBSCAN(min_cluster_size=MIN_CLUSTER_SIZE, min_samples=min_samples, copy=True).fit_predict(unit)
    return np.asarray(clusters >= 0)


def _k_means(unit: FloatArray, count: int, seed: int) -> IntArray:
    if count == len(unit):
        return np.arange(len(unit), dtype=np.int64)
    # Well spread starting centres matter with hundreds of them; then one run is enough.
    start, _ = kmeans_plusplus(unit, count, random_state=seed % 2**32)
    # faiss would draw a sample of 256 inputs per centre and complain about fewer than 39; our regions have about 10.
    k_means = faiss.Kmeans(
        unit.shape[1], count, niter=50, seed=seed % 2**31, min_points_per_centroid=1, max_points_per_centroid=len(unit)
    )
    k_means.train(unit, init_centroids=start)
    _, nearest = k_means.assign(unit)
    return nearest.astype(np.int64)
