"""Options of ``fieldrepair log tail``, ``stats`` and ``export``."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_settings import CliImplicitFlag

from fieldrepair_service.errors import ConfigurationError


class Chosen(BaseModel):
    """Which rows."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    model_name: str | None = None
    """Only rows of this model."""

    model_version: str | None = None
    """Only rows that this version answered."""


class Spanned(Chosen):
    """Which rows, by time too."""

    since: str | None = None
    """Only rows asked for since then: 2026-01-31, 2026-01-31T12:00:00 (UTC unless it says otherwise), or an age such
    as 90m, 12h or 7d."""

    until: str | None = None
    """Only rows asked for before then; like --since."""

    def span_ms(self, now: datetime) -> tuple[int | None, int | None]:
        """(first, end) of the span in milliseconds UTC since the epoch; None where it is open.

        Raises:
            ConfigurationError: if a time is none.
        """
        return moment_ms("since", self.since, now), moment_ms("until", self.until, now)


class TailOptions(Chosen):
    """Show the newest rows, one line each."""

    lines: int = Field(default=10, ge=0)
    """How many rows to begin with."""

    follow: CliImplicitFlag[bool] = False
    """Go on with rows as they come in, until Ctrl-C."""

    json_lines: CliImplicitFlag[bool] = False
    """One JSON object per row, without the input itself."""

    every: float = Field(default=1.0, gt=0)
    """Seconds between looks at the table when following."""


class StatsOptions(Spanned):
    """Count rows by day, model version and class; say what was dropped, and how large the table is."""

    as_json: CliImplicitFlag[bool] = False
    """JSON instead of text."""


class ExportOptions(Spanned):
    """Write rows to a file that other tools read, with the labels that the case book has for them."""

    to: Path
    """File to write (parquet, npz), or folder (images). It must not be there yet."""

    format: Literal["parquet", "npz", "images"] = "parquet"
    """parquet: every column. npz: NumPy arrays, for inputs of one shape. images: rows.csv and one PNG per row."""

    dtype: str | None = None
    """For npz: NumPy dtype to give the inputs. Default: that of the first row, which all others must then have too."""

    input_spec: Path | None = None
    """For images: JSON file that says how an input is an image (height, width, channels, layout, mean, std). Default:
    as the case book's newest case of the model has it, else what the shape suggests."""

    @field_validator("dtype")
    @classmethod
    def _a_numpy_dtype(cls, value: str | None) -> str | None:
        if value is not None and value not in _DTYPES:
            raise ValueError(f"expected one of {', '.join(_DTYPES)}")
        return value


_DTYPES = ("float16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64", "bool")
_AGES = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def moment_ms(name: str, text: str | None, now: datetime) -> int | None:
    """A moment as the options spell it, in milliseconds UTC since the epoch.

    Raises:
        ConfigurationError: if it is none.
    """
    if text is None:
        return None
    try:
        if text[-1:] in _AGES and text[:-1].isdigit():
            moment = now - timedelta(**{_AGES[text[-1]]: int(text[:-1])})
        else:
            moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
            moment = moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment
    except (ValueError, OverflowError) as error:
        raise ConfigurationError(f"--{name}: expected a date, a time or an age such as 12h, got {text!r}") from error
    return int(moment.timestamp() * 1000)
