"""What a shadow and a canary report: written by those who run them, read by console and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

T = TypeVar("T", bound=BaseModel)


class _Report(BaseModel):
    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True)


class Timing(_Report):
    """Times of requests, in milliseconds."""

    count: int = 0
    mean_ms: float = 0.0
    p50_ms: float = 0.0
    p95_ms: float = 0.0


class Estimate(_Report):
    """The accuracy to expect of one version on the shadowed inputs, without labels."""

    value: float
    low: float
    high: float
    trusted: bool
    inputs: int


class Disagreement(_Report):
    """A field input that the two versions answer differently."""

    request_id: str
    row: int
    champion: int
    candidate: int
    champion_confidence: float | None = None
    candidate_confidence: float | None = None


class ShadowReport(_Report):
    """A candidate that answers a copy of some of the traffic. At rest ``seen = agreed + disagreed + sum(dropped)``."""

    seen: int = 0
    """Field inputs that the champion answered while the shadow ran."""
    agreed: int = 0
    disagreed: int = 0
    dropped: dict[str, int] = {}
    """Field inputs that were not compared, by reason."""
    champion_timing: Timing = Timing()
    """Of the requests that were compared, as the sidecar measured the champion's server."""
    candidate_timing: Timing = Timing()
    """Of the same requests, sent alike, one after the other."""
    champion_accuracy: Estimate | None = None
    candidate_accuracy: Estimate | None = None
    accuracy_problem: str = ""
    """Why there is no estimate."""
    disagreements: list[Disagreement] = []
    """The last ones."""
    class_names: list[str] = []
    input_spec: dict[str, object] = {}

    @property
    def compared(self) -> int:
        """Field inputs that both versions answered."""
        return self.agreed + self.disagreed

    @property
    def agreement(self) -> float | None:
        """Share of the compared inputs with the same class; None if there are none."""
        return self.agreed / self.compared if self.compared else None


class SideReport(_Report):
    """One side of a canary."""

    requests: int = 0
    failures: int = 0
    mean_ms: float | None = None
    """None if nothing was answered."""
    accuracy: float | None = None
    """Estimated by the monitor on this side's windows since the canary began; None without a full window."""


class CanaryReport(_Report):
    """A candidate that answers a share of the traffic."""

    percent: float = 0.0
    seconds: float = 0.0
    """How long it is to take."""
    canary: SideReport = SideReport()
    champion: SideReport = SideReport()
    alias_restored: bool = True
    """False while the alias still stands on a version that was rolled back."""


def read_report(kind: type[T], report: Mapping[str, object]) -> T:
    """A stored report; an empty one if it is not in a form that this version knows."""
    try:
        return kind.model_validate(report)
    except ValidationError:
        return kind()
