"""Settings shared by every part that touches the two stores.

A setting is also a command line option and an environment variable.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class StoreSettings(BaseSettings):
    """Where the field log and the case book live."""

    model_config = SettingsConfigDict(
        env_prefix="FIELDREPAIR_",
        use_attribute_docstrings=True,
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_implicit_flags=True,
        extra="ignore",
    )

    state_dir: Path = Path("fieldrepair-state")
    """Folder for everything this part keeps by itself: spool, token, caches, and both stores unless they are set."""

    field_log: str | None = None
    """Delta table of field inputs: a folder or s3://bucket/path. Default: <state-dir>/field_log."""

    case_book: str | None = None
    """SQLAlchemy URL of the case book. Default: SQLite at <state-dir>/case_book.db."""

    otlp_endpoint: str | None = None
    """Where to send traces by OTLP over HTTP, say http://127.0.0.1:4318; needs the extra [tracing]. Default: what
    OpenTelemetry's own variables say (OTEL_EXPORTER_OTLP_ENDPOINT, ...), and no traces without those."""

    control_token: SecretStr | None = Field(default=None, min_length=16)
    """Bearer token of the control port. Default: generated once into <state-dir>/control-token (mode 0600)."""

    @property
    def field_log_uri(self) -> str:
        """Folder or URI of the Delta table."""
        return self.field_log or str(self.state_dir.absolute() / "field_log")

    @property
    def case_book_url(self) -> str:
        """SQLAlchemy URL of the case book."""
        return self.case_book or f"sqlite:///{self.state_dir.absolute() / 'case_book.db'}"

    def resolve_control_token(self) -> str:
        """The control port's token; made and stored at first use if none was given."""
        return resolve_token(self.control_token, self.state_dir / "control-token")


def resolve_token(given: SecretStr | None, path: Path) -> str:
    """A token: the one that was given, else the one in a file, which is made at first use.

    The file is created exclusively with mode 0600, so two parts that start at once agree on one token.
    """
    if given is not None:
        return given.get_secret_value()
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written to a private file first and linked into place: whoever reads the path never sees half a token.
    draft = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(secrets.token_urlsafe(32))
    try:
        path.hardlink_to(draft)  # fails where another part was first; then its token counts
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    return path.read_text().strip()
