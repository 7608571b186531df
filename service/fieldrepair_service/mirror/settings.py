"""Options of ``fieldrepair mirror``."""

from __future__ import annotations

from pydantic import Field

from fieldrepair_service.exchange import UNKNOWN_MODEL
from fieldrepair_service.logging_settings import KIB, MIB, LoggingSettings


class MirrorSettings(LoggingSettings):
    """Where KServe's events come in, and how long one waits for its partner."""

    events_host: str = "127.0.0.1"
    """Address to take events on. In a pod: 0.0.0.0, behind a Service that only KServe's pods may reach."""

    events_port: int = Field(default=8080, ge=0, le=65535)
    """Port for events. 0 picks a free one; <state-dir>/mirror.json says which."""

    model_name: str = Field(default=UNKNOWN_MODEL, min_length=1)
    """Registered model whose traffic this is; goes into every row of the field log. Without one, rows get the name of
    the InferenceService."""

    model_version: str = Field(default=UNKNOWN_MODEL, min_length=1)
    """Version of that model. Without one, rows get the version that an answer of protocol version 2 names."""

    pair_seconds: float = Field(default=120.0, gt=0)
    """How long a request waits for its answer, or an answer for its request. Longer than the slowest prediction."""

    pair_events: int = Field(default=20_000, ge=1)
    """Events that may wait for their partner in memory; the oldest makes room."""

    pair_bytes: int = Field(default=256 * MIB, ge=KIB)
    """Bytes of events that may wait for their partner in memory; the oldest make room."""
