"""What the default detectors cost: memory over many windows, and the seconds of one large comparison."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks.drift_case import DriftCase
from fieldrepair_monitoring.detectors import DetectorOptions, RemembersWindows, make_detector
from fieldrepair_monitoring.features import Features
from fieldrepair_monitoring.settings import MonitorSettings


def soak(case: DriftCase, windows: int, console: Console) -> dict[str, object]:
    """Score so many windows one after another, as the monitor does; resident memory after a tenth, and at the end."""
    settings = MonitorSettings()
    reference, traffic = case.split(0, settings.drift_reference_size)
    fitted = {
        name: make_detector(name, DetectorOptions(window_size=settings.window_size)) for name in settings.detector_names
    }
    for detector in fitted.values():
        detector.fit(reference.features)
    generator = np.random.default_rng(0)
    resident: list[int] = []
    memories = dict.fromkeys(fitted, "")
    began = time.perf_counter()
    for at in range(windows):
        window = traffic.features.take(generator.integers(len(traffic), size=settings.window_size))
        for name, detector in fitted.items():
            if isinstance(detector, RemembersWindows):
                score = detector.score_after(window, memories[name])
                memories[name] = detector.remember(window, memories[name], calm=not score.drifted)
            else:
                detector.score(window)
        if at % (windows // 10) == windows // 10 - 1:
            resident.append(_resident())
            console.print(f"  {at + 1} windows: {resident[-1] / 2**20:.0f} MiB")
    return {
        "measurement": "soak",
        "case": case.name,
        "detectors": list(fitted),
        "windows": windows,
        "resident_bytes": resident,
        "milliseconds_per_window": 1000 * (time.perf_counter() - began) / windows,
    }


def speed() -> dict[str, object]:
    """MMD on 1,000 embeddings of 512 numbers against a window of 1,000, with 200 calibration windows."""
    generator = np.random.default_rng(0)

    def features() -> Features:
        rows = generator.standard_normal((1000, 512)).astype(np.float32)
        return Features(rows[:, :2], rows[:, :2], rows)

    make_detector("mmd", DetectorOptions()).fit(features())  # loads alibi-detect
    detector = make_detector("mmd", DetectorOptions(p_value=0.01, window_size=1000, calibration_windows=200))
    reference, window = features(), features()
    began = time.perf_counter()
    detector.fit(reference)
    fitted = time.perf_counter()
    detector.score(window)
    ended = time.perf_counter()
    return {
        "measurement": "speed",
        "detector": "mmd",
        "fit_seconds": fitted - began,
        "score_seconds": ended - fitted,
        "seconds": ended - began,
    }


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()
