from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from rich.console import Console

from benchmarks import drift
from benchmarks.drift import main
from benchmarks.drift_case import DriftCase, Labelled
from benchmarks.drift_others import PlainMmdDrift
from benchmarks.drift_record import Decisions, upper_bound
from fieldrepair_monitoring.features import Features


def test_a_table_is_measured_from_end_to_end(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)

    def rows(n: int, shift: float) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        x = generator.standard_normal((n, 3)).astype(np.float32)
        return x + np.float32(shift), (x[:, 0] > 0).astype(np.int64)

    (train_x, train_y), (test_x, test_y) = rows(3000, 0.0), rows(2000, 2.0)
    np.savez(tmp_path / "table.npz", train_x=train_x, train_y=train_y, test_x=test_x, test_y=test_y)
    out = tmp_path / "records.json"
    arguments = ["--detectors", "tabular,frouros_ks,trend", "--together", "tabular+frouros_ks", "--windows", "50"]
    assert main([str(tmp_path / "table.npz"), *arguments, "--calibration-windows", "500", "--json", str(out)]) == 0
    records = json.loads(out.read_text())
    ramps = [f"{ramp}{split}" for ramp in ("ramp", "ramp_after_calm") for split in ("", "_1", "_2", "_3", "_4")]
    assert {(record["detector"], record["stream"]) for record in records} == {
        (detector, stream)
        for detector in ("tabular", "frouros_ks", "trend", "tabular+frouros_ks")
        for stream in ("no_drift", "shifted", *ramps)
    } | {("oracle (knows the shift)", ramp) for ramp in ramps}
    for record in records:
        if record["stream"] == "no_drift":
            assert (record["windows"], record["window_size"], record["delay_windows"]) == (50, 250, None)
            assert record["alarms"] <= 2
            assert record["true_accuracy"] == pytest.approx(record["estimated_accuracy"], abs=0.1)
        if record["stream"] == "shifted":
            # All of it is shifted: for one that compares with earlier windows, nothing changes.
            expected = (4, None, None) if record["detector"] == "trend" else (4, 1, 2)
            assert (record["windows"], record["delay_windows"], record["confirmed_delay_windows"]) == expected
            assert record["true_accuracy"] < 0.7
        if record["stream"].startswith("ramp" if record["detector"] != "trend" else "ramp_after"):
            assert 0 < record["loss_at_alarm"] < 0.4
            assert record["windows"] == (60 if "calm" in record["stream"] else 40)
            assert record["delay_windows"] == 1 + round(39 * record["loss_at_alarm"])
            assert record["alarms_while_calm"] <= 1


def blobs(n: int, shift: float, seed: int) -> Labelled:
    """Embeddings around one of two middles, and a model that mostly tells which."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(2, size=n)
    rows = generator.standard_normal((n, 4)) + 2.0 * labels[:, None] + shift
    scores = 1 / (1 + np.exp(-np.stack([4.0 - rows.sum(axis=1), rows.sum(axis=1) - 4.0], axis=1)))
    embeddings = rows.astype(np.float32)
    return Labelled(Features(scores.astype(np.float32), scores.astype(np.float32), embeddings), labels)


CASE = DriftCase("blobs", blobs(200, 0.0, 1).features.embeddings, blobs(1500, 0.0, 2), blobs(1500, 1.5, 3))


def test_traffic_gets_a_window_s_worth_but_never_more_than_half() -> None:
    def sizes(validation: int, reference_size: int = 10_000) -> tuple[int, int]:
        case = replace(CASE, validation=blobs(validation, 0.0, 4))
        reference, traffic = case.split(0, reference_size)
        together = np.concatenate([reference.features.embeddings, traffic.features.embeddings])
        assert len(np.unique(together, axis=0)) == len(together), "what is unchanged traffic is no reference"
        return len(reference), len(traffic)

    assert sizes(3000) == (2000, 1000)
    assert sizes(1200) == (700, 500)
    assert sizes(600) == (300, 300)
    assert sizes(3000, 800) == (800, 1000)


def test_ours_at_two_rates_and_others_see_the_same_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "OTHERS", (PlainMmdDrift,))
    monkeypatch.setattr(drift, "COMPARED_RAMPS", 2)
    options = Namespace(
        detectors="mmd,uncertainty,trend", together="", windows=10, p_value=0.005, calibration_windows=1000, compare=3
    )
    records = drift.measure(CASE, options, Console(quiet=True))
    compared = [each for each in records if each.stream.endswith("_compared")]
    streams = {
        "shifted_compared",
        *(f"{name}_compared" for name in ("ramp", "ramp_after_calm", "ramp_1", "ramp_after_calm_1")),
    }
    rates = {drift.OURS: 0.005, f"{drift.OURS}, 0.015 per window": 0.015, PlainMmdDrift.name: None}
    assert {(each.detector, each.configured_rate, each.stream) for each in compared} == {
        (name, rate, stream) for name, rate in rates.items() for stream in streams
    }
    for each in compared:
        assert each.confirmed_delay_windows is not None
        assert each.delay_windows is not None
        assert each.delay_windows <= each.confirmed_delay_windows
    delays = {(each.detector, each.stream): each.delay_windows or 99 for each in compared}
    names = list(rates)
    assert all(delays[names[1], stream] <= delays[names[0], stream] for stream in streams), "oftener is sooner"
    calm = {each.detector: each for each in records if each.stream == "no_drift_fresh_reference"}
    assert {name: each.windows for name, each in calm.items()} == dict.fromkeys(rates, 3)


def test_the_quick_form_of_alibi_detect_s_mmd_is_its_own() -> None:
    generator = np.random.default_rng(0)

    def features(n: int, shift: float) -> Features:
        rows = (generator.standard_normal((n, 6)) + shift).astype(np.float32)
        return Features(rows, rows, rows)

    other = PlainMmdDrift(features(80, 0.0))
    seen: list[float] = []
    for seed, shift in enumerate((0.0, 0.0, 0.1, 0.2, 1.0)):
        window = features(40, shift)
        torch.manual_seed(seed)
        theirs = other.test.predict(window.embeddings)["data"]
        torch.manual_seed(seed)
        assert other.p_value(window) == pytest.approx(theirs["p_val"], abs=1e-6)
        torch.manual_seed(seed)
        assert other.drifted(window) == bool(theirs["is_drift"])
        seen.append(theirs["p_val"])
    assert min(seen) < 0.05 < max(seen)


def test_confirmation_counts_shifts_and_not_windows() -> None:
    seen = [bool(int(digit)) for digit in "0100011011000110"]
    assert Decisions([np.array(seen)], 0.0).confirmed(0) == [6, 14], "the second after three calm ones"


def test_the_upper_bound_by_hand() -> None:
    assert upper_bound(0, 10_000) == pytest.approx(1 - 0.05 ** (1 / 10_000), rel=1e-6)
    assert upper_bound(5, 5) == 1.0
