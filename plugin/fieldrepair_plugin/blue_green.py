"""The model server that takes traffic, how another one takes its place, and one beside it that gets a share."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass

from fieldrepair_monitoring.model_cache import used
from fieldrepair_plugin.model_server import ModelServer, ServerOptions, start_warm_server
from fieldrepair_plugin.processes import ProcessTable
from fieldrepair_plugin.sidecar_control import SidecarControl, Upstreams

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Switch:
    """A switch of the traffic that was made."""

    version: str
    previous: str | None
    warmed: bool
    """False where the version has no reference sample to warm it with."""
    start_seconds: float
    """From the start of the new server until it was warm; the old one answered all that time."""
    switch_seconds: float
    """How long the sidecar took to send new requests to it."""


class BlueGreen:
    """The model server that takes traffic, and how another one takes its place.

    Args:
        name: registered model.
        control: the sidecar's control port.
        options: how servers are run.
        processes: where their processes are kept.
        tracking_uri: MLflow's.
        drain_seconds: how long the old server's requests may take after a switch.
    """

    def __init__(
        self,
        name: str,
        control: SidecarControl,
        options: ServerOptions,
        processes: ProcessTable,
        *,
        tracking_uri: str,
        drain_seconds: float = 60.0,
    ) -> None:
        self.name = name
        self.active: ModelServer | None = None
        self.canary: ModelServer | None = None
        self._control = control
        self._options = options
        self._processes = processes
        self._tracking_uri = tracking_uri
        self._drain_seconds = drain_seconds
        self._retiring: set[asyncio.Task[None]] = set()

    async def start_first(self, version: str) -> tuple[ModelServer, str]:
        """Start the first server; the sidecar is not told, it is started with its address.

        Returns:
            The server, and why it could not be warmed (empty if it was).

        Raises:
            PartError: it does not start, or does not answer its own reference inputs.
            RegistryError: MLflow could not answer.
        """
        self.active, skipped = await self._start(version)
        return self.active, skipped

    async def switch(self, version: str) -> Switch:
        """Start a server of ``version``, warm it, send the traffic there, and retire the old one in the background.

        Until the sidecar has switched, the old server answers everything; if anything fails before that, it stays.

        Raises:
            PartError: the new server does not come up, or the sidecar cannot be told; the new server is stopped.
            RegistryError: MLflow could not answer (:class:`ModelVersionMissingError` if there is no such version).
        """
        began = time.monotonic()
        server, skipped = await self._start(version)
        warm = time.monotonic()
        try:
            generation = await self._control.point_to(server.url, self.name, version)
        except BaseException:
            await server.stop()
            raise
        switched = time.monotonic()
        old, self.active = self.active, server
        self._retire_later(old, generation)
        return Switch(version, old.version if old else None, not skipped, warm - began, switched - warm)

    async def start_canary(self, version: str, percent: float) -> None:
        """Start a server of ``version``, warm it, and send it a share of the traffic.

        Raises:
            PartError: it does not come up, or the sidecar cannot be told; it is stopped.
            RegistryError: MLflow could not answer.
        """
        server, _ = await self._start(version)
        try:
            await self._control.start_canary(server.url, self.name, version, percent)
        except BaseException:
            await server.stop()
            raise
        self.canary = server

    async def promote_canary(self) -> Switch:
        """Send all traffic to the canary, and retire the old server in the background.

        Raises:
            PartError: the sidecar cannot be told; then nothing has changed.
        """
        server = self._the_canary()
        began = time.monotonic()
        generation = await self._control.point_to(server.url, self.name, server.version)
        old, self.active, self.canary = self.active, server, None
        self._retire_later(old, generation)
        return Switch(server.version, old.version if old else None, True, 0.0, time.monotonic() - began)

    async def end_canary(self) -> None:
        """Take the canary's share away, and retire its server in the background.

        Raises:
            PartError: the sidecar cannot be told; the server stays up, for it may still get requests.
        """
        server = self._the_canary()
        generation = await self._control.end_canary()
        self.canary = None
        # A sidecar that knew of no canary has been started again, and has no request of one either.
        self._retire_later(server, generation + 1 if generation is not None else 0)

    async def look_at_canary(self, percent: float) -> Upstreams:
        """What the sidecar says, which is told of the canary again if it has forgotten it.

        Raises:
            PartError: the sidecar does not answer.
        """
        server = self._the_canary()
        upstreams = await self._control.upstreams()
        if upstreams.canary_url.rstrip("/") != server.url:
            logger.warning("the sidecar knows of no canary at %s; telling it again", server.url)
            await self._control.start_canary(server.url, self.name, server.version, percent)
            upstreams = await self._control.upstreams()
        return upstreams

    async def repeat_address(self) -> None:
        """Tell the sidecar again where its traffic goes, if it believes something else.

        Raises:
            PartError: the sidecar does not answer.
        """
        server = self.active
        if server is None or server.process.returncode is not None:
            return
        if (await self._control.upstreams()).active_url.rstrip("/") != server.url and server is self.active:
            logger.warning("the sidecar sends its traffic elsewhere; pointing it to %s again", server.url)
            await self._control.point_to(server.url, self.name, server.version)

    async def stop(self) -> None:
        """Stop the active server, the canary, and those still draining."""
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        await asyncio.gather(*(server.stop() for server in (self.active, self.canary) if server is not None))

    async def _start(self, version: str) -> tuple[ModelServer, str]:
        """A warm server, and why it could not be warmed (empty if it was)."""
        if self.active is not None and self.active.model.exists():
            used(self.active.model)  # so that no newer ones push it out of the cache
        server, warm_up = await start_warm_server(
            self.name, version, processes=self._processes, tracking_uri=self._tracking_uri, options=self._options
        )
        return server, warm_up.skipped

    def _the_canary(self) -> ModelServer:
        if self.canary is None:
            raise ValueError("there is no canary")
        return self.canary

    def _retire_later(self, server: ModelServer | None, generation: int) -> None:
        if server is not None:
            task = asyncio.create_task(self._retire(server, generation))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    async def _retire(self, server: ModelServer, generation: int) -> None:
        try:
            if not await self._control.wait_drained(generation, self._drain_seconds):
                logger.warning(
                    "%s still had requests in flight %g s after the switch; stopping it",
                    server.label,
                    self._drain_seconds,
                )
        finally:
            await server.stop()
