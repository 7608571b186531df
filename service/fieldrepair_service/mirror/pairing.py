"""Requests and answers, brought together by their id: in either order, each for a while, in bounded memory."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass

from fieldrepair_service.mirror.events import Event, Key

# Why an event that was taken found no partner, as the metrics count it.
EXPIRED = "expired"  # none came in time: a request that was answered with an error, or only one of the two is sent
NO_ROOM = "no_room"  # it was the oldest when there was no room for another
DUPLICATE = "duplicate"  # the same event again, waiting or paired just before
STOPPED = "stopped"  # it waited when the mirror ended
UNPAIRED_REASONS = (EXPIRED, NO_ROOM, DUPLICATE, STOPPED)

_RECENT_KEYS = 10_000


@dataclass(frozen=True)
class Pair:
    """A request and its answer."""

    request: Event
    response: Event
    waited: float
    """Seconds between the arrivals of the two."""


class Pairing:
    """What waits for its partner. At any time ``taken = 2 * pairs + unpaired + waiting``."""

    def __init__(self, *, seconds: float, most_events: int, most_bytes: int) -> None:
        """Nothing waits yet.

        Args:
            seconds: how long an event waits for its partner.
            most_events: how many may wait.
            most_bytes: how many bytes they may have together.
        """
        self._seconds = seconds
        self._most_events = most_events
        self._most_bytes = most_bytes
        self._waiting: OrderedDict[Key, tuple[Event, float]] = OrderedDict()  # oldest first
        self._recent: OrderedDict[Key, None] = OrderedDict()
        self.waiting_bytes = 0
        self.taken: Counter[str] = Counter({"request": 0, "response": 0})
        self.unpaired: Counter[tuple[str, str]] = Counter(
            {(kind, reason): 0 for kind in ("request", "response") for reason in UNPAIRED_REASONS}
        )
        self.pairs = 0

    @property
    def waiting(self) -> int:
        """How many events wait."""
        return len(self._waiting)

    def take(self, event: Event, now: float) -> Pair | None:
        """Take an event that arrived at ``now`` (seconds, monotonic); the pair, once its partner is there too."""
        self.expire(now)
        self.taken[event.kind] += 1
        found = self._waiting.get(event.key)
        if (found is not None and found[0].kind == event.kind) or (found is None and event.key in self._recent):
            self.unpaired[event.kind, DUPLICATE] += 1
            return None
        if found is None:
            self._keep(event, now)
            return None
        partner, arrived = found
        self._forget(event.key)
        self._recent[event.key] = None
        if len(self._recent) > _RECENT_KEYS:
            self._recent.popitem(last=False)
        self.pairs += 1
        request, response = (event, partner) if event.kind == "request" else (partner, event)
        return Pair(request, response, now - arrived)

    def expire(self, now: float) -> None:
        """Give up those that have waited too long."""
        while self._waiting:
            key, (event, arrived) = next(iter(self._waiting.items()))
            if now - arrived <= self._seconds:
                break
            self._forget(key)
            self.unpaired[event.kind, EXPIRED] += 1

    def close(self) -> None:
        """Give up all that wait."""
        for event, _ in self._waiting.values():
            self.unpaired[event.kind, STOPPED] += 1
        self._waiting.clear()
        self.waiting_bytes = 0

    def _keep(self, event: Event, now: float) -> None:
        self._waiting[event.key] = (event, now)
        self.waiting_bytes += event.size
        # The oldest is the one least likely to find its partner. It may be this very event, where it is that large.
        while len(self._waiting) > self._most_events or self.waiting_bytes > self._most_bytes:
            oldest = next(iter(self._waiting))
            given_up = self._forget(oldest)
            self.unpaired[given_up.kind, NO_ROOM] += 1

    def _forget(self, key: Key) -> Event:
        event, _ = self._waiting.pop(key)
        self.waiting_bytes -= event.size
        return event
