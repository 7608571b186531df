"""Keeps one deployment running: ``python -m fieldrepair_plugin.deployments HOME NAME``

It starts ``fieldrepair up`` and starts it again when it ends, after a pause that doubles up to a minute. It belongs to
no terminal and outlives whoever made the deployment. SIGTERM ends both; SIGHUP says that another order was placed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys

from fieldrepair_monitoring.backoff import Backoff
from fieldrepair_plugin.deployments.config import environment, numeric
from fieldrepair_plugin.deployments.records import DeploymentFolder, KeeperStatus, Order
from fieldrepair_plugin.errors import ModelUriError
from fieldrepair_plugin.model_uri import parse_model_uri
from fieldrepair_plugin.processes import child_environment
from fieldrepair_plugin.settings import UpSettings
from fieldrepair_plugin.supervisor import MODEL_FILE

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
_HEALTHY_SECONDS = 60.0
_LOOK_SECONDS = 0.5
_LOG_TAIL = 4000


class Keeper:
    """The keeper of one deployment."""

    def __init__(self, folder: DeploymentFolder) -> None:
        self._folder = folder
        self._stop = asyncio.Event()
        self._changed = asyncio.Event()
        self._status = KeeperStatus(starts=0, ended=0, last_end="")
        self._pause = Backoff(FIRST_PAUSE, LONGEST_PAUSE)

    async def run(self) -> None:
        """Keep ``up`` running until told to stop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._changed.set)
        # One that outlived its keeper goes on serving; it is watched, not replaced.
        await self._wait_for_another()
        while not self._stop.is_set():
            self._changed.clear()
            order = self._folder.order()
            began = loop.time()
            process = await self._start(order)
            asked = await self._watch(process, order)
            if asked:
                await end(process, stop_seconds(order))
                continue
            if loop.time() - began > _HEALTHY_SECONDS:
                self._pause.succeeded()
            wait = self._pause.failed()
            self._say(ended=1, last_end=f"up ended with status {process.returncode}: {self._tail()}")
            logger.warning("up ended with status %s; again in %g s", process.returncode, wait)
            await self._sleep(wait)

    async def _start(self, order: Order) -> asyncio.subprocess.Process:
        self._say(starts=1)
        settings = {
            **environment(order.config),
            "FIELDREPAIR_STATE_DIR": str(self._folder.state),
            "FIELDREPAIR_TRACKING_URI": order.tracking_uri,
        }
        command = [sys.executable, "-m", "fieldrepair_service.cli", "up", order.model_uri]
        return await asyncio.create_subprocess_exec(
            *command, env=child_environment(**settings), cwd=order.working_dir, stdin=asyncio.subprocess.DEVNULL
        )

    async def _watch(self, process: asyncio.subprocess.Process, order: Order) -> bool:
        """Wait until ``up`` ends (False) or has to be ended, because of a stop or another order (True)."""
        ended = asyncio.ensure_future(process.wait())
        while not ended.done():
            waits = [asyncio.ensure_future(event.wait()) for event in (self._stop, self._changed)]
            await asyncio.wait([ended, *waits], return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
            if ended.done():
                break
            if self._stop.is_set():
                return True
            self._changed.clear()
            placed = self._folder.order()
            if not same_but_for_the_version(order, placed):
                return True
            # Another version of the same model: ``up`` starts its server and switches without losing a request.
            (self._folder.state / MODEL_FILE).write_text(placed.model_uri)
            process.send_signal(signal.SIGHUP)
            order = placed
        return False

    async def _wait_for_another(self) -> None:
        pid = self._folder.up()
        while pid is not None and not self._stop.is_set() and not self._changed.is_set():
            await self._sleep(_LOOK_SECONDS)
            pid = self._folder.up()
        if pid is not None:
            await end_foreign(self._folder, pid, stop_seconds(self._folder.order()))

    async def _sleep(self, seconds: float) -> None:
        """Wait, unless something is asked for."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self._stop, self._changed)]
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    def _say(self, *, starts: int = 0, ended: int = 0, last_end: str = "") -> None:
        now = self._status
        self._status = KeeperStatus(
            starts=now.starts + starts, ended=now.ended + ended, last_end=last_end or now.last_end
        )
        self._folder.report(self._status)

    def _tail(self) -> str:
        with self._folder.log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_TAIL))
            return log.read().decode("utf-8", "replace").strip()


async def end(process: asyncio.subprocess.Process, seconds: float) -> None:
    """SIGTERM, and SIGKILL when ``seconds`` have passed. The kernel ends what ``up`` started with it."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), seconds)
    except asyncio.TimeoutError:
        process.kill()
        await process.wait()


async def end_foreign(folder: DeploymentFolder, pid: int, seconds: float) -> None:
    """The same for an ``up`` that is no child of ours."""
    deadline = asyncio.get_running_loop().time() + seconds
    number = signal.SIGTERM
    while folder.up() == pid:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        while folder.up() == pid and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.1)
        number = signal.SIGKILL


def stop_seconds(order: Order) -> float:
    """How long ``up`` may take to stop: what its parts may take, one after the other, and some more."""
    return 2 * numeric(order.config, UpSettings, "stop_seconds") + 20.0


def same_but_for_the_version(one: Order, other: Order) -> bool:
    """Whether two orders differ in nothing but the alias or version of one registered model."""
    try:
        names = {parse_model_uri(order.model_uri).name for order in (one, other)}
    except ModelUriError:
        return False
    return len(names) == 1 and one.model_copy(update={"model_uri": other.model_uri}) == other
