"""Drift detectors: two methods, ``fit`` on the reference and ``score`` on a window of field inputs."""

from fieldrepair_monitoring.detectors.base import (
    MIN_REFERENCE,
    MIN_WINDOW,
    Detector,
    DetectorOptions,
    DriftScore,
    Memory,
    Reading,
    RemembersWindows,
)
from fieldrepair_monitoring.detectors.catalogue import (
    BUILT_IN,
    ENTRY_POINTS,
    detector_factory,
    detector_names,
    make_detector,
)

__all__ = [
    "BUILT_IN",
    "ENTRY_POINTS",
    "MIN_REFERENCE",
    "MIN_WINDOW",
    "Detector",
    "DetectorOptions",
    "DriftScore",
    "Memory",
    "Reading",
    "RemembersWindows",
    "detector_factory",
    "detector_names",
    "make_detector",
]
