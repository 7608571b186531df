"""The benchmark of faulty trainings: its faults are faults, its numbers are counted right, a run can be repeated."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import training_faults
from benchmarks.fault_cases import faults
from benchmarks.fault_data import available, fault_data
from benchmarks.fault_records import FaultRecord, compare, read_fault_records, score_doctor
from benchmarks.fault_report import BEGIN, draw_rates, summary, write_page
from benchmarks.pages import END
from fieldrepair_service.errors import InputError


def record(fault: str, strategy: str, seed: int, rate: float) -> FaultRecord:
    return FaultRecord(
        fault, "mutant", False, strategy, seed, 100, 200, 0.1, 0.1 + 0.8 * rate, 0.9, rate,
        ["slow_convergence"], "slow_convergence", [], 20, 19, 0, 0, 11, False, 1.0,
    )  # fmt: skip


def test_there_are_at_least_20_faults_and_each_differs_from_its_correct_version() -> None:
    every = faults()
    assert len({fault.name for fault in every}) == len(every) >= 20
    assert sum(fault.kind.startswith("study") for fault in every) == 9
    assert sum(fault.larger for fault in every) >= 2
    for fault in every:
        assert fault.faulty != fault.fixed, fault.name
        assert fault.fixed.plan.initialisation == "keep"


def test_no_input_is_in_two_parts_of_a_set() -> None:
    for name in ("digits", "wine", "cancer", "circles", "moons"):
        assert available(name)
        data = fault_data(name)
        parts = [data.trial.train_x, data.trial.val_x, data.test_x]
        rows: list[set[bytes]] = [{row.numpy().tobytes() for row in part} for part in parts]
        assert not (rows[0] | rows[1]) & rows[2], name


def test_a_comparison_is_paired_and_one_sided() -> None:
    records = [record(f"f{at}", "random", seed, 0.5) for at in range(4) for seed in range(3)]
    records += [record(f"f{at}", "guided", seed, 0.6 + 0.1 * at) for at in range(4) for seed in range(3)]
    found = compare(records, "guided")
    assert found is not None
    assert (found.runs, found.random_rate) == (12, 0.5)
    assert found.mean_rate == pytest.approx(0.75)
    assert found.p_faults == pytest.approx(1 / 16)
    assert compare(records, "gp") is None
    same = compare(records, "random")
    assert same is not None
    assert same.p_runs is None


def test_the_doctor_is_scored_once_per_fault_and_seed() -> None:
    records = [record("a", "random", 0, 1.0), record("a", "gp", 0, 1.0), record("b", "random", 0, 1.0)]
    records[2] = replace(records[2], diagnosis=["dying_relu"], healthy_diagnosis=["oscillating_loss"])
    score = score_doctor([*records, replace(record("c", "random", 0, 1.0), injected=None)])
    assert (score.injected, score.named, score.healthy, score.false_alarms) == (2, 1, 3, 1)
    assert score.missed == ("b/0: dying_relu",)


def test_a_small_run_and_its_repetition(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, page, plot = tmp_path / "out.json", tmp_path / "page.md", tmp_path / "rates.png"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    options = ["--faults", "wine_unscaled", "--strategy", "random,guided", "--trainings", "4", "--seed", "0"]
    options += ["--json", str(path), "--page", str(page), "--plot", str(plot)]
    assert training_faults.main(options) == 0
    stored = json.loads(path.read_text())
    assert {
        "fault",
        "strategy",
        "seed",
        "epochs",
        "faulty",
        "repaired",
        "fixed",
        "improvement_rate",
        "diagnosis",
    } <= set(stored[0])
    assert stored[0]["injected"] == "inputs_unscaled"
    assert stored[0]["diagnosis"][0] == "inputs_unscaled"
    assert stored[0]["healthy_diagnosis"] == []
    assert all(each["epochs"] <= each["budget"] == 60 for each in stored)
    guided = next(each for each in read_fault_records(path) if each.strategy == "guided")
    assert guided.improvement_rate == pytest.approx((guided.repaired - guided.faulty) / (guided.fixed - guided.faulty))
    assert guided.improvement_rate > 0.8
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| wine_unscaled |" in text
    assert plot.stat().st_size > 1000
    modified = path.stat().st_mtime_ns
    assert training_faults.main(options) == 0
    assert path.stat().st_mtime_ns == modified, "nothing was left to measure"
    assert "wine_unscaled" in capsys.readouterr().out


def test_faults_without_their_data_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FIELDREPAIR_DATA", "")
    assert training_faults.main(["--faults", "cifar10_low_rate"]) == 0
    assert "left out, their data is not here (FIELDREPAIR_DATA): cifar10_low_rate" in capsys.readouterr().out
    with pytest.raises(InputError, match="expected faults out of digits_hidden_softmax"):
        training_faults.main(["--faults", "nonsense"])


def test_a_summary_of_many_searches(tmp_path: Path) -> None:
    records = [record(f"f{at}", name, seed, rate) for at in range(2) for seed in range(2) for name, rate in (
        ("random", 0.5), ("gp", 0.6), ("guided", 0.9))]  # fmt: skip
    records[1] = replace(records[1], effectively_random=True)
    text = summary(records)
    assert "gp in 1 of 4 runs" in text
    assert "names the injected problem in 4 of 4 faulty versions (100%)" in text
    larger = replace(record("cifar10_low_rate", "random", 0, 0.5), larger=True, faulty=0.1, repaired=0.12, fixed=0.4)
    # 120 of 1,000 against 100: Fisher's exact test, one-sided, gives 0.087.
    assert "cifar10_low_rate by random: 10.0% -> 12.0% (correct version 40.0%), p 0.087 on inputs" in summary([larger])
    draw_rates(records, tmp_path / "plot.png")
    (tmp_path / "page.md").write_text("nothing")
    with pytest.raises(InputError, match="to have a line"):
        write_page(records, tmp_path / "page.md", None)
