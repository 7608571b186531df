"""Keeps the wanted version served: follows the alias, replaces a server that died, records what was promoted."""

from __future__ import annotations

import asyncio
import logging
import math
from contextlib import suppress
from dataclasses import dataclass

from fieldrepair_monitoring.errors import RegistryError
from fieldrepair_plugin.approval import act_on_approvals
from fieldrepair_plugin.blue_green import BlueGreen, Switch
from fieldrepair_plugin.canary_stage import CanaryEnd, CanaryStage
from fieldrepair_plugin.errors import PartError
from fieldrepair_plugin.last_served import LastServed
from fieldrepair_plugin.promotion import AliasWatcher
from fieldrepair_plugin.settled import held_back, promotion_settled, roll_back_settled
from fieldrepair_plugin.shadow_stage import ShadowStage
from fieldrepair_plugin.status import StatusBoard
from fieldrepair_service.case_book import CaseBook, Trial, TrialState, open_case_book
from fieldrepair_service.errors import StoreError

logger = logging.getLogger(__name__)

REGISTRY, MODEL_SERVER = "registry", "model server"
_TICK_SECONDS = 0.25
_CHECK_SIDECAR_SECONDS = 5.0
_APPROVALS_SECONDS = 1.0
_SETTLE_AGAIN_SECONDS = 10.0
_FIRST_RESTART_SECONDS = 1.0
_LONGEST_RESTART_SECONDS = 60.0


@dataclass(frozen=True)
class _Refused:
    """A version that did not come up, and when it may be tried again."""

    version: str
    again_at: float
    """Infinity for one that was rolled back: only a move of the alias gives it another chance."""


