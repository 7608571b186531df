"""From false alarms per day to false alarms per window, and back."""

from __future__ import annotations

from math import comb

LARGEST_RATE = 0.05


def confirmed_rate(rate: float, confirmations: int, windows: int) -> float:
    """Probability that a window of unchanged traffic completes ``confirmations`` of the last ``windows``.

    The window itself has drifted by chance, and at least ``confirmations - 1`` of the ``windows - 1`` before it.

    Args:
        rate: false alarms per window.
        confirmations: k.
        windows: n.
    """
    before = windows - 1
    enough = sum(comb(before, k) * rate**k * (1 - rate) ** (before - k) for k in range(confirmations - 1, before + 1))
    return rate * enough


def rate_for(
    per_day: float, *, field_inputs_per_day: float, window_size: int, confirmations: int, windows: int
) -> float:
    """The rate per window at which confirmed false alarms come ``per_day`` times a day at most.

    Args:
        per_day: confirmed alarms that may be raised on a day of unchanged traffic, on average (0.01: one in 100 days).
        field_inputs_per_day: traffic of one model version.
        window_size: field inputs per window.
        confirmations: drifted windows that make a shift, ...
        windows: ... among so many.

    Returns:
        At most :data:`LARGEST_RATE`: with little traffic a looser one would still keep the promise, but a window in
        twenty is what people put up with seeing red.
    """
    wanted = per_day / (field_inputs_per_day / window_size)
    low, high = 0.0, LARGEST_RATE
    if confirmed_rate(high, confirmations, windows) <= wanted:
        return high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if confirmed_rate(middle, confirmations, windows) <= wanted else (low, middle)
    return low
