"""While a candidate waits, ``up`` lets it answer a copy of some of the traffic: its server and the shadow process.

Everything here stands back for serving: it runs at a low priority, is not begun where memory is short, ends before a
switch begins, and its failures are told and tried again, nothing more.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace

from fieldrepair_monitoring.backoff import Backoff
from fieldrepair_monitoring.errors import RegistryError
from fieldrepair_plugin.blue_green import BlueGreen
from fieldrepair_plugin.errors import PartError
from fieldrepair_plugin.memory import available_bytes, resident_bytes
from fieldrepair_plugin.model_server import ModelServer, ServerOptions, start_warm_server
from fieldrepair_plugin.model_uri import CANDIDATE, aliases_of
from fieldrepair_plugin.processes import ManagedProcess, ProcessTable, child_environment
from fieldrepair_plugin.shadow_order import ORDER_VARIABLE, ShadowOrder
from fieldrepair_plugin.status import StatusBoard
from fieldrepair_service.case_book import TrialKind, TrialState, open_case_book
from fieldrepair_service.errors import StoreError

logger = logging.getLogger(__name__)

SHADOW = "shadow"
NICENESS = 10
_POLL_SECONDS = 3.0
_TICK_SECONDS = 0.5
_STOP_SECONDS = 10.0
_SPARE_BYTES = 256 << 20

Ask = Callable[[str], Mapping[str, str]]


@dataclass(frozen=True)
class ShadowPlan:
    """Whether candidates are shadowed, and how much they are asked."""

    enabled: bool
    inputs_per_second: float
    field_log: str
    case_book: str
    tracking_uri: str


@dataclass
class _Running:
    champion: str
    server: ModelServer
    process: ManagedProcess


class ShadowStage:
    """Begins a shadow when a version gets the alias ``candidate``, and ends it when that version waits no more.

    Args:
        servers: say which version is served.
        plan: what to do.
        options: how servers are run.
        processes: where processes are kept.
        board: where this is told.
        ask: gives a model's aliases; it blocks and is asked in a thread.
        free_bytes: memory that is left.
    """

    def __init__(
        self,
        servers: BlueGreen,
        plan: ShadowPlan,
        options: ServerOptions,
        processes: ProcessTable,
        board: StatusBoard,
        *,
        ask: Ask = aliases_of,
        free_bytes: Callable[[], int | None] = available_bytes,
    ) -> None:
        self._servers = servers
        self._plan = plan
        self._options = replace(options, niceness=NICENESS, workers=1)
        self._processes = processes
        self._board = board
        self._ask = ask
        self._free_bytes = free_bytes
        self._running: _Running | None = None
        self._unended = True  # a shadow may be recorded as running that nobody runs: at the start, or after a switch
        self._silent = 0
        self._step: asyncio.Task[None] | None = None
        self._pause = Backoff(5.0, 600.0)
        self._tried: tuple[str, str] | None = None
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Go on until cancelled."""
        if not self._plan.enabled:
            self._board.set(SHADOW, "waiting", "off (--no-shadow)")
            return
        while True:
            if not self._silent:
                self._step = asyncio.create_task(self._look())
                # Cancelled by silence(): whatever was being started is stopped again by then.
                await asyncio.wait({self._step})
                if not self._step.cancelled() and (error := self._step.exception()) is not None:
                    logger.error("the shadow could not be looked after: %r", error)
            self._wake.clear()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _POLL_SECONDS)

    def look_now(self) -> None:
        """Ask the registry now and not at the end of the pause."""
        self._wake.set()

    @asynccontextmanager
    async def silence(self) -> AsyncGenerator[None]:
        """No shadow inside the block, so that its memory and processors are free for something that matters more."""
        self._silent += 1
        try:
            await self._halt("making room for a switch")
            yield
        finally:
            self._silent -= 1
            self._wake.set()

    async def stop(self) -> None:
        """End it for good; the trial goes on when ``up`` is started again."""
        self._silent += 1
        await self._halt("stopped")

    async def _look(self) -> None:
        served = self._servers.active
        try:
            candidate = await asyncio.to_thread(self._candidate)
        except RegistryError as error:
            logger.info("which version is the candidate is not known now: %s", error)
            return  # what runs goes on
        canary = self._servers.canary
        if served is None or candidate is None or candidate == served.version:
            await self._rest(f"no version has the alias {CANDIDATE}", "does not wait for approval any more")
        elif canary is not None and canary.version == candidate:
            await self._rest(f"v{candidate} is a canary now", "answers a share of the traffic itself now")
        else:
            await self._keep(served, candidate)

    async def _rest(self, told: str, why: str) -> None:
        """Nothing is to be shadowed."""
        await self._halt("")
        if self._unended:
            await asyncio.to_thread(self._end_trial, f"the version {why}")
        self._board.set(SHADOW, "waiting", told)
        self._tried = None

    async def _keep(self, served: ModelServer, candidate: str) -> None:
        """See that the shadow of this pair runs."""
        pair = (served.version, candidate)
        running = self._running
        if running is not None:
            problem = self._problem(running, pair)
            if not problem:
                self._pause.succeeded()
                return
            logger.info("the shadow of version %s ends: %s", running.server.version, problem)
            await self._halt(problem)
        if pair != self._tried:
            self._tried = pair
            self._pause.succeeded()
        if not self._pause.due:
            return
        too_little = self._memory_problem(served)
        if too_little:
            self._pause.failed()
            self._board.set(SHADOW, "waiting", f"v{candidate} is not shadowed: {too_little}")
            return
        try:
            await self._start(served, candidate)
        except (PartError, RegistryError, OSError) as error:
            wait = self._pause.failed()
            self._board.set(SHADOW, "failed", f"v{candidate} cannot be shadowed, again in {wait:.0f} s: {error}")

    async def _start(self, served: ModelServer, candidate: str) -> None:
        name = self._servers.name
        self._board.set(SHADOW, "starting", f"v{candidate} beside v{served.version}")
        server, _ = await start_warm_server(
            name,
            candidate,
            processes=self._processes,
            tracking_uri=self._plan.tracking_uri,
            options=self._options,
        )
        try:
            order = ShadowOrder(
                model_name=name,
                champion_version=served.version,
                candidate_version=candidate,
                candidate_url=server.url,
                candidate_model=server.model,
                field_log=self._plan.field_log,
                case_book=self._plan.case_book,
                cache_dir=self._processes.state_dir / "cache",
                inputs_per_second=self._plan.inputs_per_second,
                request_seconds=self._options.request_seconds,
            )
            process = await self._processes.start(
                SHADOW,
                ["nice", "-n", str(NICENESS), sys.executable, "-m", "fieldrepair_plugin.shadow_process"],
                child_environment(
                    MLFLOW_TRACKING_URI=self._plan.tracking_uri, **{ORDER_VARIABLE: order.model_dump_json()}
                ),
                SHADOW,
            )
        except BaseException:
            await server.stop()
            raise
        self._running = _Running(served.version, server, process)
        self._unended = True
        self._board.set(
            SHADOW,
            "ready",
            f"v{candidate} answers a copy of the traffic of v{served.version}, at most "
            f"{self._plan.inputs_per_second:g} inputs/s",
        )

    async def _halt(self, why: str) -> None:
        """Stop what runs, or is being started."""
        step = self._step
        if step is not None and step is not asyncio.current_task() and not step.done():
            step.cancel()
            await asyncio.wait({step})
        running, self._running = self._running, None
        if running is not None:
            await running.process.stop(_STOP_SECONDS)
            await running.server.stop()
            if why:
                self._board.set(SHADOW, "waiting", why)

    def _problem(self, running: _Running, pair: tuple[str, str]) -> str:
        if (running.champion, running.server.version) != pair:
            return f"version {pair[1]} is shadowed beside version {pair[0]} now"
        for what, process in (("its server", running.server.process), ("it", running.process)):
            if process.returncode is not None:
                self._pause.failed()
                return f"{what} ended with status {process.returncode}; end of {process.log}:\n" + (
                    process.last_log_lines(5)
                )
        return ""

    def _memory_problem(self, served: ModelServer) -> str:
        """A server like the one that serves, and as much again for the process that compares."""
        free = self._free_bytes()
        if free is None:
            return ""
        needed = 2 * resident_bytes(served.process.pid) + _SPARE_BYTES
        if free >= needed:
            return ""
        return f"{free >> 20} MB of memory are left, it may need {needed >> 20} MB"

    def _candidate(self) -> str | None:
        return self._ask(self._servers.name).get(CANDIDATE)

    def _end_trial(self, reason: str) -> None:
        try:
            with open_case_book(self._plan.case_book) as book:
                for trial in book.trials(TrialKind.SHADOW, self._servers.name, state=TrialState.RUNNING):
                    book.end_trial(trial.id, TrialState.ENDED, reason)
            self._unended = False
        except StoreError as error:
            logger.warning("that the shadow ended could not be recorded: %s", error)
