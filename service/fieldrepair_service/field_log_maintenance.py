"""Upkeep of the field log beside its writing: small files merged, old days taken out, dead files deleted.

Any writer of a table can do it, and one at a time does: see :meth:`FieldLogWriter.claim`. All others go on meanwhile.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone

from fieldrepair_service.errors import StoreError
from fieldrepair_service.field_log_writer import FieldLogWriter

logger = logging.getLogger(__name__)

TASK = "fieldrepair.upkeep"
"""Name under which the daily round is claimed in the table."""

_LOOK_SECONDS = 3600.0
_ATTEMPTS = 5


@dataclass(frozen=True)
class Upkeep:
    """What to do, and how often."""

    compact_every: int = 100
    """Merge small files after so many commits of this writer; 0: never."""
    retention_days: int = 0
    """Whole days after which rows leave the log; 0: never."""
    vacuum_hours: int = 24
    """Hours that files stay after the last version of the table that has them."""


class Maintenance:
    """The upkeep of one table by one of its writers."""

    def __init__(
        self, log: FieldLogWriter, upkeep: Upkeep, writer: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._log = log
        self._writer = writer
        self._upkeep = upkeep
        self._clock = clock
        self._commits = 0
        self._next_look = 0.0

    def committed(self) -> None:
        """One more commit of this writer; merges its small files when enough of them have come together.

        Raises:
            StoreError: if the table cannot be read or written.
        """
        self._commits += 1
        if self._upkeep.compact_every and self._commits % self._upkeep.compact_every == 0:
            self._log.compact(self._writer)

    def look(self) -> None:
        """Once a day, if no other writer was first: take out the days that are over, and delete files nobody needs.

        Cheap to call often. What goes wrong is logged and done again the next day: keeping a log tidy is not worth
        stopping its writing.
        """
        now = self._clock()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_SECONDS
        today = datetime.fromtimestamp(now, timezone.utc).date()
        try:
            if self._log.claim(TASK, today.toordinal()):
                self._do_round(today)
        except StoreError as error:
            logger.warning("the field log's upkeep of %s is not done: %s", today, error)

    def _do_round(self, today: date) -> None:
        if self._upkeep.retention_days:
            last_kept = today - timedelta(days=self._upkeep.retention_days)
            rows = self._delete_before(last_kept)
            logger.info("%d rows from before %s left the field log", rows, last_kept)
        files = self._log.vacuum(timedelta(hours=self._upkeep.vacuum_hours))
        logger.info("%d files that no row of the field log is in were deleted", files)

    def _delete_before(self, day: date) -> int:
        """A delete gives way to a compaction of the same days; then it is tried again on what that made."""
        for attempt in range(_ATTEMPTS - 1):
            try:
                return self._log.delete_before(day)
            except StoreError as error:  # noqa: PERF203 - a few attempts, once a day
                logger.info("retention gave way to another process: %s", error)
                time.sleep(0.05 * 2**attempt)
        return self._log.delete_before(day)
