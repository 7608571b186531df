from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldrepair_monitoring.confirmation import Confirmation, Shift, hurts
from fieldrepair_service.case_book import WindowRecord

TWO_OF_THREE = Confirmation(2, 3)


def windows(pattern: str, accuracy: float | None = 0.5) -> list[WindowRecord]:
    """``.`` is a calm window, ``x`` a drifted one."""
    return [
        WindowRecord(index, index, index + 1, 100, "mmd", 0.1, 0.05, 0.5, letter == "x", accuracy)
        for index, letter in enumerate(pattern)
    ]


@pytest.mark.parametrize(
    ("pattern", "start", "inputs"),
    [
        ("", None, None),
        ("x", None, None),
        ("..x", None, None),
        ("x..x", None, None),
        ("xx", 0, 200),
        (".xx", 1, 200),
        ("x.x", 0, 300),
        ("xx.", 0, 300),
        ("xxx.x.x", 4, 300),
        ("xxxxx", 2, 300),
    ],
)
def test_two_of_the_last_three_make_a_shift(pattern: str, start: int | None, inputs: int | None) -> None:
    shift = TWO_OF_THREE.shift(windows(pattern))
    assert (shift and shift.start.index, shift and shift.field_inputs) == (start, inputs)


def test_a_window_that_needs_no_other_makes_a_shift_where_two_do() -> None:
    for pattern, start, inputs in [("x", 0, 100), ("..x", 2, 100), ("x.x", 0, 300)]:
        shift = TWO_OF_THREE.shift(windows(pattern), confirmed=True)
        assert shift is not None
        assert (shift.start.index, shift.field_inputs) == (start, inputs)
    assert Confirmation(3, 5).shift(windows("..x"), confirmed=True) is None, "rarer than two alarms was asked for"


@pytest.mark.parametrize(
    ("pattern", "calm"), [("..", False), ("...", True), ("x...", True), ("x..", False), ("", False)]
)
def test_three_calm_windows_end_a_shift(pattern: str, calm: bool) -> None:
    assert TWO_OF_THREE.calm(windows(pattern)) is calm


@given(st.text("x.", max_size=30), st.integers(1, 5), st.integers(0, 4))
def test_no_windows_are_both_a_shift_and_calm(pattern: str, confirmations: int, more: int) -> None:
    confirmation = Confirmation(confirmations, confirmations + more)
    recent = windows(pattern)
    shift = confirmation.shift(recent)
    assert shift is None or not confirmation.calm(recent)
    if shift is not None:
        assert confirmations <= len(shift.windows) <= confirmations + more
        assert shift.field_inputs <= 100 * (confirmations + more)


def test_harm_is_judged_over_the_drifted_windows() -> None:
    drifted, calm = windows("x", 0.8)[0], windows(".", 0.1)[0]
    shift = TWO_OF_THREE.shift([drifted, calm, *windows("xxx", 0.6)[2:]])
    assert shift is not None
    assert shift.estimated_accuracy == pytest.approx(0.7)


def test_the_margin_itself_counts_as_harm() -> None:
    shift = Shift(tuple(windows("xx")), 200, 0.90)
    assert hurts(shift, reference_accuracy=0.95, margin=0.05)
    assert not hurts(shift, reference_accuracy=0.94, margin=0.05)
    assert hurts(Shift(tuple(windows("xx")), 200, None), reference_accuracy=0.95, margin=0.05)
