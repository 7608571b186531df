"""``fieldrepair serve``: one model version in a pod, and the sidecar beside it told once the version is warm."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from fieldrepair_plugin.blue_green import BlueGreen
from fieldrepair_plugin.errors import PartError
from fieldrepair_plugin.kubernetes.settings import ServeSettings
from fieldrepair_plugin.model_server import ServerOptions
from fieldrepair_plugin.model_uri import parse_model_uri, wanted_version
from fieldrepair_plugin.processes import ProcessTable
from fieldrepair_plugin.sidecar_control import SidecarControl

logger = logging.getLogger(__name__)

_CHECK_SECONDS = 2.0
_LOG_SECONDS = 0.5


def run_serve(settings: ServeSettings) -> None:
    """The command.

    Raises:
        ModelUriError: there is no such model, version or alias.
        PartError: the model server did not come up, does not answer its own reference inputs, or ended.
        RegistryError: MLflow did not answer at the start.
    """
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    asyncio.run(_Served(settings).run())


class _Served:
    """One run: a model server, watched until it ends or is told to."""

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._target = parse_model_uri(settings.model)
        tracking_uri = settings.use_registry()
        self._processes = ProcessTable(settings.state_dir.absolute())
        self._control = SidecarControl(settings.control_url, settings.resolve_control_token())
        self._servers = BlueGreen(
            self._target.name,
            self._control,
            ServerOptions(
                start_seconds=settings.server_start_seconds,
                request_seconds=settings.server_request_seconds,
                workers=settings.server_workers,
                host=settings.server_host,
                port=settings.server_port,
            ),
            self._processes,
            tracking_uri=tracking_uri,
        )

    async def run(self) -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        work, stopped = asyncio.create_task(self._work()), asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                await work  # it only ends by itself with an error
            if self._servers.active is not None:
                await self._outlast_the_sidecar()
        finally:
            work.cancel()
            stopped.cancel()
            await asyncio.gather(work, stopped, return_exceptions=True)
            await self._servers.stop()
            await self._control.close()
            self._processes.kill_all()

    async def _work(self) -> None:
        version = self._settings.served_version or await asyncio.to_thread(wanted_version, self._target)
        logger.info("starting %s v%s", self._target.name, version)
        with _following(self._settings.state_dir / "logs" / f"model-server-v{version}.log"):
            server, not_warmed = await self._servers.start_first(version)
            logger.info("%s is up at %s (%s)", server.label, server.url, not_warmed or "warm")
            ended = asyncio.create_task(server.process.wait())
            told = False
            while not ended.done():
                told = await self._tell_sidecar(told=told)
                await asyncio.wait({ended}, timeout=_CHECK_SECONDS)
        raise PartError(f"the model server of {server.label} ended with status {ended.result()}")

    async def _tell_sidecar(self, *, told: bool) -> bool:
        """Tell it where the traffic goes, again after it was restarted; whether it knows."""
        server = self._servers.active
        assert server is not None  # noqa: S101 - called after it was started
        try:
            if told:
                await self._servers.repeat_address()
            else:
                await self._control.point_to(server.url, server.name, server.version)
                logger.info("the sidecar sends its traffic to %s", server.label)
        except PartError as error:
            logger.warning("%s", error)
            return False
        return True

    async def _outlast_the_sidecar(self) -> None:
        """Both are told to stop at once. The sidecar first finishes what it has taken in, and needs answers for it."""
        logger.info("stopping when the sidecar has")
        deadline = asyncio.get_running_loop().time() + self._settings.serve_stop_seconds
        while asyncio.get_running_loop().time() < deadline:
            try:
                await self._control.upstreams()
            except PartError:
                return  # its control port is the last thing that it closes
            await asyncio.sleep(0.2)
        logger.warning("the sidecar still runs after %g s", self._settings.serve_stop_seconds)


@contextmanager
def _following(log: Path) -> Generator[None]:
    """Copy what the model server writes to our standard error: that is where a pod's log lines are looked for."""
    task = asyncio.create_task(_copy(log))
    try:
        yield
    finally:
        task.cancel()


async def _copy(log: Path) -> None:
    at = log.stat().st_size if log.exists() else 0
    try:
        while True:
            at = _copy_from(log, at)
            await asyncio.sleep(_LOG_SECONDS)
    finally:
        _copy_from(log, at)


def _copy_from(log: Path, at: int) -> int:
    if not log.exists():
        return at
    with log.open("rb") as stream:
        stream.seek(at)
        sys.stderr.buffer.write(stream.read())
        sys.stderr.flush()
        return stream.tell()
