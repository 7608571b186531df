"""Detectors by name: those of this package, and those that other packages offer.

Another package offers one as an entry point of the group ``fieldrepair.detectors``: a name, and a callable that takes
:class:`~.base.DetectorOptions` and gives a :class:`~.base.Detector`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import cast

from fieldrepair_monitoring.detectors.base import Detector, DetectorOptions
from fieldrepair_monitoring.errors import DetectorError

ENTRY_POINTS = "fieldrepair.detectors"

BUILT_IN: Mapping[str, str] = {
    "mmd": "fieldrepair_monitoring.detectors.mmd:MmdDetector",
    "ks": "fieldrepair_monitoring.detectors.ks:KsDetector",
    "uncertainty": "fieldrepair_monitoring.detectors.ks:UncertaintyDetector",
    "classes": "fieldrepair_monitoring.detectors.classes:ClassesDetector",
    "lsdd": "fieldrepair_monitoring.detectors.lsdd:LsddDetector",
    "learned_kernel": "fieldrepair_monitoring.detectors.learned_kernel:LearnedKernelDetector",
    "context_mmd": "fieldrepair_monitoring.detectors.context_mmd:ContextMmdDetector",
    "online_mmd": "fieldrepair_monitoring.detectors.online_mmd:OnlineMmdDetector",
    "frouros_mmd": "fieldrepair_monitoring.detectors.frouros_mmd:FrourosMmdDetector",
    "frouros_ks": "fieldrepair_monitoring.detectors.frouros_ks:FrourosKsDetector",
    "trend": "fieldrepair_monitoring.detectors.trend:TrendDetector",
    "tabular": "fieldrepair_monitoring.detectors.tabular:TabularDetector",
}
"""Module and class of each; imported when it is asked for, since the libraries take seconds."""

Factory = Callable[[DetectorOptions], Detector]


def detector_names() -> tuple[str, ...]:
    """Every detector there is, those of this package first."""
    offered = sorted(point.name for point in entry_points(group=ENTRY_POINTS))
    return (*BUILT_IN, *(name for name in offered if name not in BUILT_IN))


def detector_factory(name: str) -> Factory:
    """What makes the detector of this name. Imports its library.

    Raises:
        DetectorError: there is none, or the package that offers it cannot be imported.
    """
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        return cast(Factory, getattr(import_module(module), attribute))
    point = next(iter(entry_points(group=ENTRY_POINTS, name=name)), None)
    if point is None:
        raise DetectorError(f"there is no detector {name!r}; there are {', '.join(detector_names())}")
    try:
        return cast(Factory, point.load())
    except (ImportError, AttributeError) as error:
        raise DetectorError(f"detector {name!r} ({point.value}) cannot be loaded: {error}") from error


def make_detector(name: str, options: DetectorOptions) -> Detector:
    """A new detector, not yet fitted.

    Raises:
        DetectorError: see :func:`detector_factory`.
    """
    return detector_factory(name)(options)
