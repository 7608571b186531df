"""What fieldrepair's detectors are compared with, at their own defaults."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any

import numpy as np

from fieldrepair_monitoring.features import Features


class PlainMmdDrift:
    """alibi-detect's ``MMDDrift`` as it comes: p < 0.05 by 100 permutations of every window."""

    name = "alibi-detect MMDDrift"

    def __init__(self, reference: Features) -> None:
        alibi: Any = import_module("fieldrepair_monitoring.detectors.alibi")
        self._test = alibi.MMDDriftTorch(reference.embeddings, device="cpu")

    def drifted(self, window: Features) -> bool:
        """Its decision."""
        return bool(self._test.predict(window.embeddings)["data"]["is_drift"])


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
