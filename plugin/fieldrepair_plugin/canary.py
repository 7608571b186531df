"""When a canary must go back: pure decisions on what was measured. Who acts on them is :mod:`.canary_stage`."""

from __future__ import annotations

from fieldrepair_plugin.canary_plan import CanaryPlan
from fieldrepair_plugin.sidecar_control import Side
from fieldrepair_service.case_book import CaseBook
from fieldrepair_service.trial_reports import SideReport

ENOUGH_ANSWERS = 50
"""Answers of each side below which their times are not compared."""
_CONFIDENCE = 0.95
_SLOWER_BY_MS = 2.0
_WINDOWS = 20


def reason_to_go_back(plan: CanaryPlan, canary: SideReport, champion: SideReport) -> str:
    """Why a canary must lose its share now; empty while nothing is known against it.

    Failures count as soon as chance is no explanation: the lower end of the 95 % interval (Wilson) of the canary's
    share must be above the champion's share and what is allowed. Times need 50 answers of each side and 2 ms between
    them, which keeps a fast model's noise out. Accuracy is the monitor's estimate, a window at a time.
    """
    failures = _surely_failing(canary)
    allowed = champion.failures / max(1, champion.requests) + plan.max_failures
    if failures > allowed:
        return (
            f"{canary.failures} of its {canary.requests} requests failed, of the champion's "
            f"{champion.failures} of {champion.requests}"
        )
    enough = min(side.requests - side.failures for side in (canary, champion)) >= ENOUGH_ANSWERS
    if enough and canary.mean_ms is not None and champion.mean_ms is not None:
        slow = canary.mean_ms > plan.max_slowdown * champion.mean_ms
        if slow and canary.mean_ms - champion.mean_ms > _SLOWER_BY_MS:
            return f"it takes {canary.mean_ms:.1f} ms on average, the champion {champion.mean_ms:.1f} ms"
    if canary.accuracy is None or champion.accuracy is None:
        return ""
    if canary.accuracy < champion.accuracy - plan.max_accuracy_loss:
        return f"its estimated accuracy is {canary.accuracy:.1%}, the champion's {champion.accuracy:.1%}"
    return ""


def _surely_failing(side: SideReport) -> float:
    if not side.failures:
        return 0.0
    from scipy.stats import binomtest

    return float(binomtest(side.failures, side.requests).proportion_ci(_CONFIDENCE, method="wilson").low)


class Tally:
    """One side's numbers over the whole canary. A sidecar that was started again counts from 0; this goes on."""

    def __init__(self) -> None:
        self._before = Side(0, 0, 0.0)
        self._now = Side(0, 0, 0.0)

    def update(self, side: Side) -> None:
        """What the sidecar says now."""
        if side.requests < self._now.requests:
            self._before = self._total()
        self._now = side

    def report(self, accuracy: float | None) -> SideReport:
        """Everything so far, with the accuracy that somebody else has estimated."""
        total = self._total()
        answered = total.requests - total.failures
        mean = 1000 * total.seconds / answered if answered else None
        return SideReport(requests=total.requests, failures=total.failures, mean_ms=mean, accuracy=accuracy)

    def _total(self) -> Side:
        before, now = self._before, self._now
        return Side(before.requests + now.requests, before.failures + now.failures, before.seconds + now.seconds)


def estimated_accuracies(
    book: CaseBook, name: str, canary: str, champion: str, since_ms: int
) -> tuple[float | None, float | None]:
    """Mean estimated accuracy of the windows that the monitor has judged since the canary began. Blocks.

    Where the champion has had no window since then, its last one counts.

    Returns:
        The canary's and the champion's; None without a window.

    Raises:
        StoreUnavailable: the case book does not answer.
    """
    found = {version: book.windows(name, version, limit=_WINDOWS) for version in (canary, champion)}
    since = {
        version: [
            window.estimated_accuracy
            for window in windows
            if window.first_timestamp_ms >= since_ms and window.estimated_accuracy is not None
        ]
        for version, windows in found.items()
    }
    if not since[champion]:
        since[champion] = [w.estimated_accuracy for w in found[champion][-1:] if w.estimated_accuracy is not None]
    return _mean(since[canary]), _mean(since[champion])


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
