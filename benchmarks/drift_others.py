"""What fieldrepair's detectors are compared with, at their own defaults."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any

import numpy as np
import torch

from fieldrepair_monitoring.detectors.kernel_distance import mmd2
from fieldrepair_monitoring.features import Features


class PlainMmdDrift:
    """alibi-detect's ``MMDDrift`` as it comes: p < 0.05 by 100 permutations of every window.

    Its kernel, its permutations (the same draws) and its decision; only the 100 sums are formed by one matrix product,
    not by 100 rearranged copies of the kernel matrix, which take seconds per window. A test compares both.
    """

    name = "alibi-detect MMDDrift"

    def __init__(self, reference: Features) -> None:
        alibi: Any = import_module("fieldrepair_monitoring.detectors.alibi")
        self.test = alibi.MMDDriftTorch(reference.embeddings, device="cpu")

    def drifted(self, window: Features) -> bool:
        """Its decision."""
        return self.p_value(window) < self.test.p_val

    def p_value(self, window: Features) -> float:
        """Its p-value: the share of permutations that look at least as far apart."""
        reference, rows = (torch.from_numpy(each) for each in self.test.preprocess(window.embeddings))
        kernel: torch.Tensor = self.test.kernel_matrix(reference, rows).fill_diagonal_(0.0)
        n, m = len(kernel), len(rows)
        members = torch.zeros(n, 1 + self.test.n_permutations)
        members[n - m :, 0] = 1.0
        for at in range(self.test.n_permutations):
            members[torch.randperm(n)[n - m :], 1 + at] = 1.0
        distances = mmd2(kernel, members, m)
        return float((distances[0] <= distances[1:]).double().mean())


class EvidentlyDrift:
    """evidently's embedding drift: the method and settings its ``EmbeddingsDriftMetric`` picks by default.

    Called directly, since the metric also draws a t-SNE picture of every window.
    """

    name = "evidently embedding drift"

    def __init__(self, reference: Features) -> None:
        pandas: Any = import_module("pandas")
        methods: Any = import_module("evidently.legacy.metrics.data_drift.embedding_drift_methods")
        self._frame = pandas.DataFrame
        self._reference = self._frame(reference.embeddings)
        self._method = methods.model(bootstrap=len(reference) < 1000)

    def drifted(self, window: Features) -> bool:
        """Its decision."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _, drifted, _ = self._method(self._frame(window.embeddings), self._reference)
        return bool(np.asarray(drifted))


Other = PlainMmdDrift | EvidentlyDrift
OTHERS: tuple[type[PlainMmdDrift] | type[EvidentlyDrift], ...] = (PlainMmdDrift, EvidentlyDrift)
