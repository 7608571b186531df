"""Slows down whoever guesses tokens at the sign-in page."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

_REMEMBERED = 10_000


class Attempts:
    """Counts failed sign-ins of each client and of all together over a sliding minute.

    Args:
        each: failures a client may make in a minute.
        together: failures all clients may make in a minute, against guessing from many addresses.
        clock: monotonic seconds.
    """

    def __init__(self, each: int = 5, together: int = 60, clock: Callable[[], float] = time.monotonic) -> None:
        self._each = each
        self._together = together
        self._clock = clock
        self._failures: deque[tuple[float, str]] = deque(maxlen=_REMEMBERED)
        self._lock = threading.Lock()

    def wait_seconds(self, client: str) -> int:
        """How long this client has to wait before it may try again; 0 if it may now."""
        now = self._clock()
        with self._lock:
            while self._failures and self._failures[0][0] <= now - 60:
                self._failures.popleft()
            waits = (
                self._wait([at for at, other in self._failures if other == client], self._each, now),
                self._wait([at for at, _ in self._failures], self._together, now),
            )
        return max(waits)

    def failed(self, client: str) -> None:
        """Count a failed sign-in."""
        with self._lock:
            self._failures.append((self._clock(), client))

    @staticmethod
    def _wait(failures: list[float], allowed: int, now: float) -> int:
        return 0 if len(failures) < allowed else max(1, round(failures[-allowed] + 60 - now))
