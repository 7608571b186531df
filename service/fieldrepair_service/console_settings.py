"""Options of ``fieldrepair console``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from fieldrepair_service.control_settings import ControlSettings
from fieldrepair_service.errors import ConfigurationError
from fieldrepair_service.http_url import normalise_http_url


class ConsoleSettings(ControlSettings):
    """Which sidecars the overview shows, and how they are asked."""

    sidecars: Annotated[tuple[str, ...], NoDecode] = ()
    """Control URLs of the sidecars (or mirrors) whose traffic the overview shows, say http://127.0.0.1:8081; several
    are separated by commas. A host name that resolves to several addresses, such as that of a headless Service, stands
    for all of them. Without any, the overview shows no traffic."""

    sidecars_poll_seconds: float = Field(default=5.0, gt=0, le=3600)
    """Pause between two looks at the sidecars' metrics."""

    sidecars_answer_seconds: float = Field(default=2.0, gt=0, le=60)
    """How long a sidecar may take to answer; then it is shown as one that does not."""

    sidecars_ca_file: Path | None = None
    """PEM file with the certificate authorities that sidecars with an https URL are checked against. Default: the
    system's."""

    @field_validator("sidecars", mode="before")
    @classmethod
    def _separated_by_commas(cls, value: Any) -> Any:
        """Text as a variable or an option has it: separated by commas, or a JSON list."""
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith("["):
            try:
                return json.loads(value)
            except ValueError as error:
                raise ValueError("expected control URLs separated by commas, or a JSON list") from error
        return [word for word in (part.strip() for part in value.split(",")) if word]

    @field_validator("sidecars")
    @classmethod
    def _are_urls(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(_control_url(url) for url in value))


def _control_url(url: str) -> str:
    try:
        return normalise_http_url(url, "a control URL")
    except ConfigurationError as error:
        raise ValueError(f"expected control URLs like http://host:port; {url!r} is none") from error
