"""Which inputs to label when there are few labels: one from each part of the pool."""

from __future__ import annotations

import faiss
import numpy as np
from sklearn.cluster import kmeans_plusplus

from fieldrepair_plugin.default_settings import DefaultSettings
from fieldrepair_plugin.repairable import FloatArray, IntArray
from fieldrepair_plugin.threshold import unit_rows


def cover(
    embeddings: FloatArray, open_: IntArray, budget: int, settings: DefaultSettings, random: np.random.Generator
) -> IntArray:
    """Inputs that stand for the pool: of as many clusters as labels, the member nearest each centre.

    Typical inputs teach more than uncertain ones while labels are few (Hacohen, Dekel and Weinshall, "Active learning
    on a budget: opposite strategies suit high and low budgets", ICML 2022), and an uncertain model is no judge of what
    it does not know.

    Args:
        embeddings: ``(n, dimensions)`` of the pool.
        open_: ``(m,)`` pool indices that may be asked about.
        budget: 1..m.
        settings: ``selection``, ``clusters``, ``cluster_inputs``.
        random: the source of randomness.

    Returns:
        ``(budget,)`` distinct members of ``open_``, those of larger clusters first.
    """
    if settings.selection == "random":
        return random.permutation(open_)[:budget]
    if budget == len(open_):
        return open_.copy()
    unit = unit_rows(embeddings[open_])
    count = min(budget, settings.clusters)
    centres = _centres(unit, count, settings.cluster_inputs, random)
    index = faiss.IndexFlatL2(unit.shape[1])
    index.add(centres)
    distances, nearest = index.search(unit, 1)
    cluster, distance = nearest[:, 0], distances[:, 0]
    # Each cluster's members, nearest the centre first, clusters by size; then one of each, round after round. A cluster
    # that is asked for more than one gives random others: those beside the first would say the same again.
    groups = [np.flatnonzero(cluster == number) for number in range(count)]
    groups = sorted((group for group in groups if len(group)), key=len, reverse=True)
    queues: list[list[int]] = []
    for group in groups:
        first = int(group[np.argmin(distance[group])])
        queues.append([first, *(int(at) for at in random.permutation(group) if at != first)])
    chosen = [queue[0] for queue in queues]
    missing = budget - len(chosen)
    if missing > 0:
        others = [(place / len(queue), at) for queue in queues for place, at in enumerate(queue[1:], start=1)]
        chosen += [at for _, at in sorted(others)[:missing]]
    return open_[np.array(chosen[:budget], dtype=np.int64)]


def _centres(unit: FloatArray, count: int, most: int, random: np.random.Generator) -> FloatArray:
    if len(unit) > most:
        unit = unit[np.sort(random.choice(len(unit), size=max(most, count), replace=False))]
    seed = int(random.integers(2**31))
    # Well spread starting centres matter with hundreds of them; then one run is enough.
    start, _ = kmeans_plusplus(unit, count, random_state=seed)
    k_means = faiss.Kmeans(
        unit.shape[1], count, niter=20, seed=seed, min_points_per_centroid=1, max_points_per_centroid=len(unit)
    )
    k_means.train(unit, init_centroids=start)
    return np.asarray(k_means.centroids, dtype=np.float32)
