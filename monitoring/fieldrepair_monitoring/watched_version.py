"""One model version, loaded and ready to judge windows of its field inputs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from fieldrepair_monitoring.detectors import (
    MIN_REFERENCE,
    Detector,
    DetectorOptions,
    DriftScore,
    Memory,
    RemembersWindows,
    make_detector,
)
from fieldrepair_monitoring.detectors.combination import combine
from fieldrepair_monitoring.errors import HandOverMismatchError, ModelRunError, WindowNotJudgedError
from fieldrepair_monitoring.features import Features, joined
from fieldrepair_monitoring.handover import HandOver, load_handover, load_module
from fieldrepair_monitoring.model_cache import cached_module
from fieldrepair_monitoring.reference import Inputs, Reference
from fieldrepair_monitoring.served_model import ServedModel
from fieldrepair_monitoring.settings import MonitorSettings
from fieldrepair_monitoring.severity import AccuracyEstimate, AccuracyEstimator

logger = logging.getLogger(__name__)

ENOUGH_HELD_OUT = 200
TRAINING_SAMPLE = 2000

Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True)
class Verdict:
    """What the monitor thinks of one window."""

    detector: str
    """The detector that sees the clearest difference from that world."""
    score: DriftScore
    """Its score."""
    world: int
    """The world the window resembles most."""
    scores: Mapping[str, DriftScore]
    """Every detector's score against that world."""
    p_value: float
    """Of all detectors together, adjusted for their number."""
    drifted: bool
    """Whether all of them together say that the window is unlike every world."""
    confirmed: bool
    """Whether no other window need confirm that."""
    accuracy: AccuracyEstimate
    """Without labels."""
    memory: Mapping[str, Memory]
    """What detectors remember from now on; to be handed over with the next window."""

    @property
    def estimated_accuracy(self) -> float:
        """Share of right answers to expect."""
        return self.accuracy.value

    def scores_json(self) -> dict[str, dict[str, float | bool]]:
        """As the case book keeps them: of each detector what :class:`.detectors.DriftScore` says."""
        return {name: asdict(score) for name, score in self.scores.items()}


