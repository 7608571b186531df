"""When to try again what failed: after a pause that doubles with each failure in a row."""

from __future__ import annotations

import time
from collections.abc import Callable


class Backoff:
    """Pauses of ``first``, ``2 * first``, ... up to ``longest`` seconds.

    Args:
        first: pause after the first failure, in seconds.
        longest: pause that is never exceeded.
        clock: monotonic seconds.
    """

    def __init__(self, first: float, longest: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._first = first
        self._longest = longest
        self._clock = clock
        self._failures = 0
        self._due = 0.0

    @property
    def due(self) -> bool:
        """Whether it may be tried now."""
        return self._failures == 0 or self._clock() >= self._due

    def failed(self) -> float:
        """Take note of a failure; the pause before the next attempt."""
        pause = min(self._first * 2.0 ** min(self._failures, 30), self._longest)
        self._failures += 1
        self._due = self._clock() + pause
        return pause

    def succeeded(self) -> None:
        """Forget earlier failures."""
        self._failures = 0
