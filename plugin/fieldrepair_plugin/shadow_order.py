"""What a shadow process is to do, as ``up`` hands it over."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

ORDER_VARIABLE = "FIELDREPAIR_SHADOW_ORDER"
"""Environment variable with the order as JSON. Not an argument: the case book's URL may hold a password."""


class ShadowOrder(BaseModel):
    """Which candidate answers a copy of which champion's traffic, and how much of it."""

    model_config = ConfigDict(frozen=True)

    model_name: str
    champion_version: str
    candidate_version: str
    candidate_url: str
    """Where the candidate's server listens."""
    candidate_model: Path
    """Its model on this machine."""
    field_log: str
    case_book: str
    cache_dir: Path
    """Where models and hand-overs are kept."""
    inputs_per_second: float = Field(gt=0)
    """Field inputs that are sent to the candidate, on average, at most."""
    queue_inputs: int = 1000
    """Field inputs that wait for the candidate at most; more are dropped and counted."""
    request_seconds: float = 60.0
    """How long the candidate may take for one request."""
    device: str = "cpu"
    """Where accuracy is estimated."""
