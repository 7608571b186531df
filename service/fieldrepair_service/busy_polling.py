"""Staying awake while a request waits for its answer, and for a moment after it.

An event loop that waits gives its processor back, and takes it again when something comes. Where processors are
virtual, that takes a good part of what the sidecar adds to a quick model's answer. Busy polling, as HAProxy offers it
too, spends processor time to save that: the loop asks for what has come again and again.
"""

from __future__ import annotations

import asyncio
import os
from time import perf_counter

LINGER_SECONDS = 0.0002
"""How long to stay awake for the next request; the time for which KVM keeps a processor awake for a virtual machine."""


class BusyPolling:
    """Keeps the traffic event loop awake while the model server works, for a bounded time. It belongs to that loop.

    After an answer that took longer than that it sleeps, until one has come sooner again: a slow model server is not
    answered for by processor time. Where requests follow quickly on answers, it stays awake between them too.
    """

    def __init__(self, seconds: float) -> None:
        """Nothing is kept awake yet.

        Args:
            seconds: for how long after the last request was sent on; a slow model server is then waited for asleep.
        """
        self._seconds = seconds
        self._awaited = 0  # requests without an answer
        self._until = 0.0
        self._quick = True  # whether the last answer came while the loop would have been awake
        self._answered_at = 0.0
        self._close = False  # whether the last request came soon after the answer before
        self.awake = False
        """Whether the loop looks again and again now."""

    def request_sent(self) -> None:
        """A request is on its way to a model server."""
        now = perf_counter()
        self._awaited += 1
        self._close = now - self._answered_at < LINGER_SECONDS
        self._stay_until(now + self._seconds)

    def request_over(self, now: float, asked_at: float) -> None:
        """It has its answer, or will get none.

        Args:
            now: by ``perf_counter``.
            asked_at: when it was sent on, by the same clock.
        """
        self._awaited -= 1
        self._quick = now - asked_at < self._seconds
        self._answered_at = now
        if not self._awaited:
            self._stay_until(self._answered_at + (LINGER_SECONDS if self._close else 0.0))

    def _stay_until(self, end: float) -> None:
        self._until = end
        if self._quick and not self.awake:
            self.awake = True
            self._stay()

    def _turn(self) -> None:
        if perf_counter() < self._until:
            os.sched_yield()  # whoever has something to do on this processor, the model server say, comes first
            self._stay()
        else:
            self.awake = False

    def _stay(self) -> None:
        """Have another turn: a loop with something to call does not wait for what comes, it only looks."""
        asyncio.get_running_loop().call_soon(self._turn)
