"""Which key answers with which class."""

from __future__ import annotations

from collections.abc import Sequence

_DIGITS = "1234567890"
_LETTERS = "abcdfghijkmoqrtvwxyz"
"""Letters that are no command of the page (e examples, l later, n not sure, p prediction, s skip, u undo)."""


def class_keys(class_names: Sequence[str]) -> list[str]:
    """A key for each class; "" for those that have to be searched for.

    A class whose name is a key has that key: who sees a 7 presses 7. The others get the keys that are left, in order.
    """
    named = {name.casefold() for name in class_names if len(name) == 1 and name.casefold() in _DIGITS + _LETTERS}
    left = iter([key for key in _DIGITS + _LETTERS if key not in named])
    taken: set[str] = set()
    keys: list[str] = []
    for name in class_names:
        own = name.casefold()
        if own in named and own not in taken:
            taken.add(own)
            keys.append(own)
        else:
            keys.append(next(left, ""))
    return keys
