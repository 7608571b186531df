"""Which key answers with which class."""

from __future__ import annotations

_DIGITS = "1234567890"
_LETTERS = "abcdfghijkmoqrtvwxyz"
"""Letters that are no command of the page (e examples, l later, n not sure, p prediction, s skip, u undo)."""


def class_keys(classes: int) -> list[str]:
    """A key for each of the first classes: digits, then letters; "" for those that have to be searched for."""
    keys = _DIGITS + _LETTERS
    return [keys[index] if index < len(keys) else "" for index in range(classes)]
