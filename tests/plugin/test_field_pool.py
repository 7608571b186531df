"""Gathering and splitting field inputs: what judges a repair never trains it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldrepair_plugin.case_planning import budget_for
from fieldrepair_plugin.field_pool import count_inputs, gather, read_inputs, split
from fieldrepair_service.errors import InputError
from fieldrepair_service.field_log import FIELD_LOG_SCHEMA, FieldLog
from fieldrepair_service.inputs import ImageInput

SPEC = ImageInput(height=2, width=2)


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=60), size=st.integers(1, 40), seed=st.integers(0, 99))
def test_the_two_sides_share_nothing(sizes: list[int], size: int, seed: int) -> None:
    requests = [f"r{number}" for number, count in enumerate(sizes) for _ in range(count)]
    if len(requests) < 2 * size:
        with pytest.raises(InputError, match=f"needs at least {2 * size} field inputs, got {len(requests)}"):
            split(requests, size, seed)
        return
    parts = split(requests, size, seed)
    assert len(parts.acceptance) == size
    assert not set(parts.acceptance.tolist()) & set(parts.adaptation.tolist())
    assert len(parts.adaptation) >= (len(requests) // 2 if parts.by_request else len(requests) - size)
    judged = {requests[int(at)] for at in parts.acceptance}
    trained = {requests[int(at)] for at in parts.adaptation}
    assert not parts.by_request or not judged & trained


def test_the_draw_is_random_and_repeatable() -> None:
    requests = [f"r{index // 5}" for index in range(500)]
    first, again, other = split(requests, 100, 7), split(requests, 100, 7), split(requests, 100, 8)
    assert first.acceptance.tolist() == again.acceptance.tolist()
    assert first.acceptance.tolist() != other.acceptance.tolist()
    assert first.by_request
    # Every request is as likely as any other: over many draws each input comes up about 1 time in 5.
    counts = np.zeros(500)
    for seed in range(400):
        counts[split(requests, 100, seed).acceptance] += 1
    assert counts.sum() == 400 * 100
    assert counts.min() > 40
    assert counts.max() < 125


def test_one_giant_request_is_split_by_row() -> None:
    parts = split(["only"] * 300, 100, 0)
    assert not parts.by_request
    assert len(parts.adaptation) == 200


@pytest.mark.parametrize(("inputs", "spent", "expected"), [(500, 0, 25), (650, 0, 32), (10, 0, 1), (500, 20, 5)])
def test_the_budget_never_exceeds_its_share(inputs: int, spent: int, expected: int) -> None:
    assert budget_for(inputs, 0.05, spent) == expected


def row(number: int, value: bytes, dtype: str, shape: list[int], version: str = "1") -> dict[str, object]:
    return {
        "writer": "w",
        "seq": number,
        "row": 0,
        "request_id": f"r{number}",
        "timestamp_ms": number,
        "date": "1970-01-01",
        "model_name": "m",
        "model_version": version,
        "protocol": "mlflow",
        "status_code": 200,
        "execution_time_ms": 1.0,
        "sampling_fraction": 1.0,
        "input": value,
        "dtype": dtype,
        "shape": shape,
    }


@pytest.fixture
def log(tmp_path: Path) -> FieldLog:
    good = [np.full((1, 2, 2), number, dtype=kind) for number, kind in enumerate(("float32", "float64", "int64"))]
    rows = [row(number, array.tobytes(), array.dtype.name, [1, 2, 2]) for number, array in enumerate(good)]
    nan = np.array([[[0.0, np.nan], [0.0, 0.0]]], dtype=np.float32)
    rows.append(row(3, nan.tobytes(), "float32", [1, 2, 2]))
    rows.append(row(4, np.zeros(3, dtype=np.float32).tobytes(), "float32", [3]))
    rows.append(row(5, good[0].tobytes(), "float32", [1, 2, 2], version="2"))
    rows.append(row(6, good[0].tobytes(), "float32", [1, 2, 2]))
    log = FieldLog.open(tmp_path / "log")
    log.append(pa.Table.from_pylist(rows, schema=FIELD_LOG_SCHEMA), writer="w", last_seq=6)
    return log


def test_gathers_what_the_model_can_take(log: FieldLog) -> None:
    pool = gather(log, "m", "1", SPEC, {}, limit=100)
    assert pool.keys == [("r0", 0), ("r1", 0), ("r2", 0), ("r6", 0)]
    assert pool.x.dtype == np.float32
    assert pool.x[:, 0, 0, 0].tolist() == [0.0, 1.0, 2.0, 0.0]
    assert pool.skipped == 2
    assert pool.cursor_end == {"w": (6, 0)}
    assert count_inputs(log, "m", "1", {}, 100) == 6


def test_gathering_stops_where_it_is_told_to(log: FieldLog) -> None:
    assert gather(log, "m", "1", SPEC, {"w": (0, 0)}, limit=100).keys[0] == ("r1", 0)
    assert gather(log, "m", "1", SPEC, {}, limit=100, end={"w": (1, 0)}).keys == [("r0", 0), ("r1", 0)]
    assert gather(log, "m", "1", SPEC, {}, limit=2).keys == [("r0", 0), ("r1", 0)]
    assert len(gather(log, "other", "1", SPEC, {}, limit=2)) == 0


def test_reads_by_name_in_the_order_asked(log: FieldLog) -> None:
    assert read_inputs(log, [("r2", 0), ("r0", 0)], SPEC)[:, 0, 0, 0].tolist() == [2.0, 0.0]
    with pytest.raises(InputError, match=r"\('r3', 0\) is not a finite instance of shape \(1, 2, 2\)"):
        read_inputs(log, [("r0", 0), ("r3", 0)], SPEC)
