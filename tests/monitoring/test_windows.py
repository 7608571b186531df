from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

from fieldrepair_monitoring.windows import FieldWindow, NothingUsable, WindowReader
from fieldrepair_service.field_log import Cursor, FieldLog, FieldRows

if TYPE_CHECKING:
    from tests.monitoring.conftest import FieldWriter
from fieldrepair_service.inputs import ImageInput, TabularInput

SHAPE = (1, 2, 2)
Instances = npt.NDArray[np.generic]


def instances(start: int, count: int, dtype: str = "float32", shape: tuple[int, ...] = SHAPE) -> Instances:
    """Instance i holds the number i everywhere."""
    return np.stack([np.full(shape, number, dtype) for number in range(start, start + count)])


@pytest.fixture
def reader(log: FieldLog) -> WindowReader:
    return make_reader(log)


def make_reader(log: FieldLog, version: str = "1") -> WindowReader:
    return WindowReader(log, "digits", version, spec=ImageInput(height=2, width=2), size=10)


def numbers(found: FieldWindow | NothingUsable | None) -> list[float]:
    assert isinstance(found, FieldWindow)
    assert found.inputs.shape == (10, *SHAPE)
    assert found.inputs.dtype == np.float32
    return found.inputs[:, 0, 0, 0].tolist()


def test_only_full_windows_come_out_and_each_row_once(field: FieldWriter, reader: WindowReader) -> None:
    assert reader.next({}) is None, "an empty log"
    field.write(instances(0, 9))
    assert reader.next({}) is None
    field.write(instances(9, 15), per_request=4)
    first = reader.next({})
    assert numbers(first) == list(range(10))
    assert isinstance(first, FieldWindow)
    assert (first.cursor_start, first.cursor_end) == ({}, {"spool-1": (10, 0)})
    second = reader.next(first.cursor_end)
    assert numbers(second) == list(range(10, 20))
    assert isinstance(second, FieldWindow)
    assert second.cursor_start == first.cursor_end
    assert second.cursor_end == {"spool-1": (12, 2)}, "in the middle of a request"
    assert first.last_timestamp_ms <= second.first_timestamp_ms <= second.last_timestamp_ms
    assert reader.next(second.cursor_end) is None


def test_the_same_cursor_gives_the_same_window(field: FieldWriter, reader: WindowReader, log: FieldLog) -> None:
    field.write(instances(0, 25))
    first = numbers(reader.next({}))
    log.compact()
    field.write(instances(25, 25))
    assert numbers(make_reader(log).next({})) == first


def test_rows_of_several_spools_are_each_read_once(field: FieldWriter, reader: WindowReader) -> None:
    other = replace(field, writer="spool-2")
    field.write(instances(0, 12))
    other.write(instances(100, 12))
    seen: list[float] = []
    cursor: Cursor = {}
    while isinstance(found := reader.next(cursor), FieldWindow):
        seen += numbers(found)
        cursor = found.cursor_end
    assert len(seen) == 20
    assert [n for n in seen if n < 100] == list(range(10))
    assert [n for n in seen if n >= 100] == list(range(100, 110))


def test_other_versions_are_other_streams(field: FieldWriter, log: FieldLog) -> None:
    assert log.streams() == []
    field.write(instances(0, 10))
    replace(field, version="2", writer="spool-2").write(instances(50, 10))
    replace(field, name="faces", writer="spool-3").write(instances(90, 10))
    assert log.streams() == [("digits", "1"), ("digits", "2"), ("faces", "1")]
    log.compact()
    assert log.streams() == [("digits", "1"), ("digits", "2"), ("faces", "1")]
    assert numbers(make_reader(log, "2").next({})) == list(range(50, 60))


@pytest.mark.parametrize("dtype", ["float64", "float16", "int64", "uint8", "bool"])
def test_any_numeric_type_becomes_the_model_s(dtype: str, field: FieldWriter, reader: WindowReader) -> None:
    field.write(instances(0, 5, dtype))
    field.write(instances(5, 5, "float64"))
    expected = [*instances(0, 5, dtype)[:, 0, 0, 0].astype(float).tolist(), 5, 6, 7, 8, 9]
    assert numbers(reader.next({})) == expected


def test_rows_the_model_cannot_take_are_passed_over(field: FieldWriter, reader: WindowReader) -> None:
    field.write(instances(0, 4))
    field.write(instances(0, 3, shape=(4,)))
    field.write(np.full((2, *SHAPE), np.nan, np.float32))
    field.write(instances(0, 1, "complex64"))
    field.write(instances(4, 3))
    assert reader.next({}) is None, "13 rows, of which 7 can be used"
    field.write(instances(7, 2))
    assert reader.next({}) is None
    field.write(instances(9, 1))
    found = reader.next({})
    assert numbers(found) == list(range(10))
    assert isinstance(found, FieldWindow)
    assert found.skipped == Counter(shape=3, not_finite=2, dtype=1)
    assert found.cursor_end == {"spool-1": (16, 0)}


def test_nothing_but_unusable_rows_does_not_hold_the_stream_up(field: FieldWriter, reader: WindowReader) -> None:
    field.write(instances(0, 25, shape=(3,)))
    found = reader.next({})
    assert isinstance(found, NothingUsable)
    assert found.skipped == Counter(shape=25)
    assert found.cursor_end == {"spool-1": (25, 0)}
    field.write(instances(0, 10))
    assert numbers(reader.next(found.cursor_end)) == list(range(10))


def test_a_look_that_found_too_little_waits_for_as_many_rows_as_it_lacked(
    field: FieldWriter, reader: WindowReader, log: FieldLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partly filled window of large images is not read again at every look."""
    reads: list[object] = []
    real = log.read_after

    def counted(*arguments: Any, **options: Any) -> FieldRows:
        if options["columns"]:
            reads.append(options)
        return real(*arguments, **options)

    monkeypatch.setattr(log, "read_after", counted)
    field.write(instances(0, 12, shape=(3,)))
    field.write(instances(0, 6))
    assert reader.next({}) is None
    before = len(reads)
    assert reader.next({}) is None
    field.write(instances(6, 3))
    assert reader.next({}) is None
    assert len(reads) == before
    field.write(instances(9, 1))
    assert numbers(reader.next({})) == list(range(10))


def test_a_row_that_lacks_a_column_is_passed_over(field: FieldWriter, log: FieldLog) -> None:
    rows = np.arange(24, dtype=np.float32).reshape(12, 2)
    field.write(rows[:10], columns=["b", "a"])
    field.write(rows[10:], columns=["a", "c"])
    reader = WindowReader(log, "digits", "1", spec=TabularInput(features=("a", "b"), by_name=True), size=10)
    found = reader.next({})
    assert isinstance(found, FieldWindow)
    np.testing.assert_array_equal(found.inputs, rows[:10, ::-1])
    assert reader.next(found.cursor_end) is None
    lacking = WindowReader(log, "digits", "1", spec=TabularInput(features=("a", "b"), by_name=True), size=2)
    missing = lacking.next(found.cursor_end)
    assert isinstance(missing, NothingUsable)
    assert missing.skipped == Counter(columns=2)
