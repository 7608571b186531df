"""Options of ``fieldrepair sidecar``."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr

from fieldrepair_service.client_connection import TrafficLimits
from fieldrepair_service.exchange import UNKNOWN_MODEL
from fieldrepair_service.logging_settings import KIB, LoggingSettings
from fieldrepair_service.processors import may_spare_one

BUSY_POLL_SECONDS = 0.005
"""By default, where a processor can be spared."""


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

    traffic_tls_cert: Path | None = None
    """PEM file with the traffic port's certificate. With traffic_tls_key, the traffic port speaks HTTPS."""

    traffic_tls_key: Path | None = None
    """PEM file with the key of traffic_tls_cert, not encrypted."""

    upstream_ca_file: Path | None = None
    """PEM file with the certificate authorities that upstreams with an https URL are checked against. Default: the
    system's."""

    max_connections: int = Field(default=4096, ge=1)
    """Clients' connections at one time; more are answered 503."""

    max_header_bytes: int = Field(default=64 * KIB, ge=KIB)
    """Size of a request's head, request line and header fields; larger ones are answered 431."""

    max_headers: int = Field(default=128, ge=1)
    """Number of header fields of a request; more are answered 431."""

    header_seconds: float = Field(default=10.0, gt=0)
    """Time a client has for a request's head, from its first byte to its last; then it is answered 408."""

    body_seconds: float = Field(default=30.0, gt=0)
    """Time a client has between two pieces of a request's body; then it is answered 408."""

    keep_alive_seconds: float = Field(default=75.0, gt=0)
    """Time a client's connection may be without a request; then it is closed."""

    connect_timeout: float = Field(default=5.0, gt=0)
    """Seconds the upstream may take to accept a connection."""

    total_timeout: float = Field(default=60.0, gt=0)
    """Seconds the upstream may take for a whole answer."""

    upstream_idle_seconds: float = Field(default=4.0, ge=0)
    """How long an idle connection to the upstream is kept. Must be shorter than the upstream keeps it (uvicorn, and so
    MLflow: 5 s), or requests are sent into connections that are just being closed."""

    busy_poll_ms: float | None = Field(default=None, ge=0, le=1000)
    """Milliseconds for which the sidecar stays awake after it has sent a request on, to pass the answer on sooner; 0:
    it sleeps until the answer comes. It takes processor time for as long as requests wait for answers, of models that
    answer within that time; for others it sleeps. Default: 5 where the sidecar can run on two processors or more and
    no control group (a container's limit, say) lets it have less than two; else 0."""

    mlflow_webhook_secret: SecretStr | None = Field(default=None, min_length=16)
    """Secret that MLflow signs its webhooks with. With one, POST /mlflow/webhook on the control port takes its alias
    events, and whoever follows an alias looks at once. Default: no webhook is taken, the registry is polled."""

    def webhook_secret(self) -> str | None:
        """The webhook's secret in plain text."""
        secret = self.mlflow_webhook_secret
        return None if secret is None else secret.get_secret_value()

    def busy_poll_seconds(self) -> float:
        """How long to stay awake for an answer."""
        if self.busy_poll_ms is not None:
            return self.busy_poll_ms / 1000
        return BUSY_POLL_SECONDS if may_spare_one() else 0.0

    def traffic_limits(self) -> TrafficLimits:
        """What one client may take of the traffic port."""
        return TrafficLimits(
            header_bytes=self.max_header_bytes,
            headers=self.max_headers,
            header_seconds=self.header_seconds,
            body_seconds=self.body_seconds,
            keep_alive_seconds=self.keep_alive_seconds,
            connections=self.max_connections,
        )
