"""A part of ``up`` that is one ``fieldrepair`` command: kept running, restarted when it dies, stopped at the end."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from fieldrepair_plugin.errors import PartError
from fieldrepair_plugin.processes import ManagedProcess, ProcessTable, child_environment
from fieldrepair_plugin.status import StatusBoard

_POLL_SECONDS = 0.1
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
HEALTHY_SECONDS = 60.0
"""A part that ran this long starts over with the shortest pause when it dies."""


@dataclass(frozen=True)
class PartPlan:
    """How one part is started and when it counts as ready."""

    name: str
    """The ``fieldrepair`` command it runs, which is also what people call it."""
    environment: Callable[[], Mapping[str, str]]
    """Its settings, asked for at each start: a restarted sidecar must know the present model server."""
    ready: Callable[[], Awaitable[bool]]
    """Whether it does its work."""
    ready_text: Callable[[], str]
    """What its status line says then."""


class Part:
    """One part. :meth:`run` keeps it running until :meth:`stop`."""

    def __init__(self, plan: PartPlan, processes: ProcessTable, board: StatusBoard) -> None:
        self.plan = plan
        self.process: ManagedProcess | None = None
        self.ready = asyncio.Event()
        self._processes = processes
        self._board = board
        self._stopping = False

    async def run(self) -> None:
        """Start the part, and again whenever it ends, after a pause that doubles up to a minute."""
        pause = FIRST_PAUSE
        loop = asyncio.get_running_loop()
        while not self._stopping:
            began = loop.time()
            process = await self._start()
            await self._watch_until_ready(process)
            status = await process.wait()
            self.ready.clear()
            if self._stopping:
                return
            if loop.time() - began > HEALTHY_SECONDS:
                pause = FIRST_PAUSE
            # What it leaves behind (a child of its own) would hold its port.
            await process.stop(5.0)
            self._board.set(
                self.plan.name,
                "restarting",
                f"ended with status {status}; again in {pause:g} s; end of {process.log}:\n{process.last_log_lines(5)}",
            )
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    async def wait_ready(self, seconds: float) -> None:
        """Wait until the part does its work.

        Raises:
            PartError: it does not within ``seconds``; with the end of its log.
        """
        try:
            await asyncio.wait_for(self.ready.wait(), seconds)
        except asyncio.TimeoutError:
            process = self.process
            tail = f"; end of {process.log}:\n{process.last_log_lines()}" if process else ""
            raise PartError(f"the {self.plan.name} was not ready within {seconds:g} s{tail}") from None

    async def stop(self, grace: float) -> None:
        """Stop it and start it no more."""
        self._stopping = True
        if self.process is None:
            return
        self._board.set(self.plan.name, "stopping", f"pid {self.process.pid}")
        gently = await self.process.stop(grace)
        self._board.set(self.plan.name, "stopped", "" if gently else f"killed: it did not stop within {grace:g} s")

    async def _start(self) -> ManagedProcess:
        plan = self.plan
        command = [sys.executable, "-m", "fieldrepair_service.cli", plan.name]
        if self.process is None:
            self._board.set(plan.name, "starting", "")
        self.process = await self._processes.start(
            plan.name, command, child_environment(**plan.environment()), plan.name
        )
        return self.process

    async def _watch_until_ready(self, process: ManagedProcess) -> None:
        while process.returncode is None and not self._stopping:
            if await self.plan.ready():
                self.ready.set()
                self._board.set(self.plan.name, "ready", self.plan.ready_text())
                return
            await asyncio.sleep(_POLL_SECONDS)