class WatchedVersion:
    """Hand-over, model, fitted detectors for each world, and the accuracy estimate.

    A window counts as drifted only if it differs from **every** world the version was validated on: its scores are
    those against the world with the largest p-value. So a repaired version stays calm both on the original
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
        self._settings = settings
        validation = model.features(reference.val_x)
        self._estimator = accuracy_estimator(reference, model, validation, settings.monitor_seed)
        self._detectors = self._fit(reference, validation, settings)

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
        # Beside the hand-overs, where `up` has put the model already: a restart needs no registry for either.
        folder = cached_module(name, version, cache_dir.parent / "models") if cache_dir is not None else None
        module = load_module(name, version, folder)
        return cls(handover, ServedModel(module, handover, device=settings.torch_device), settings)

    @property
    def reference_accuracy(self) -> float:
        """Share of right answers on all validation inputs of all worlds; what the estimates are compared with."""
        return self._estimator.reference_accuracy

    def judge(self, inputs: Inputs, memory: Mapping[str, Memory] | None = None) -> Verdict:
        """Compare a window with the reference, and with the windows before it.

        Args:
            inputs: ``(m, *served shape)``.
            memory: the verdict's on the window before; None for the first.

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
        remembered = memory or {}
        worlds = {
            world: {
                name: detector.score_after(features, remembered.get(f"{world}/{name}", ""))
                if isinstance(detector, RemembersWindows)
                else detector.score(features)
                for name, detector in detectors.items()
            }
            for world, detectors in self._detectors.items()
        }
        together = {
            world: combine(
                scores,
                alpha=self._settings.false_alarm_rate,
                min_effect=self._settings.drift_min_effect,
                multiplicity=self._settings.drift_multiplicity,
            )
            for world, scores in worlds.items()
        }
        # Of worlds with the same p-value, the nearer one.
        nearest = max(
            worlds,
            key=lambda world: (together[world].p_value, -worlds[world][together[world].decisive].effect_size),
        )
        decision = together[nearest]
        drifted = all(combined.drifted for combined in together.values())
        return Verdict(
            detector=decision.decisive,
            score=worlds[nearest][decision.decisive],
            world=nearest,
            scores=worlds[nearest],
            p_value=decision.p_value,
            drifted=drifted,
            confirmed=all(combined.confirmed for combined in together.values()),
            accuracy=self._estimator.estimate(features),
            memory={
                f"{world}/{name}": detector.remember(features, remembered.get(f"{world}/{name}", ""), calm=not drifted)
                for world, detectors in self._detectors.items()
                for name, detector in detectors.items()
                if isinstance(detector, RemembersWindows)
            },
        )

    def _fit(
        self, reference: Reference, validation: Features, settings: MonitorSettings
    ) -> dict[int, dict[str, Detector]]:
        names = settings.detector_names_for(self.handover.input)
        options = DetectorOptions(
            # Each detector's own threshold is drawn where Bonferroni puts it; the decision is made by all together.
            p_value=settings.false_alarm_rate / len(names),
            window_size=settings.window_size,
            calibration_windows=settings.drift_calibration_windows,
            min_effect=settings.drift_min_effect,
            seed=settings.monitor_seed,
            device=settings.torch_device,
        )
        detectors: dict[int, dict[str, Detector]] = {}
        for world in reference.worlds:
            features = self._features(reference, validation, world, settings)
            if len(features) < MIN_REFERENCE:
                logger.warning(
                    "world %d has only %d inputs, need %d to compare with: left out",
                    world,
                    len(features),
                    MIN_REFERENCE,
                )
                continue
            made = {name: make_detector(name, options) for name in names}
            for detector in made.values():
                detector.fit(features)
            detectors[world] = made
        if not detectors:
            raise HandOverMismatchError(f"no world of the reference set has {MIN_REFERENCE} inputs to compare with")
        return detectors

    def _features(self, reference: Reference, validation: Features, world: int, settings: MonitorSettings) -> Features:
        """Features that stand for a world: of held-out inputs, where there are enough.

        A model has fitted its training inputs more tightly than anything it will see, so clean traffic differs from
        them and would raise false alarms. Validation inputs, and the unlabelled inputs of later worlds, do not have
        this flaw; training inputs only fill up where there are fewer than 200 of those.
        """
        parts = [validation.take(reference.val_world == world)]
        unlabelled = reference.normal_x[reference.normal_world == world]
        if len(unlabelled):
            parts.append(self._model.features(unlabelled))
        missing = ENOUGH_HELD_OUT - sum(map(len, parts))
        training = reference.train_x[reference.train_world == world]
        if missing > 0 and len(training):
            parts.append(self._model.features(_sample(training, missing, settings.monitor_seed)))
        together = joined(parts)
        chosen = _sample(np.arange(len(together)), settings.drift_reference_size, settings.monitor_seed)
        return together.take(chosen)


def accuracy_estimator(
    reference: Reference, model: ServedModel, validation: Features, seed: int = 0
) -> AccuracyEstimator:
    """The estimate of a version's accuracy without labels, calibrated on its own reference.

    Args:
        reference: the version's.
        model: the version, running.
        validation: its features of ``reference.val_x``.
        seed: of the sample of training inputs.
    """
    known = np.concatenate([reference.train_x, reference.normal_x])
    training = model.embeddings(_sample(known, TRAINING_SAMPLE, seed))
    return AccuracyEstimator(validation, reference.val_y, training)


def _sample(rows: npt.NDArray[Scalar], size: int, seed: int) -> npt.NDArray[Scalar]:
    """At most ``size`` rows, drawn at random without replacement; the same ones every time."""
    if len(rows) <= size:
        return rows
    return rows[np.random.default_rng(seed).permutation(len(rows))[:size]]
