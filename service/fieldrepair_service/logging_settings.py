"""Options that sidecar and mirror share: the control port, what is logged, and how it comes into the field log."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, model_validator

from fieldrepair_service.log_format import LogFormat
from fieldrepair_service.logging_policy import LoggingPolicy, header_names
from fieldrepair_service.roles import Role
from fieldrepair_service.settings import StoreSettings, resolve_token

KIB = 1024
MIB = 1024 * KIB


class LoggingSettings(StoreSettings):
    """What is logged, how, and who may look at it."""

    control_host: str = "127.0.0.1"
    """Address of the control port: health, metrics, upstream, cases and labelling."""

    control_port: int = Field(default=8081, ge=0, le=65535)
    """Port for control. 0 picks a free one; <state-dir>/sidecar.json (or mirror.json) says which."""

    control_auth: Literal["token", "off"] = "token"
    """Whether the control port asks for the bearer token. ``off`` is allowed on a loopback address only.
    /healthz, /readyz and /metrics are always open."""

    control_tls_cert: Path | None = None
    """PEM file with the control port's certificate. With control_tls_key, the control port speaks HTTPS."""

    control_tls_key: Path | None = None
    """PEM file with the key of control_tls_cert, not encrypted."""

    log_format: LogFormat = "text"
    """How log lines on standard error look: text, or json, one object per line, with the request's id in those about a
    request."""

    labeller_token: SecretStr | None = Field(default=None, min_length=16)
    """Token for people who label and look, but decide nothing. Default: generated once into
    <state-dir>/labeller-token (mode 0600)."""

    viewer_token: SecretStr | None = Field(default=None, min_length=16)
    """Token for people who look. Default: generated once into <state-dir>/viewer-token (mode 0600)."""

    session_hours: float = Field(default=12.0, gt=0, le=24 * 30)
    """How long a sign-in at the console lasts."""

    mlflow_ui_url: str | None = None
    """Where people find the MLflow UI, for links to runs and versions. Default: MLFLOW_TRACKING_URI if it is an http
    address; else there are no links."""

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

    @model_validator(mode="after")
    def _auth_off_only_on_loopback(self) -> LoggingSettings:
        if self.control_auth == "off" and self.control_host not in ("127.0.0.1", "::1", "localhost"):
            raise ValueError(f"control_auth=off needs a loopback control_host, got {self.control_host}")
        return self

    def resolve_tokens(self) -> dict[Role, str] | None:
        """The control port's tokens, made and stored at first use where none was given; None if it asks for none."""
        if self.control_auth == "off":
            return None
        return {
            Role.VIEWER: resolve_token(self.viewer_token, self.state_dir / "viewer-token"),
            Role.LABELLER: resolve_token(self.labeller_token, self.state_dir / "labeller-token"),
            Role.APPROVER: self.resolve_control_token(),
        }

    def mlflow_ui(self) -> str | None:
        """Address of the MLflow UI without a slash at its end, if it is known."""
        url = self.mlflow_ui_url or os.environ.get("MLFLOW_TRACKING_URI", "")
        return url.rstrip("/") if url.startswith(("http://", "https://")) else None

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