class Serving:
    """The part of ``up`` that decides which version takes the traffic.

    Args:
        servers: makes the switches.
        watcher: says which version is wanted.
        shadow: makes room for a switch.
        canary: lets new versions in step by step, if that is wanted.
        last: where the served version is written down.
        board: where this is told.
        case_book_url: where promotions are recorded.
        retry_seconds: a version that did not come up is tried again after this time, unless the alias moves sooner.
    """

    def __init__(
        self,
        servers: BlueGreen,
        watcher: AliasWatcher,
        shadow: ShadowStage,
        canary: CanaryStage,
        last: LastServed,
        board: StatusBoard,
        *,
        case_book_url: str,
        retry_seconds: float,
    ) -> None:
        self._servers = servers
        self._watcher = watcher
        self._shadow = shadow
        self._canary = canary
        self._last = last
        self._board = board
        self._case_book_url = case_book_url
        self._retry_seconds = retry_seconds
        self._refused: _Refused | None = None
        self._unsettled: tuple[str, str | None] | None = None
        self._unsettled_end: CanaryEnd | None = None
        self._wake = asyncio.Event()
        self._restart_pause = _FIRST_RESTART_SECONDS
        self._how = ""
        # When each recurring duty is due next, in the event loop's time.
        self._look_at = self._check_at = self._settle_at = self._restart_at = self._approvals_at = 0.0
        self._settle_canary_at = 0.0
        self._book: CaseBook | None = None

    async def start(self, version: str) -> None:
        """Start the first server.

        Raises:
            PartError: it does not come up.
            RegistryError: MLflow does not answer, or there is no such version.
        """
        held = await asyncio.to_thread(
            held_back, self._case_book_url, self._servers.name, version, canaries=self._canary.plan.wanted
        )
        if held is not None:
            self._go_on_after(held)
        first = version if held is None else held.champion_version
        self._board.set(MODEL_SERVER, "starting", f"{self._servers.name} v{first}")
        _, not_warmed = await self._servers.start_first(first)
        # The alias may have moved while nothing ran here; then this start was the promotion.
        self._unsettled = (first, None)
        self._how = f"not warmed: {not_warmed}" if not_warmed else "warm"
        self._served(first)
        self._say_registry(version, "")

    def look_now(self) -> None:
        """Ask the registry now and not at the end of the pause."""
        self._look_at = 0.0
        self._wake.set()

    async def run(self) -> None:
        """Follow the registry until cancelled."""
        try:
            await self._keep_on()
        finally:
            if self._book is not None:
                self._book.close()

    async def _keep_on(self) -> None:
        while True:
            await self._replace_dead_server()
            await self._act_on_approvals()
            await self._follow()
            await self._watch_canary()
            await self._check_sidecar()
            await self._settle()
            await self._settle_canary()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _TICK_SECONDS)
            self._wake.clear()

    async def _act_on_approvals(self) -> None:
        """What was approved in the console becomes a move of the alias, which :meth:`_follow` then sees."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._approvals_at:
            return
        try:
            if self._book is None:
                self._book = await asyncio.to_thread(open_case_book, self._case_book_url)
            for line in await asyncio.to_thread(act_on_approvals, self._book, self._watcher.target):
                logger.info(line)
                self._look_at = 0.0
            pause = _APPROVALS_SECONDS
        except StoreError as error:
            logger.info("approvals cannot be read: %s", error)
            pause = _SETTLE_AGAIN_SECONDS
        self._approvals_at = loop.time() + pause

    async def _follow(self) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._look_at:
            return
        sighting = await self._watcher.look()
        self._look_at = asyncio.get_running_loop().time() + self._watcher.pause
        self._say_registry(sighting.version, sighting.problem)
        refused = self._refused
        if refused is not None and refused.version != sighting.version:
            self._refused = refused = None  # the alias moved on: the version may be wanted anew later
        if self._canary.version is not None and not await self._canary_gives_way(sighting.version):
            return
        active = self._servers.active
        if active is None or sighting.version == active.version:
            if refused is None and active is not None and self._board.parts[MODEL_SERVER].state == "failed":
                self._say_served("the alias is back on it")
            return
        if refused is None or now >= refused.again_at:
            await self._switch(sighting.version, f"{self._watcher.target} moved")

    async def _switch(self, version: str, why: str) -> None:
        active = self._servers.active
        before = active.label if active else "nothing"
        self._board.set(MODEL_SERVER, "switching", f"{why}: starting v{version}; {before} answers until it is warm")
        switch = None
        try:
            async with self._shadow.silence():
                if active is not None and self._canary.plan.wanted and _is_newer(version, active.version):
                    await self._canary.begin(version, active.version)
                else:
                    switch = await self._servers.switch(version)
        except (PartError, RegistryError) as error:
            self._refused = _Refused(version, asyncio.get_running_loop().time() + self._retry_seconds)
            self._board.set(
                MODEL_SERVER,
                "failed",
                f"v{version} does not come up, {before} goes on; move the alias, or it is tried again in "
                f"{self._retry_seconds:g} s: {error}",
            )
            return
        self._refused = None
        if switch is not None:
            self._switched(switch)

    def _switched(self, switch: Switch) -> None:
        self._unsettled = (switch.version, switch.previous)
        self._settle_at = 0.0
        self._how = _describe(switch)
        self._served(switch.version)

    def _served(self, version: str) -> None:
        self._last.keep(self._servers.name, version)
        self._say_served(self._how)

    async def _canary_gives_way(self, wanted: str) -> bool:
        """End the canary if another version is wanted; whether that is done."""
        if wanted == self._canary.version:
            return False
        try:
            await self._canary.cancel(f"the alias moved to version {wanted}")
        except PartError as error:
            logger.info("the canary cannot be ended now: %s", error)
            return False
        self._say_served("the canary was cancelled")
        return True

    async def _watch_canary(self) -> None:
        if self._canary.version is None:
            return
        end = await self._canary.step()
        if end is None:
            served = self._servers.active
            self._board.set(MODEL_SERVER, "ready", f"{served.label if served else ''}; {self._canary.describe()}")
        elif end.switch is not None:
            self._switched(end.switch)
        elif end.state is TrialState.ROLLED_BACK:
            self._went_back(end)
        else:
            self._say_served(end.reason)

    def _went_back(self, end: CanaryEnd) -> None:
        self._refused = _Refused(end.version, math.inf)
        self._unsettled_end = end
        self._settle_canary_at = 0.0
        served = self._servers.active
        self._board.set(
            MODEL_SERVER,
            "failed",
            f"the canary of v{end.version} was rolled back: {end.reason}; {served.label if served else 'nothing'} goes "
            "on",
        )

    def _go_on_after(self, trial: Trial) -> None:
        """``up`` ended in the middle of a canary (it is begun anew), or before one that went back was settled."""
        if trial.state is TrialState.ROLLED_BACK:
            end = CanaryEnd(trial.state, trial.candidate_version, trial.champion_version, trial.reason, trial.id)
            self._refused = _Refused(trial.candidate_version, math.inf)
            self._unsettled_end = end

    async def _settle_canary(self) -> None:
        loop = asyncio.get_running_loop()
        end = self._unsettled_end
        if end is None or loop.time() < self._settle_canary_at:
            return
        try:
            done = await asyncio.to_thread(roll_back_settled, self._case_book_url, self._watcher.target, end)
        except (StoreError, RegistryError) as error:
            self._settle_canary_at = loop.time() + _SETTLE_AGAIN_SECONDS
            logger.warning("the roll-back of version %s could not be recorded yet: %s", end.version, error)
            return
        self._unsettled_end = None
        for line in done:
            logger.info(line)
        self._look_at = 0.0

    async def _replace_dead_server(self) -> None:
        active = self._servers.active
        if active is None or active.process.returncode is None:
            return
        loop = asyncio.get_running_loop()
        if loop.time() < self._restart_at:
            return
        self._board.set(
            MODEL_SERVER,
            "restarting",
            f"{active.label} ended with status {active.process.returncode}; end of {active.process.log}:\n"
            f"{active.process.last_log_lines(5)}",
        )
        try:
            await self._servers.switch(active.version)
        except (PartError, RegistryError) as error:
            self._restart_at = loop.time() + self._restart_pause
            self._board.set(
                MODEL_SERVER, "failed", f"{active.label} is down; again in {self._restart_pause:g} s: {error}"
            )
            self._restart_pause = min(self._restart_pause * 2, _LONGEST_RESTART_SECONDS)
            return
        self._restart_pause = _FIRST_RESTART_SECONDS
        self._say_served("restarted")

    async def _check_sidecar(self) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() < self._check_at:
            return
        self._check_at = loop.time() + _CHECK_SIDECAR_SECONDS
        try:
            await self._servers.repeat_address()
        except PartError as error:
            logger.info("the sidecar's upstream could not be checked: %s", error)  # its own part restarts it

    async def _settle(self) -> None:
        loop = asyncio.get_running_loop()
        if self._unsettled is None or loop.time() < self._settle_at:
            return
        version, previous = self._unsettled
        try:
            done = await asyncio.to_thread(
                promotion_settled, self._case_book_url, self._servers.name, version, previous
            )
        except (StoreError, RegistryError) as error:
            self._settle_at = loop.time() + _SETTLE_AGAIN_SECONDS
            logger.warning("promotion of version %s could not be recorded yet: %s", version, error)
            return
        self._unsettled = None
        if done:
            self._say_served("; ".join([self._how, *done]))

    def _say_served(self, more: str) -> None:
        server = self._servers.active
        if server is not None:
            self._board.set(MODEL_SERVER, "ready", f"{server.label} at {server.url} ({more})")

    def _say_registry(self, version: str, problem: str) -> None:
        target = self._watcher.target
        if problem:
            active = self._servers.active
            goes_on = f"; {active.label} goes on" if active else ""
            self._board.set(REGISTRY, "waiting", f"{problem}{goes_on}")
        elif target.alias is None:
            self._board.set(REGISTRY, "ready", f"{target}: fixed, no alias is followed")
        else:
            self._board.set(REGISTRY, "ready", f"{target} is version {version}; followed")


def _is_newer(version: str, than: str) -> bool:
    """A move of the alias to an earlier version is a roll-back, which nobody wants to take its time."""
    return version.isdigit() and than.isdigit() and int(version) > int(than)


def _describe(switch: Switch) -> str:
    warmed = "warm" if switch.warmed else "not warmed: it has no hand-over"
    return f"{warmed}; up in {switch.start_seconds:.1f} s, switched in {switch.switch_seconds * 1000:.0f} ms" + (
        f", v{switch.previous} drains" if switch.previous not in (None, switch.version) else ""
    )
