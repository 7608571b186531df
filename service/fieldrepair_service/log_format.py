"""How log lines look: text for people, or one JSON object per line for programs."""

from __future__ import annotations

import logging
from datetime import datetime, timezone
from typing import Literal, cast

import orjson

LogFormat = Literal["text", "json"]

_TEXT = "%(asctime)s %(levelname)s {part}: %(name)s: %(message)s"


class JsonFormatter(logging.Formatter):
    """``{"time", "level", "logger", "message", ...}``, with what a line knows about its request as further fields."""

    def __init__(self, part: str) -> None:
        """Every line says which part of the product wrote it."""
        super().__init__()
        self._part = part

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "part": self._part,
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields = getattr(record, "fields", None)
        if isinstance(fields, dict):
            line.update(cast(dict[str, object], fields))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def configure_logging(log_format: LogFormat, part: str) -> None:
    """Log to standard error, once per process.

    Args:
        log_format: ``text`` or ``json``.
        part: name of the process, as JSON lines show it.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter(part) if log_format == "json" else logging.Formatter(_TEXT.format(part=part)))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
