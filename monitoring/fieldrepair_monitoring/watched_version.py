"""One model version, loaded and ready to judge windows of its field inputs."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from fieldrepair_monitoring.detectors import DETECTORS, MIN_REFERENCE, Detector, DriftScore, FloatArray
from fieldrepair_monitoring.errors import HandOverMismatchError, ModelRunError, WindowNotJudgedError
from fieldrepair_monitoring.handover import HandOver, ServedModel, load_handover, load_module
from fieldrepair_monitoring.reference import Inputs, Reference
from fieldrepair_monitoring.settings import MonitorSettings
from fieldrepair_monitoring.severity import AccuracyEstimator

logger = logging.getLogger(__name__)

ENOUGH_HELD_OUT = 200
TRAINING_SAMPLE = 2000

Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True)
class Verdict:
    """What the monitor thinks of one window."""

    detector: str
    score: DriftScore
    """Against the world the window resembles most."""
    world: int
    """That world."""
    estimated_accuracy: float


class WatchedVersion:
    """Hand-over, model, one fitted detector per world, and the accuracy estimate.

    A window counts as drifted only if it differs from **every** world the version was validated on: its score is the
    one against the world with the largest p-value. So a repaired version stays calm both on the original
    distribution and on the field it was repaired for.

    Args:
        handover: what is stored with the version.
        model: the version, running.
        settings: the monitor's.
    """

    def __init__(self, handover: HandOver, model: ServedModel, settings: MonitorSettings) -> None:
        self.handover = handover
        self._model = model
        reference = handover.reference
        validation = model.features(reference.val_x)
        known = np.concatenate([reference.train_x, reference.normal_x])
        training = model.embeddings(_sample(known, TRAINING_SAMPLE, settings.monitor_seed))
        self._estimator = AccuracyEstimator(validation, reference.val_y, training)
        self._detectors = self._fit(reference, validation.embeddings, settings)

    @classmethod
    def load(cls, name: str, version: str, settings: MonitorSettings, cache_dir: Path | None = None) -> Self:
        """Fetch hand-over and model from MLflow and fit everything.

        Raises:
            HandOverMissingError, HandOverError, HandOverMismatchError, ReferenceSetError: about the hand-over.
            UnsupportedModelError, ModelRunError: about the model.
            DetectorError: the reference embeddings cannot be compared.
            ModelVersionMissingError, RegistryError: about MLflow.
        """
        handover = load_handover(name, version, cache_dir)
        return cls(
            handover, ServedModel(load_module(name, version), handover, device=settings.monitor_device), settings
        )

    @property
    def reference_accuracy(self) -> float:
        """Share of right answers on all validation inputs of all worlds; what the estimates are compared with."""
        return self._estimator.reference_accuracy

    def judge(self, inputs: Inputs) -> Verdict:
        """Compare a window with the reference.

        Args:
            inputs: ``(m, *served shape)``.

        Raises:
            WindowNotJudgedError: if the model fails on them, or gives NaN or infinity.
        """
        try:
            features = self._model.features(inputs)
        except (ModelRunError, HandOverMismatchError) as error:
            raise WindowNotJudgedError("model_failed", str(error)) from error
        finite = np.isfinite(features.scores).all(axis=1) & np.isfinite(features.embeddings).all(axis=1)
        if not finite.all():
            raise WindowNotJudgedError(
                "output_not_finite",
                f"the model gives NaN or infinity on {int((~finite).sum())} of {len(inputs)} inputs",
            )
        scores = {world: detector.score(features.embeddings) for world, detector in self._detectors.items()}
        # Of worlds with the same p-value, the nearer one.
        nearest = max(scores, key=lambda world: (scores[world].p_value, -scores[world].statistic))
        return Verdict(self._detectors[nearest].name, scores[nearest], nearest, self._estimator.estimate(features))

    def _fit(self, reference: Reference, validation: FloatArray, settings: MonitorSettings) -> dict[int, Detector]:
        detectors: dict[int, Detector] = {}
        for world in reference.worlds:
            embeddings = self._embeddings(reference, validation, world, settings)
            if len(embeddings) < MIN_REFERENCE:
                logger.warning(
                    "world %d has only %d inputs, need %d to compare with: left out",
                    world,
                    len(embeddings),
                    MIN_REFERENCE,
                )
                continue
            detector = DETECTORS[settings.detector](
                p_value=settings.drift_p_value,
                permutations=settings.drift_permutations,
                seed=settings.monitor_seed,
                device=settings.monitor_device,
            )
            detector.fit(embeddings)
            detectors[world] = detector
        if not detectors:
            raise HandOverMismatchError(f"no world of the reference set has {MIN_REFERENCE} inputs to compare with")
        return detectors

    def _embeddings(
        self, reference: Reference, validation: FloatArray, world: int, settings: MonitorSettings
    ) -> FloatArray:
        """Embeddings that stand for a world: held-out ones, where there are enough.

        A model has fitted its training inputs more tightly than anything it will see, so clean traffic differs from
        them and would raise false alarms. Validation inputs, and the unlabelled inputs of later worlds, do not have
        this flaw; training inputs only fill up where there are fewer than 200 of those.
        """
        parts = [validation[reference.val_world == world]]
        unlabelled = reference.normal_x[reference.normal_world == world]
        if len(unlabelled):
            parts.append(self._model.embeddings(unlabelled))
        missing = ENOUGH_HELD_OUT - sum(map(len, parts))
        training = reference.train_x[reference.train_world == world]
        if missing > 0 and len(training):
            parts.append(self._model.embeddings(_sample(training, missing, settings.monitor_seed)))
        return _sample(np.concatenate(parts), settings.drift_reference_size, settings.monitor_seed)


def _sample(rows: npt.NDArray[Scalar], size: int, seed: int) -> npt.NDArray[Scalar]:
    """At most ``size`` rows, drawn at random without replacement; the same ones every time."""
    if len(rows) <= size:
        return rows
    return rows[np.random.default_rng(seed).permutation(len(rows))[:size]]
