"""Options of ``fieldrepair sidecar``."""

from __future__ import annotations

from pydantic import Field

from fieldrepair_service.exchange import UNKNOWN_MODEL
from fieldrepair_service.logging_settings import LoggingSettings


class SidecarSettings(LoggingSettings):
    """Where traffic comes in, where it goes, and how much of it is kept."""

    upstream: str | None = None
    """URL of the model server to forward to, say http://127.0.0.1:5001. Without one, traffic is answered 503 until
    PUT /upstream on the control port names one."""

    model_name: str = Field(default=UNKNOWN_MODEL, min_length=1)
    """Registered model that the upstream serves; goes into every row of the field log. PUT /upstream changes it.
    Without one, rows get the model that the request's path names, in protocols whose paths do."""

    model_version: str = Field(default=UNKNOWN_MODEL, min_length=1)
    """Version of that model. PUT /upstream changes it. Without one, the version that request or answer name."""

    traffic_host: str = "127.0.0.1"
    """Address to take prediction traffic on. Traffic is as open as the model server itself."""

    traffic_port: int = Field(default=8080, ge=0, le=65535)
    """Port for prediction traffic. 0 picks a free one; <state-dir>/sidecar.json says which."""

    connect_timeout: float = Field(default=5.0, gt=0)
    """Seconds the upstream may take to accept a connection."""

    total_timeout: float = Field(default=60.0, gt=0)
    """Seconds the upstream may take for a whole answer."""

    upstream_idle_seconds: float = Field(default=4.0, ge=0)
    """How long an idle connection to the upstream is kept. Must be shorter than the upstream keeps it (uvicorn, and so
    MLflow: 5 s), or requests are sent into connections that are just being closed."""
