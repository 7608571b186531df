"""Step 3: the pool as groups of neighbours in embedding space, without the inputs that have no neighbours."""

from __future__ import annotations

import math
from dataclasses import dataclass

import faiss
import numpy as np
import numpy.typing as npt
from sklearn.cluster import HDBSCAN, kmeans_plusplus

from fieldrepair_plugin.randomness import derive_seed
from fieldrepair_plugin.recipe import HybridSettings
from fieldrepair_plugin.repairable import FloatArray, IntArray
from fieldrepair_plugin.threshold import unit_rows

BoolArray = npt.NDArray[np.bool_]

MIN_CLUSTER_SIZE = 5
"""HDBSCAN's smallest cluster: the default of both scikit-learn and the package the paper used."""

FLAT_WORK = 100_000_000
"""Inputs times groups up to which k-means is run at once; above, in two levels."""
COARSE_SIZE = 1000
"""Inputs in a group of the first level."""
FAR_SHARE = 0.99
"""Quantile of the sampled members' distances to each other beyond which an input that was not sampled is noise."""


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

    Both take time that grows with the square of the pool. A pool of more than ``density_inputs`` is judged by that many
    of it: HDBSCAN runs on a random sample, and an input outside it is dense if its nearest sampled input is, and is no
    farther away than :data:`FAR_SHARE` of the sampled dense inputs are from their own nearest. And where k-means would
    compare too much (:data:`FLAT_WORK`), it first cuts the pool into groups of about :data:`COARSE_SIZE`, then each of
    these by itself.

    Args:
        embeddings: ``(n, dimensions)``.
        budget: labels to ask for; there is one region per label.
        settings: ``min_samples``, ``density_inputs``, ``region_size`` and ``seed``.

    Returns:
        The regions. Fewer than ``budget`` when noise or equal inputs leave too little to group.
    """
    unit = unit_rows(embeddings)
    dense = np.flatnonzero(_dense(unit, settings))
    noise = np.setdiff1d(np.arange(len(unit)), dense)
    count = min(len(dense), max(len(dense) // settings.region_size, budget))
    members: list[IntArray] = []
    if count > 0:
        # Most pools have no noise to speak of: then the copy of the dense ones is spared.
        assignment = _group(unit if len(dense) == len(unit) else unit[dense], count, settings.seed)
        order = np.argsort(assignment, kind="stable")
        cuts = np.flatnonzero(np.diff(assignment[order])) + 1
        members = [dense[part] for part in np.split(order, cuts)]
    centres = np.array([unit[part].mean(axis=0) for part in members], dtype=np.float32).reshape(-1, unit.shape[1])
    return Regions(members, centres, noise)


def _dense(unit: FloatArray, settings: HybridSettings) -> BoolArray:
    """Which inputs are not noise."""
    most = settings.density_inputs
    if len(unit) <= most:
        return _in_clusters(unit, settings.min_samples)
    random = np.random.default_rng(derive_seed(settings.seed, "density"))
    sampled = np.sort(random.choice(len(unit), size=most, replace=False))
    sample = unit[sampled]
    member = _in_clusters(sample, settings.min_samples)
    if member.sum() < 2:
        return np.zeros(len(unit), dtype=np.bool_)
    index = faiss.IndexFlatL2(unit.shape[1])
    index.add(sample)
    among, _ = index.search(sample[member], 2)
    far = np.quantile(among[:, 1], FAR_SHARE)  # column 0 is each one's distance to itself
    squared, nearest = index.search(unit, 1)
    dense = member[nearest[:, 0]] & (squared[:, 0] <= far)
    dense[sampled] = member
    return dense


def _in_clusters(unit: FloatArray, min_samples: int) -> BoolArray:
    if len(unit) < max(min_samples, MIN_CLUSTER_SIZE):  # too few for HDBSCAN to find even one cluster
        return np.zeros(len(unit), dtype=np.bool_)
    clusters = HDBSCAN(min_cluster_size=MIN_CLUSTER_SIZE, min_samples=min_samples, copy=True).fit_predict(unit)
    return np.asarray(clusters >= 0)


def _group(unit: FloatArray, count: int, seed: int) -> IntArray:
    """A group number for each input; about ``count`` groups, at least where no inputs are equal."""
    if count == len(unit) or count * len(unit) <= FLAT_WORK:
        return _k_means(unit, count, seed)
    coarse = max(2, len(unit) // COARSE_SIZE)
    k_means = faiss.Kmeans(unit.shape[1], coarse, niter=20, seed=seed % 2**31, max_points_per_centroid=64)
    k_means.train(unit)
    _, nearest = k_means.assign(unit)
    assignment = np.empty(len(unit), dtype=np.int64)
    used = 0
    for group in range(coarse):
        members = np.flatnonzero(nearest == group)
        if len(members) == 0:
            continue
        own = min(len(members), math.ceil(len(members) * count / len(unit)))
        assignment[members] = used + _k_means(unit[members], own, derive_seed(seed, "group", group))
        used += own
    return assignment


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
