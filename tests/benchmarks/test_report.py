"""The page of measurements: what is measured is replaced, what people wrote stays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.figures import OURS, looks_of
from benchmarks.pages import END, with_measured
from benchmarks.records import Record, write_records
from benchmarks.report import BEGIN, leads_section, main
from fieldrepair_service.errors import InputError

RECORD = Record(
    case="camera", strategy="random", recipe="paper", budget=20, labels_used=20, seed=0, keep_reference="off", rounds=1,
    epochs=10, field_before=0.4, field_after=0.6, reference_before=0.9, reference_after=0.88, gap_recovered=None,
    propagation_accuracy=None, kept_epoch=9, forward_per_input=100.0, backward_per_input=12.0, seconds=30.0,
    select_seconds=1.0, peak_memory_bytes=900_000_000, threads=2,
)  # fmt: skip


def test_the_page_gets_a_row_per_way_with_means_over_seeds(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text(f"# Benchmarks\n\nWritten by hand.\n\n{BEGIN}\nold numbers\n{END}\n\nMore by hand.\n")
    full = replace(RECORD, strategy="full", budget=400, labels_used=400, field_after=0.8)
    write_records(tmp_path / "records.json", [RECORD, replace(RECORD, seed=1, field_after=0.72), full])
    for _ in range(2):  # writing it again changes nothing
        assert main([str(tmp_path / "records.json"), "--page", str(page), "--plots", str(tmp_path / "figures")]) == 0
    text = page.read_text()
    assert "old numbers" not in text
    assert "Written by hand." in text
    assert "More by hand." in text
    assert "Before: field 40.0 %, reference 90.0 %. Seeds: 0, 1." in text
    assert "| random | 20 | off | 2 | 66.0 % | 88.0 % | 0.65 |  | 100 + 12 | 30 | 900 |" in text
    assert "| full | 400 | off | 1 | 80.0 % | 88.0 % | 1.00 |" in text
    assert "![labels_camera](figures/labels_camera.png)" in text
    assert text.count(BEGIN) == text.count(END) == 1


def test_our_recipe_stands_beside_each_other_way_by_pairs_of_one_seed() -> None:
    ours = replace(RECORD, strategy="hybridrepair", recipe="default", field_after=0.70)
    records = [
        ours,
        replace(ours, seed=1, field_after=0.66),
        RECORD,  # 0.60, by seed 0 only
        replace(RECORD, strategy="badge", field_after=0.65),
        replace(RECORD, strategy="badge", seed=1, field_after=0.64),
        replace(RECORD, strategy="badge", seed=2, field_after=0.99),  # no pair
        replace(RECORD, strategy="badge", seed=1, keep_reference="strict", field_after=0.99),
        replace(RECORD, strategy="finetune", budget=0, labels_used=0, field_after=0.5),
        replace(RECORD, strategy="gini", budget=40, field_after=0.65),  # with more labels than ours
        replace(RECORD, strategy="gini", budget=80, field_after=0.99),
        replace(RECORD, strategy="mcp", budget=10, field_after=0.99),  # fewer labels say nothing
        replace(RECORD, strategy="coreset", recipe="default", field_after=0.99),  # our own training
        replace(RECORD, strategy="full", budget=400, field_after=0.8),
        replace(RECORD, case="scanner", field_after=0.9),
    ]
    heads, _, *rows = leads_section(records).splitlines()[4:]
    assert heads == "| case | labels | ours | badge | finetune | gini | mcp | random | worst single pair |"
    assert rows == [
        "| camera | 20 | 68.0 % (2) | **+3.5** (2) | +20.0 (1) | +5.0 (1) * |  | +10.0 (1) | +2.0 |",
    ]
    assert leads_section([RECORD]) == ""


def test_no_two_ways_are_drawn_alike_and_ours_stands_out() -> None:
    looks = looks_of({OURS, *(f"way {number}" for number in range(30))})
    assert len(set(looks.values())) == 31
    assert next(iter(looks)) == OURS
    assert all(look.width < looks[OURS].width for name, look in looks.items() if name != OURS)
    assert OURS not in looks_of({"random"})


def test_a_page_without_marks_is_left_alone() -> None:
    with pytest.raises(InputError, match="expected the page to have a line"):
        with_measured("# Benchmarks\n", BEGIN, "numbers")
