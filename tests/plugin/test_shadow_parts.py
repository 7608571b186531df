"""The parts of a shadow by themselves; the whole of it is in tests/e2e/test_promotion.py."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from fieldrepair_plugin.last_served import LastServed
from fieldrepair_plugin.memory import available_bytes, resident_bytes
from fieldrepair_plugin.model_uri import ModelTarget
from fieldrepair_plugin.request_form import request_body
from fieldrepair_plugin.shadow_comparison import Comparison
from fieldrepair_plugin.shadow_process import requests_of
from fieldrepair_plugin.shadow_sampling import LoggedRequest, Sampler
from fieldrepair_service.protocols import Predictions
from fieldrepair_service.trial_reports import ShadowReport


def request(name: str, rows: int, classes: tuple[int | None, ...] | None = None) -> LoggedRequest:
    return LoggedRequest(name, tuple(range(rows)), classes or (0,) * rows, (0.9,) * rows, 5.0)


def test_rows_of_the_field_log_become_requests() -> None:
    rows: list[dict[str, object]] = [
        {"request_id": name, "row": row, "predicted_class": number, "confidence": 0.5, "execution_time_ms": 2.5}
        for name, row, number in (("a", 0, 3), ("a", 1, None), ("b", 4, 1))
    ]
    first, second = requests_of(rows)
    assert (first.keys, first.classes, first.milliseconds) == ([("a", 0), ("a", 1)], (3, None), 2.5)
    assert (second.rows, second.classes) == ((4,), (1,))
    assert requests_of([]) == []


def test_no_more_inputs_are_drawn_than_the_rate_allows_and_each_request_has_the_same_chance() -> None:
    sampler = Sampler(10.0, random.Random(0))
    requests = [request(str(number), 2) for number in range(100)]
    taken = 0
    chosen: set[str] = set()
    for second in range(1, 101):
        drawn, left_out = sampler.draw(requests, float(second))
        count = sum(len(each.rows) for each in drawn)
        assert count + left_out["not_sampled"] == 200
        taken += count
        chosen |= {each.request_id for each in drawn}
    assert taken == pytest.approx(1000, abs=20)
    assert len(chosen) > 95
    _, left_out = sampler.draw([request("large", 257)], 102.0)
    assert left_out == {"request_too_large": 257}
    # What was not used is saved for five seconds, no longer.
    drawn, _ = sampler.draw(requests, 1000.0)
    assert sum(len(each.rows) for each in drawn) == 50


def test_a_large_request_is_taken_whole_and_paid_for_afterwards() -> None:
    sampler = Sampler(10.0, random.Random(0))
    drawn, _ = sampler.draw([request("large", 40)], 1.0)
    assert len(drawn) == 1
    assert sampler.draw([request("next", 1)], 2.0)[0] == []
    assert len(sampler.draw([request("next", 1)], 5.0)[0]) == 1


def test_answers_are_compared_and_counted_on() -> None:
    comparison = Comparison(ShadowReport(), ["cat", "dog"], {"kind": "image"})
    comparison.saw(6)
    comparison.drop("not_sampled", 2)
    answers = Predictions(None, np.array([0, 1, 1], dtype=np.int32), np.array([0.6, 0.7, 0.8], dtype=np.float32))
    comparison.answered(request("a", 3, (0, 0, None)), answers, 7.0)
    comparison.answered(request("b", 1), Predictions(None, None, None), 9.0)
    report = comparison.report(None, None, "no hand-over")
    assert (report.agreed, report.disagreed) == (1, 1)
    assert report.dropped == {"answer_without_class": 2, "not_sampled": 2}
    assert report.seen == report.compared + sum(report.dropped.values())
    [example] = report.disagreements
    assert (example.request_id, example.row, example.champion, example.candidate) == ("a", 1, 0, 1)
    assert (report.champion_timing.mean_ms, report.candidate_timing.mean_ms) == (5.0, 8.0)
    assert report.agreement == 0.5

    stored = ShadowReport.model_validate(json.loads(json.dumps(report.model_dump())))
    again = Comparison(stored, [], {})
    again.saw(1)
    again.drop("queue_full", 1)
    later = again.report(None, None, "")
    assert (later.seen, later.agreed, later.dropped["queue_full"]) == (7, 1, 1)
    assert later.candidate_timing == report.candidate_timing


def test_requests_take_the_form_of_the_signature() -> None:
    rows = np.array([[1.5, 2.5]], dtype=np.float32)
    assert json.loads(request_body(rows, None)) == {"inputs": [[1.5, 2.5]]}
    assert json.loads(request_body(rows, ["a", "b"])) == {
        "dataframe_split": {"columns": ["a", "b"], "data": [[1.5, 2.5]]}
    }


def test_memory_is_the_smaller_of_the_machines_and_the_containers(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 2000 kB\nMemAvailable:    1000 kB\n")
    assert available_bytes(meminfo, tmp_path) == 1000 * 1024
    (tmp_path / "memory.max").write_text("900000\n")
    (tmp_path / "memory.current").write_text("500000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 100000\n")
    assert available_bytes(meminfo, tmp_path) == 500_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes(meminfo, tmp_path) == 1000 * 1024
    assert available_bytes(tmp_path / "none", tmp_path) is None
    assert resident_bytes(2**22 + 1) == 0


def test_the_last_served_version_is_for_its_own_model(tmp_path: Path) -> None:
    last = LastServed(tmp_path)
    champion = ModelTarget("digits", alias="champion")
    assert last.read(champion) is None
    last.keep("digits", "4")
    assert LastServed(tmp_path).read(champion) == "4"
    assert last.read(ModelTarget("fashion", alias="champion")) is None
    assert last.read(ModelTarget("fashion", version="2")) == "2"
    (tmp_path / "served.json").write_text("[]")
    assert last.read(champion) is None
    LastServed(tmp_path / "not-there").keep("digits", "5")  # a disk that takes nothing keeps nobody from serving
