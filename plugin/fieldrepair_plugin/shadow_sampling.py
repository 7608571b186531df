"""Which of the champion's requests a shadow repeats: whole requests at random, no more inputs than it may take."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

MOST_ROWS = 256
"""Inputs of one request above which it is not repeated."""
_BURST_SECONDS = 5.0


@dataclass(frozen=True)
class LoggedRequest:
    """One request that the champion answered, as the field log has it."""

    request_id: str
    rows: tuple[int, ...]
    classes: tuple[int | None, ...]
    """The champion's answers; None where it did not say."""
    confidences: tuple[float | None, ...]
    milliseconds: float
    """Time the champion's server took."""

    @property
    def keys(self) -> list[tuple[str, int]]:
        """The names of its field inputs."""
        return [(self.request_id, row) for row in self.rows]


class Sampler:
    """Draws requests, each with the same chance, up to so many field inputs per second.

    Args:
        inputs_per_second: on average; what was not used is saved for five seconds.
        generator: draws.
    """

    def __init__(self, inputs_per_second: float, generator: random.Random) -> None:
        self._rate = inputs_per_second
        self._generator = generator
        self._tokens = inputs_per_second
        self._at = 0.0

    def draw(self, requests: Sequence[LoggedRequest], now: float) -> tuple[list[LoggedRequest], dict[str, int]]:
        """Requests to repeat, in a random order, and how many field inputs are left out for which reason.

        Args:
            requests: what is new.
            now: monotonic seconds.
        """
        if self._at:
            self._tokens = min(self._tokens + self._rate * (now - self._at), self._rate * _BURST_SECONDS)
        self._at = now
        drawn: list[LoggedRequest] = []
        left_out: dict[str, int] = {}
        for request in self._generator.sample(requests, len(requests)):
            count = len(request.rows)
            if count > MOST_ROWS:
                left_out["request_too_large"] = left_out.get("request_too_large", 0) + count
            elif self._tokens <= 0:
                left_out["not_sampled"] = left_out.get("not_sampled", 0) + count
            else:
                self._tokens -= count  # a request larger than what is left is taken whole, and paid for afterwards
                drawn.append(request)
        return drawn, left_out
