"""How often detectors cry wolf, and how soon they see a shift: ``python -m benchmarks.drift CASE.npz ... --json FILE``.

For each case: windows of unchanged traffic (none may alarm), the shifted inputs, and a ramp from one to the other. One
record per detector and stream. Features are computed once per case; windows are index draws.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console

from benchmarks.drift_case import WINDOW, DriftCase, load_drift_case
from benchmarks.drift_cost import soak, speed
from benchmarks.drift_oracle import Oracle
from benchmarks.drift_others import OTHERS, Other
from benchmarks.drift_record import Decisions, Record, Severity, make_record, table
from benchmarks.drift_streams import DriftStream, after_calm, no_drift, ramp, shifted
from fieldrepair_monitoring.detectors import Detector, DetectorOptions, DriftScore, make_detector
from fieldrepair_monitoring.detectors.calibrated import CalibratedDetector
from fieldrepair_monitoring.detectors.combination import CombinedScore, combine
from fieldrepair_monitoring.detectors.trend import TrendDetector
from fieldrepair_monitoring.features import Features
from fieldrepair_monitoring.settings import MonitorSettings
from fieldrepair_monitoring.severity import AccuracyEstimator

Scores = dict[str, list[DriftScore]]
Decided = tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]
"""Of each window: whether it has drifted, and whether that needs no other window to confirm it."""

IMAGES = "trend,mmd,ks,uncertainty,classes,lsdd,learned_kernel,context_mmd,online_mmd,frouros_mmd,frouros_ks"
TABLES = "trend,tabular,mmd,ks,uncertainty,classes,lsdd,learned_kernel,context_mmd,online_mmd,frouros_mmd,frouros_ks"
OURS = "fieldrepair"
"""Our default detectors, where they are compared with others."""
OFTENER = 0.015
"""Where others are sooner because they alarm oftener: ours at the rate that is about half of theirs."""
SPLITS = 5
COMPARED_RAMPS = 20
ESTIMATED_WINDOWS = 50
EARLIER_WINDOWS = 19
"""Unchanged ones that a detector with a memory has seen before the one that is compared."""


def measure(case: DriftCase, options: argparse.Namespace, console: Console) -> list[Record]:
    """All records of one case."""
    settings = MonitorSettings()
    names = options.detectors.split(",") if options.detectors else (TABLES if case.tabular else IMAGES).split(",")
    default = settings.detector_names
    sets = [default, *(tuple(words.split("+")) for words in options.together.split(",") if words)]
    sets = [words for words in sets if set(words) <= set(names)]
    compares = options.compare > 0 and not case.tabular and default in sets
    lots: list[DriftStream] = []
    calm: dict[str, Decisions] = {}
    records: list[Record] = []
    estimators: list[AccuracyEstimator] = []
    oracle = Oracle(case, options.p_value)
    for split in range(SPLITS):
        reference, traffic = case.split(split, settings.drift_reference_size)
        fitted = _fit(names, reference.features, options, console if split == 0 else None)
        stream = no_drift(traffic, options.windows // SPLITS, split)
        lots.append(stream)
        scores, seconds = _score(fitted, stream)
        decided = _decide(scores, [words for words in sets if set(words) <= set(fitted)], options)
        for name, said in decided.items():
            _add(calm, name, said, seconds.get(name, 0.0))
        estimator = AccuracyEstimator(reference.features, reference.labels, case.training)
        ramped = ramp(case, traffic, split)
        ramps = (ramped, after_calm(ramped, traffic, split))
        for moving in (shifted(case), *ramps) if split == 0 else ramps:
            # A ramp is one draw: five of them, each with its own reference, show how much the delay varies.
            named = replace(moving, name=moving.name if split == 0 else f"{moving.name}_{split}")
            severity = _severity(estimator, moving)
            moved, took = _score(fitted, moving)
            decided = _decide(moved, [words for words in sets if set(words) <= set(fitted)], options)
            for name, (drifted, at_once) in decided.items():
                decisions = Decisions([drifted], took.get(name, 0.0), [at_once])
                records.append(make_record(case, name, named, decisions, severity, options.p_value))
            if moving.loss is not None:
                known = Decisions([oracle.drifted(reference, moving)], 0.0)
                records.append(make_record(case, oracle.name, named, known, severity, options.p_value))
        estimators.append(estimator)
        if split == 0:
            console.print(f"  {case.name}: shifted traffic measured")
    calm_severity = _severity(estimators[0], replace(lots[0], windows=lots[0].windows[:ESTIMATED_WINDOWS]))
    for name, decisions in calm.items():
        records.append(make_record(case, name, lots[0], decisions, calm_severity, options.p_value))
    if compares:
        records += _compare_shifted(case, default, options)
        records += _compare_calm(case, default, options, calm_severity)
        console.print(f"  {case.name}: compared on {options.compare} unchanged windows")
    return records


def _compare_shifted(case: DriftCase, default: Sequence[str], options: argparse.Namespace) -> list[Record]:
    """How soon ours and others see the same shifts; every draw of a ramp has a reference of its own."""
    records: list[Record] = []
    for draw in range(COMPARED_RAMPS):
        reference, traffic = case.split(draw, MonitorSettings().drift_reference_size)
        fitted = _fit(default, reference.features, options, None)
        estimator = AccuracyEstimator(reference.features, reference.labels, case.training)
        ramped = ramp(case, traffic, draw)
        calm_first = after_calm(ramped, traffic, draw)
        for moving in (shifted(case), ramped, calm_first) if draw == 0 else (ramped, calm_first):
            named = replace(moving, name=f"{moving.name}_{draw}_compared" if draw else f"{moving.name}_compared")
            severity = _severity(estimator, moving)
            scores, took = _score(fitted, moving)
            for name, alpha in _operating_points(options):
                drifted, at_once = _together(scores, default, alpha)
                ours = Decisions([drifted], sum(took.values()), [at_once])
                records.append(make_record(case, name, named, ours, severity, alpha))
            for other in OTHERS:
                theirs = _others(other(reference.features), moving, draw, until_confirmed=True)
                records.append(make_record(case, other.name, named, theirs, severity, None))
    return records


def _compare_calm(
    case: DriftCase, default: Sequence[str], options: argparse.Namespace, severity: Severity
) -> list[Record]:
    """False alarms of ours and of others: each window has a reference of its own, drawn anew and without it.

    So window and reference are exchangeable, and a test at 5 % must alarm on 5 % of windows. Windows that share a
    reference share its luck, and a hundred of them say little more than one.
    """
    compared: dict[str, Decisions] = {}
    streams: list[DriftStream] = []
    for split in range(options.compare):
        reference, traffic = case.split(split, MonitorSettings().drift_reference_size)
        stream = replace(no_drift(traffic, EARLIER_WINDOWS + 1, split), name="no_drift_fresh_reference")
        last = replace(stream, windows=stream.windows[-1:])
        streams.append(last)
        fitted = _fit(default, reference.features, options, None)
        scores, seconds = _score(fitted, stream)
        for name, alpha in _operating_points(options):
            drifted, at_once = _together(scores, default, alpha)
            _add(compared, name, (drifted[-1:], at_once[-1:]), sum(seconds.values()))
        for other in OTHERS:
            theirs = _others(other(reference.features), last, split, until_confirmed=False)
            _add(compared, other.name, (theirs.drifted[0], np.zeros_like(theirs.drifted[0])), theirs.seconds)
    rates = dict(_operating_points(options))
    return [
        make_record(case, name, streams[0], decisions, severity, rates.get(name))
        for name, decisions in compared.items()
    ]


def _operating_points(options: argparse.Namespace) -> tuple[tuple[str, float], ...]:
    """Ours as chosen, and oftener: a name and a rate of false alarms per window."""
    return (OURS, options.p_value), (f"{OURS}, {OFTENER} per window", OFTENER)


def _add(decisions: dict[str, Decisions], name: str, said: Decided, seconds: float) -> None:
    before = decisions.get(name, Decisions([], 0.0, []))
    drifted, at_once = said
    decisions[name] = Decisions(
        [*before.drifted, drifted], before.seconds + seconds, [*(before.at_once or []), at_once]
    )


def _others(test: Other, stream: DriftStream, seed: int, *, until_confirmed: bool) -> Decisions:
    """Another library's decisions, window by window; they are slow, so perhaps only until the shift is confirmed."""
    np.random.seed(seed)  # evidently draws from the global generator,
    torch.manual_seed(seed)  # and alibi-detect from torch's
    said: list[bool] = []
    began = time.perf_counter()
    for window in stream.windows:
        said.append(test.drifted(stream.pool.features.take(window)))
        if until_confirmed and any(at >= stream.calm for at in Decisions([np.array(said)], 0.0).confirmed(0)):
            break
    return Decisions([np.array(said)], time.perf_counter() - began)


