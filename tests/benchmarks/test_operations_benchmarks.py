"""The measurements behind the page on capacity, small: they count what they say they count."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.request_trace import microseconds
from benchmarks.storage import PER_COMMIT, book_size, log_size


def test_the_size_of_a_field_log_is_that_of_its_rows(tmp_path: Path) -> None:
    zeros = log_size("zeros", np.zeros((30, 1, 8, 8), dtype=np.float32), tmp_path / "zeros")
    noise = np.random.default_rng(0).random((30, 1, 8, 8)).astype(np.float32)
    random = log_size("noise", noise, tmp_path / "noise")
    assert (zeros.rows, zeros.raw_bytes, PER_COMMIT) == (30, 256, 1_000)
    assert zeros.json_bytes < random.json_bytes
    assert random.log_bytes > zeros.log_bytes + 150  # noise cannot be compressed, zeros can
    files = sum(path.stat().st_size for path in (tmp_path / "noise").rglob("*.parquet"))
    assert random.log_bytes * 30 <= files


def test_the_size_of_a_case_book_grows_with_windows_and_cases(tmp_path: Path) -> None:
    sizes = book_size(tmp_path / "book.db", windows=60, cases=1)
    assert sizes["case book, empty"] > 0
    assert 50 < sizes["a window"] < 5_000
    assert 10_000 < sizes["a case of 125 questions"] < 200_000


def test_a_call_is_measured_in_processor_time() -> None:
    calls: list[bytes] = []
    assert microseconds(lambda head: calls.append(head.method), b"01") > 0
    assert len(calls) == 7 * 3_000
