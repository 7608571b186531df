"""The accuracy to expect of champion and candidate on the same field inputs, without labels.

Each version's estimate is calibrated on its own reference, as the monitor's is. A candidate's reference has the field
it was repaired for as one more world, so that it is not taken for strange there.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from fieldrepair_monitoring.features import Features, joined
from fieldrepair_monitoring.handover import HandOver, load_handover, load_module
from fieldrepair_monitoring.model_cache import cached_module
from fieldrepair_monitoring.served_model import ServedModel
from fieldrepair_monitoring.watched_version import accuracy_estimator
from fieldrepair_service.trial_reports import Estimate

KEPT_INPUTS = 500
"""The estimate is about the last so many."""
FEWEST_INPUTS = 50
"""Below so many there is none."""


class VersionAccuracy:
    """One version's estimate on the last field inputs."""

    def __init__(self, handover: HandOver, model: ServedModel) -> None:
        self.handover = handover
        self._model = model
        validation = model.features(handover.reference.val_x)
        self._estimator = accuracy_estimator(handover.reference, model, validation)
        self._recent: Features | None = None

    @classmethod
    def load(cls, name: str, version: str, cache_dir: Path, device: str) -> Self:
        """Fetch what is needed, if it is not on this machine.

        Raises:
            MonitoringError: about hand-over, model or registry.
        """
        handover = load_handover(name, version, cache_dir / "handovers")
        module = load_module(name, version, cached_module(name, version, cache_dir / "models"))
        return cls(handover, ServedModel(module, handover, device=device))

    def add(self, inputs: npt.NDArray[np.generic]) -> None:
        """Take up field inputs, ``(n, *served shape)``; those whose outputs are not finite are left out.

        Raises:
            HandOverMismatchError, ModelRunError: the version cannot be run on them.
        """
        features = self._model.features(inputs)
        finite = np.isfinite(features.scores).all(axis=1) & np.isfinite(features.embeddings).all(axis=1)
        features = features.take(finite)
        together = features if self._recent is None else joined([self._recent, features])
        self._recent = together.take(slice(max(0, len(together) - KEPT_INPUTS), None))

    def estimate(self) -> Estimate | None:
        """On the last inputs; None while there are too few."""
        if self._recent is None or len(self._recent) < FEWEST_INPUTS:
            return None
        found = self._estimator.estimate(self._recent)
        return Estimate(
            value=found.value, low=found.low, high=found.high, trusted=found.trusted, inputs=len(self._recent)
        )
