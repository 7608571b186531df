"""Options that sidecar and mirror share: what is logged, how it comes into the field log, whether there are pages."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from fieldrepair_service.console_choice import ConsoleChoice
from fieldrepair_service.control_settings import ControlSettings
from fieldrepair_service.logging_policy import LoggingPolicy, header_names

KIB = 1024
MIB = 1024 * KIB


class LoggingSettings(ControlSettings):
    """What is logged, and how."""

    console: ConsoleChoice = "auto"
    """Whether the console's pages and the case API are on this control port. auto: where the packages that they need
    are installed (extra [service]); on: they must be; off: they are not, and `fieldrepair console` serves them."""

    durability: Literal["async", "sync"] = "async"
    """async: answer first, spool within 50 ms. sync: spool, with fsync, before the last byte of the answer goes out."""

    sampling_fraction: float = Field(default=1.0, gt=0, le=1)
    """Fraction of scoring requests that is logged; each is drawn by itself. Written into every row."""

    max_logged_body: int = Field(default=4 * MIB, ge=KIB)
    """Largest request or answer body that is logged, in bytes. Larger ones are forwarded all the same, and counted as
    dropped."""

    log_include: tuple[str, ...] = ()
    """Patterns of paths, say /v2/models/digits/*: if there are any, only scoring requests whose path matches one are
    logged. ``*`` stands for any characters, slashes too. What is left out is counted as ``excluded``."""

    log_exclude: tuple[str, ...] = ()
    """Patterns of paths of scoring requests that are not logged; these come before log_include."""

    log_headers: tuple[str, ...] = ()
    """Request header fields that are logged with every row, by name. No others are."""

    redactor: str | None = None
    """Name of an entry point in group ``fieldrepair.redactors`` that every exchange goes through before anything of it
    is stored. What the redactor cannot deal with is not logged."""

    redactor_timeout: float = Field(default=5.0, gt=0)
    """Seconds a redactor may take for one exchange; then it is stopped, and the exchange is dropped."""

    queue_exchanges: int = Field(default=10_000, ge=1)
    """Exchanges that may wait in memory for the spool."""

    queue_bytes: int = Field(default=256 * MIB, ge=KIB)
    """Bytes of bodies that may wait in memory for the spool."""

    spool_max_bytes: int = Field(default=2048 * MIB, ge=MIB)
    """Size the spool on disk may reach while the field log cannot be written."""

    flush_seconds: float = Field(default=1.0, gt=0, le=3600)
    """How long logged exchanges may wait in the spool before they are written to the field log."""

    flush_exchanges: int = Field(default=5_000, ge=1)
    """Write to the field log sooner when so many exchanges wait; also the most that one write takes."""

    compact_every: int = Field(default=100, ge=0)
    """Merge the field log's small files after so many writes of this sidecar; 0 leaves that to others."""

    retention_days: int = Field(default=0, ge=0)
    """Whole days after which rows leave the field log. 0 keeps them for ever."""

    vacuum_hours: int = Field(default=24, ge=1)
    """Hours for which files that no current row is in stay, for those who still read an older version of the table."""

    drain_seconds: float = Field(default=20.0, ge=0)
    """On SIGTERM: how long requests in flight may take to finish."""

    ship_seconds: float = Field(default=5.0, ge=0)
    """On SIGTERM, after that: how long shipping may take. What is left stays in the spool for the next start."""

    def policy(self) -> LoggingPolicy:
        """What of the traffic is logged."""
        return LoggingPolicy(
            sampling_fraction=self.sampling_fraction,
            max_logged_body=self.max_logged_body,
            kept_headers=header_names(self.log_headers),
            include=self.log_include,
            exclude=self.log_exclude,
        )

    def shipper_options(self, spool: Path) -> list[str]:
        """Options of :mod:`fieldrepair_service.shipper`."""
        return [
            f"--spool={spool.absolute()}",
            f"--field-log={self.field_log_uri}",
            f"--flush-seconds={self.flush_seconds}",
            f"--flush-exchanges={self.flush_exchanges}",
            f"--compact-every={self.compact_every}",
            f"--retention-days={self.retention_days}",
            f"--vacuum-hours={self.vacuum_hours}",
            f"--grace={self.ship_seconds}",
            f"--log-format={self.log_format}",
            *([] if self.otlp_endpoint is None else [f"--otlp-endpoint={self.otlp_endpoint}"]),
        ]