def _fit(
    names: Sequence[str], reference: Features, options: argparse.Namespace, console: Console | None
) -> dict[str, Detector]:
    fitted: dict[str, Detector] = {}
    for name in names:
        detector = make_detector(
            name,
            DetectorOptions(
                p_value=options.p_value,
                window_size=WINDOW,
                calibration_windows=options.calibration_windows,
                min_effect=MonitorSettings().drift_min_effect,
            ),
        )
        began = time.perf_counter()
        detector.fit(reference)
        fitted[name] = detector
        if console is not None:
            console.print(f"  {name}: fitted on {len(reference)} inputs in {time.perf_counter() - began:.1f} s")
    return fitted


def _score(fitted: Mapping[str, Detector], stream: DriftStream) -> tuple[Scores, dict[str, float]]:
    scores: Scores = {}
    seconds: dict[str, float] = {}
    for name, detector in fitted.items():
        windows = stream.windows
        began = time.perf_counter()
        if isinstance(detector, CalibratedDetector):
            scores[name] = detector.score_many(stream.pool.features, windows)
        elif isinstance(detector, TrendDetector):
            scores[name] = detector.score_stream(stream.pool.features, windows)
        else:
            scores[name] = [detector.score(stream.pool.features.take(window)) for window in windows]
        seconds[name] = time.perf_counter() - began
    return scores, seconds


