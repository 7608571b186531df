"""A canary from its start to its end: a share of the traffic, a look every second, and then all of it or none."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field

from fieldrepair_plugin.blue_green import BlueGreen, Switch
from fieldrepair_plugin.canary import Tally, estimated_accuracies, reason_to_go_back
from fieldrepair_plugin.canary_plan import CanaryPlan
from fieldrepair_plugin.errors import PartError
from fieldrepair_service.case_book import TrialKind, TrialState, open_case_book
from fieldrepair_service.errors import StoreError
from fieldrepair_service.trial_reports import CanaryReport

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_BOOK_SECONDS = 2.0


@dataclass(frozen=True)
class CanaryEnd:
    """How a canary ended."""

    state: TrialState
    version: str
    champion: str
    """The version that served beside it."""
    reason: str
    trial_id: int | None
    """None if the case book did not answer."""
    switch: Switch | None = None
    """Of a canary that took over."""


@dataclass
class _Run:
    version: str
    champion: str
    trial_id: int | None
    began: float
    since_ms: int
    canary: Tally = field(default_factory=Tally)
    side: Tally = field(default_factory=Tally)
    accuracies: tuple[float | None, float | None] = (None, None)
    look_at: float = 0.0
    book_at: float = 0.0
    ending: tuple[TrialState, str] | None = None
    """Decided, but the sidecar has not been told yet."""


class CanaryStage:
    """At most one canary of a model.

    Args:
        servers: start and stop servers, and steer the sidecar.
        plan: how a new version is let in.
        case_book_url: where the monitor's estimates are found and canaries are recorded.
    """

    def __init__(self, servers: BlueGreen, plan: CanaryPlan, case_book_url: str) -> None:
        self.plan = plan
        self._servers = servers
        self._case_book_url = case_book_url
        self._run: _Run | None = None

    @property
    def version(self) -> str | None:
        """The canary's version; None without one."""
        return self._run.version if self._run is not None else None

    async def begin(self, version: str, champion: str) -> None:
        """Start the version's server and give it its share.

        Raises:
            PartError: it does not come up, or the sidecar cannot be told.
            RegistryError: MLflow does not answer, or there is no such version.
        """
        await self._servers.start_canary(version, self.plan.percent)
        trial_id = await asyncio.to_thread(self._begin_trial, version, champion)
        now = asyncio.get_running_loop().time()
        self._run = _Run(version, champion, trial_id, now, time.time_ns() // 1_000_000)
        logger.info("version %s gets %g %% of the traffic as a canary", version, self.plan.percent)

    async def step(self) -> CanaryEnd | None:
        """Look at it, if it is time; how it ended, when it does."""
        run = self._run
        now = asyncio.get_running_loop().time()
        if run is None or now < run.look_at:
            return None
        run.look_at = now + _LOOK_SECONDS
        try:
            return await self._look(run, now)
        except PartError as error:  # the sidecar's own part restarts it
            logger.info("the canary could not be looked at: %s", error)
            return None

    async def cancel(self, reason: str) -> CanaryEnd:
        """End it because something else is wanted.

        Raises:
            PartError: the sidecar cannot be told; try again.
        """
        run = self._the_run()
        return await self._end(run, TrialState.CANCELLED, reason)

    def describe(self) -> str:
        """One line for the status board."""
        run = self._run
        if run is None:
            return ""
        report = self._report(run)
        left = max(0.0, self.plan.seconds - (asyncio.get_running_loop().time() - run.began))
        failed = f"{report.canary.requests} requests, {report.canary.failures} failed"
        waits = f"{left:.0f} s left" if left else f"waits for {self.plan.requests} requests"
        return f"v{run.version} gets {self.plan.percent:g} % as a canary: {failed}; {waits}"

    async def _look(self, run: _Run, now: float) -> CanaryEnd | None:
        if run.ending is not None:
            return await self._end(run, *run.ending)
        server = self._servers.canary
        if server is None or server.process.returncode is not None:
            status = server.process.returncode if server is not None else None
            return await self._end(run, TrialState.ROLLED_BACK, f"its server ended with status {status}")
        upstreams = await self._servers.look_at_canary(self.plan.percent)
        if upstreams.canary is not None and upstreams.champion is not None:
            run.canary.update(upstreams.canary)
            run.side.update(upstreams.champion)
        if now >= run.book_at:
            run.book_at = now + _BOOK_SECONDS
            run.accuracies = await asyncio.to_thread(self._exchange_with_book, run)
        report = self._report(run)
        reason = reason_to_go_back(self.plan, report.canary, report.champion)
        if reason:
            return await self._end(run, TrialState.ROLLED_BACK, reason)
        if now - run.began >= self.plan.seconds and report.canary.requests >= self.plan.requests:
            switch = await self._servers.promote_canary()
            return await self._over(run, TrialState.PASSED, _praise(report), switch)
        return None

    async def _end(self, run: _Run, state: TrialState, reason: str) -> CanaryEnd:
        run.ending = (state, reason)
        if self._servers.canary is not None:
            await self._servers.end_canary()
        return await self._over(run, state, reason, None)

    async def _over(self, run: _Run, state: TrialState, reason: str, switch: Switch | None) -> CanaryEnd:
        report = self._report(run).model_copy(update={"alias_restored": state is not TrialState.ROLLED_BACK})
        self._run = None
        logger.info("the canary of version %s is over, %s: %s", run.version, state, reason)
        if run.trial_id is not None:
            await asyncio.to_thread(self._end_trial, run.trial_id, state, reason, report)
        return CanaryEnd(state, run.version, run.champion, reason, run.trial_id, switch)

    def _report(self, run: _Run) -> CanaryReport:
        canary, champion = run.accuracies
        return CanaryReport(
            percent=self.plan.percent,
            seconds=self.plan.seconds,
            canary=run.canary.report(canary),
            champion=run.side.report(champion),
        )

    def _the_run(self) -> _Run:
        if self._run is None:
            raise ValueError("there is no canary")
        return self._run

    # -- the case book, which may be away: a canary goes on without it -------------------------------------------

    def _begin_trial(self, version: str, champion: str) -> int | None:
        try:
            with open_case_book(self._case_book_url) as book:
                return book.begin_trial(TrialKind.CANARY, self._servers.name, champion, version).id
        except StoreError as error:
            logger.warning("the canary is not recorded: %s", error)
            return None

    def _exchange_with_book(self, run: _Run) -> tuple[float | None, float | None]:
        """Write down how far it is, and read what the monitor estimates; what was known, if the book is away."""
        try:
            with open_case_book(self._case_book_url) as book:
                if run.trial_id is not None:
                    book.report_trial(run.trial_id, self._report(run).model_dump())
                name = self._servers.name
                return estimated_accuracies(book, name, run.version, run.champion, run.since_ms)
        except StoreError as error:
            logger.info("the canary's accuracy is not known now: %s", error)
            return run.accuracies

    def _end_trial(self, trial_id: int, state: TrialState, reason: str, report: CanaryReport) -> None:
        try:
            with open_case_book(self._case_book_url) as book:
                book.end_trial(trial_id, state, reason, report.model_dump())
        except StoreError as error:
            logger.warning("the end of the canary is not recorded: %s", error)


def _praise(report: CanaryReport) -> str:
    canary = report.canary
    judged = (
        f"estimated accuracy {canary.accuracy:.1%}"
        if canary.accuracy is not None
        else "accuracy not judged: the monitor had no full window of it"
    )
    return f"{canary.requests} requests, {canary.failures} failed; {judged}"
