"""The reference as a map: how far a field input is from everything known, and which parts of it the field is in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.cluster import KMeans
from sklearn.neighbors import NearestNeighbors

from fieldrepair_monitoring.errors import DetectorError
from fieldrepair_monitoring.share_changes import ShareChange, share_changes

FloatArray = npt.NDArray[np.float32]
Distances = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

MOST_REGIONS = 12
REFERENCE_PER_REGION = 20
"""So many reference inputs count towards a region on average, so that its share can be told from another one."""


@dataclass(frozen=True)
class Neighbours:
    """The nearest reference embeddings of some field inputs."""

    distances: Distances
    """``(m, k)`` Euclidean, ascending in each row."""
    indices: IntArray
    """``(m, k)`` rows of the reference."""


class ReferenceMap:
    """Nearest neighbours and regions of one model version's reference embeddings.

    Args:
        embeddings: ``(n, d)`` of held-out reference inputs.
        predictions: ``(n,)`` the model's answer to each, as class index.
        seed: of the regions.

    Raises:
        DetectorError: fewer than 2 embeddings, or lengths that differ.
    """

    def __init__(self, embeddings: FloatArray, predictions: IntArray, *, seed: int = 0) -> None:
        if len(embeddings) < 2 or len(embeddings) != len(predictions):
            raise DetectorError(
                f"need at least 2 reference embeddings with a prediction each, got {len(embeddings)}/{len(predictions)}"
            )
        self._embeddings = embeddings
        self._predictions = predictions
        self._seed = seed
        self._index = NearestNeighbors(n_neighbors=min(4, len(embeddings))).fit(embeddings)

    def neighbours(self, field: FloatArray, count: int = 3) -> Neighbours:
        """The ``count`` nearest reference inputs of each field input (at most 4, and at most all).

        Args:
            field: ``(m, d)`` embeddings.
        """
        distances, indices = self._index.kneighbors(field)
        return Neighbours(distances[:, :count], indices[:, :count].astype(np.int64))

    def usual_distance(self, share: float) -> float:
        """How far the given share of reference inputs is at most from the nearest other one."""
        # Each is its own nearest neighbour; the second one is meant, also where two inputs are the same.
        distances, _ = self._index.kneighbors(self._embeddings)
        return float(np.quantile(distances[:, 1], share))

    def region_changes(self, field: FloatArray, class_names: tuple[str, ...]) -> list[ShareChange]:
        """How the shares of the regions differ between field and reference, the most certain change first.

        Regions are k-means clusters. Their centres come from one half of the reference and the shares from the other:
        shares of the inputs that placed the centres would be a little too even.

        Args:
            field: ``(m, d)`` embeddings.
            class_names: to name a region by what the model mostly answers there.
        """
        order = np.random.default_rng(self._seed).permutation(len(self._embeddings))
        placing, counting = order[: len(order) // 2], order[len(order) // 2 :]
        count = max(1, min(MOST_REGIONS, len(placing) // REFERENCE_PER_REGION))
        means = KMeans(count, n_init=3, random_state=self._seed).fit(self._embeddings[placing])
        known, seen = means.predict(self._embeddings[counting]), means.predict(field)
        answers = self._predictions[placing]
        names = [_name(number, answers[means.labels_ == number], class_names) for number in range(count)]
        return share_changes(names, _counts(known, count), _counts(seen, count))


def _name(number: int, answers: IntArray, class_names: tuple[str, ...]) -> str:
    counts = _counts(answers, len(class_names))
    most = int(counts.argmax())
    share = counts[most] / max(1, len(answers))
    return f"region {number + 1} ({share:.0%} {class_names[most]})"


def _counts(values: npt.NDArray[np.integer[Any]], size: int) -> IntArray:
    return np.bincount(values, minlength=size).astype(np.int64)
