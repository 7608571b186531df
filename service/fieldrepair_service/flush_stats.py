"""How long the field log takes to be written, and which version it has: noted in the spool by the shipper.

The shipper is another process than the one that answers Prometheus, so its numbers travel through the spool, and like
the counters there they go on after a restart.
"""

from __future__ import annotations

from pathlib import Path

import orjson

from fieldrepair_service.spool import Spool, read_note
from fieldrepair_service.traffic_stats import BUCKETS, Histogram

_NOTE = "flushes"


class FlushStats:
    """A histogram of flushes in seconds (reading, decoding, appending), and the table's version after the last one."""

    def __init__(self) -> None:
        self.seconds = Histogram()
        self.table_version: int | None = None

    @classmethod
    def of(cls, spool: Spool) -> FlushStats:
        """What an open spool knows, for the shipper."""
        return cls._from(spool.noted(_NOTE))

    @classmethod
    def read(cls, spool: Path) -> FlushStats:
        """What a spool knows, from any process; nothing if it cannot be read now."""
        return cls._from(read_note(spool, _NOTE))

    def keep(self, spool: Spool) -> None:
        """Note it in the spool."""
        known = {"counts": self.seconds.counts, "total": self.seconds.total, "version": self.table_version}
        spool.note(_NOTE, orjson.dumps(known).decode())

    @classmethod
    def _from(cls, note: str | None) -> FlushStats:
        stats = cls()
        if note is not None:
            known = orjson.loads(note)
            if len(known["counts"]) == len(BUCKETS) + 1:  # else a version of ours with other buckets wrote it
                stats.seconds.counts = known["counts"]
                stats.seconds.total = known["total"]
            stats.table_version = known["version"]
        return stats