def _decide(scores: Scores, sets: Sequence[tuple[str, ...]], options: argparse.Namespace) -> dict[str, Decided]:
    """Each detector by itself, and the sets of detectors as one decision each."""
    decided = {name: _said(of) for name, of in scores.items()}
    for names in sets:
        decided["+".join(names)] = _together(scores, names, options.p_value)
    return decided


def _together(scores: Scores, names: Sequence[str], alpha: float) -> Decided:
    """Some detectors as one decision."""
    settings = MonitorSettings()
    windows = min(len(scores[name]) for name in names)
    return _said(
        [
            combine(
                {name: scores[name][at] for name in names},
                alpha=alpha,
                min_effect=settings.drift_min_effect,
                multiplicity=settings.drift_multiplicity,
            )
            for at in range(windows)
        ]
    )


def _said(of: Sequence[DriftScore | CombinedScore]) -> Decided:
    return np.array([each.drifted for each in of]), np.array([each.confirmed for each in of])


def _severity(estimator: AccuracyEstimator, stream: DriftStream) -> Severity:
    estimates = [estimator.estimate(stream.pool.features.take(window)) for window in stream.windows]
    return Severity(
        true_accuracy=float(stream.pool.right[stream.windows].mean()),
        estimated_accuracy=float(np.mean([estimate.value for estimate in estimates])),
        interval_low=float(np.mean([estimate.low for estimate in estimates])),
        interval_high=float(np.mean([estimate.high for estimate in estimates])),
        trusted_share=float(np.mean([estimate.trusted for estimate in estimates])),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drift", description=__doc__)
    parser.add_argument("cases", nargs="*", type=Path, metavar="CASE.npz")
    parser.add_argument("--detectors", help=f"comma-separated; default for images: {IMAGES}")
    parser.add_argument("--together", default="frouros_mmd+frouros_ks,tabular+mmd", help="sets as one decision")
    parser.add_argument("--windows", type=int, default=10_000, help="of unchanged traffic")
    parser.add_argument("--p-value", type=float, default=0.005, help="configured false alarms per window")
    parser.add_argument("--calibration-windows", type=int, default=2000)
    parser.add_argument("--compare", type=int, default=200, help="unchanged windows for the comparison; 0: none")
    parser.add_argument("--soak", type=int, default=0, help="score so many windows and watch the memory")
    parser.add_argument("--speed", action="store_true", help="time MMD on 1,000 x 512 embeddings")
    parser.add_argument("--json", type=Path, help="write one record per detector and stream")
    parser.add_argument("--models", type=Path, default=Path("build/benchmarks"), help="keeps models it had to train")
    options = parser.parse_args(arguments)
    console = Console()
    records: list[Record] = []
    others: list[dict[str, object]] = [speed()] if options.speed else []
    for path in options.cases:
        console.print(f"{path.stem}: features ...")
        case = load_drift_case(path, options.models)
        if options.soak:
            others.append(soak(case, options.soak, console))
        else:
            records += measure(case, options, console)
        if options.json:
            # After every case: a run that is interrupted keeps what it has measured.
            options.json.parent.mkdir(parents=True, exist_ok=True)
            everything = [*(asdict(record) for record in records), *others]
            options.json.write_text(json.dumps(everything, indent=2) + "\n", encoding="utf-8")
    console.print(table(records))
    for measured in others:
        console.print(measured)
    return 0


if __name__ == "__main__":
    sys.exit(main())
