"""Approval: when the alias moves in the registry, traffic moves, and no request is lost.

:class:`AliasWatcher` notices the move, :class:`BlueGreen` makes it (start the new server, warm it, switch the sidecar,
drain and stop the old one), :func:`settle_promotion` records it. Moving the alias back goes the same way.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from fieldrepair_monitoring.errors import RegistryError
from fieldrepair_monitoring.registry import registry_errors
from fieldrepair_plugin.errors import ModelUriError
from fieldrepair_plugin.model_server import ModelServer, ServerOptions, start_warm_server
from fieldrepair_plugin.model_uri import CANDIDATE, ModelTarget, wanted_version
from fieldrepair_plugin.processes import ProcessTable
from fieldrepair_plugin.sidecar_control import SidecarControl
from fieldrepair_service.case_book import Case, CaseBook, CaseState

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sighting:
    """What the registry last said."""

    version: str
    """The version the target meant when the registry last answered."""
    problem: str = ""
    """Why it gave no new answer; empty if it did."""


class AliasWatcher:
    """Asks the registry again and again which version is wanted; less and less often while it does not answer.

    Args:
        target: what to follow. A target with a fixed version is asked for once.
        version: the version it meant at the start.
        poll_seconds: pause between questions.
        longest_pause: upper limit of the pause while the registry does not answer, seconds.
        ask: the question; it blocks and is asked in a thread.
    """

    def __init__(
        self,
        target: ModelTarget,
        version: str,
        *,
        poll_seconds: float = 1.0,
        longest_pause: float = 30.0,
        ask: Callable[[ModelTarget], str] = wanted_version,
    ) -> None:
        self.target = target
        self.pause = poll_seconds
        self._poll_seconds = poll_seconds
        self._longest_pause = longest_pause
        self._ask = ask
        self._last = Sighting(version)

    def follow(self, target: ModelTarget) -> None:
        """Follow another alias or version of the same model from the next look on."""
        self.target = target

    async def look(self) -> Sighting:
        """Ask once. Wait ``pause`` seconds before the next time. A failure keeps the version last seen."""
        if self.target.version is not None:
            self._last = Sighting(self.target.version)
            return self._last
        try:
            self._last = Sighting(await asyncio.to_thread(self._ask, self.target))
            self.pause = self._poll_seconds
        except ModelUriError as error:  # it answered: the alias, or the whole model, is gone
            self._last = Sighting(self._last.version, str(error))
            self.pause = self._poll_seconds
        except RegistryError as error:
            self._last = Sighting(self._last.version, f"the registry does not answer: {error}")
            self.pause = min(self.pause * 2, self._longest_pause)
        return self._last


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
        self.active, warm_up = await start_warm_server(
            self.name, version, processes=self._processes, tracking_uri=self._tracking_uri, options=self._options
        )
        return self.active, warm_up.skipped

    async def switch(self, version: str) -> Switch:
        """Start a server of ``version``, warm it, send the traffic there, and retire the old one in the background.

        Until the sidecar has switched, the old server answers everything; if anything fails before that, it stays.

        Raises:
            PartError: the new server does not come up, or the sidecar cannot be told; the new server is stopped.
            RegistryError: MLflow could not answer (:class:`ModelVersionMissingError` if there is no such version).
        """
        began = time.monotonic()
        server, warm_up = await start_warm_server(
            self.name, version, processes=self._processes, tracking_uri=self._tracking_uri, options=self._options
        )
        warm = time.monotonic()
        try:
            generation = await self._control.point_to(server.url, self.name, version)
        except BaseException:
            await server.stop()
            raise
        switched = time.monotonic()
        old, self.active = self.active, server
        if old is not None:
            task = asyncio.create_task(self._retire(old, generation))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)
        return Switch(version, old.version if old else None, not warm_up.skipped, warm - began, switched - warm)

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
        """Stop the active server and those still draining."""
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        if self.active is not None:
            await self.active.stop()

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


def settle_promotion(book: CaseBook, name: str, version: str, previous: str | None) -> list[str]:
    """Record that ``version`` now takes the traffic. Doing it twice changes nothing. Blocks.

    The accepted case that made this version is promoted, and alias ``candidate`` is taken off it. A case whose
    version lost the traffic again (``previous``) says so in its note.

    Returns:
        One line for each thing that was recorded.

    Raises:
        StoreUnavailable: the case book does not answer.
        RegistryError: MLflow does not answer.
    """
    done: list[str] = []
    for case in _cases_of_candidate(book, name, version):
        if case.state is CaseState.ACCEPTED:
            approval = case.approval
            actor = approval.by if approval is not None and approval.version == version else "registry"
            book.transition(case.id, CaseState.PROMOTED, f"version {version} takes the traffic of {name}", actor=actor)
            done.append(f"case {case.id} is promoted")
        elif case.state is CaseState.PROMOTED and case.note:
            book.update_case(case.id, note="")
            done.append(f"case {case.id}: version {version} takes the traffic again")
    for case in _cases_of_candidate(book, name, previous):
        if case.state is CaseState.PROMOTED:
            note = f"rolled back: the traffic went from version {previous} to version {version}"
            book.update_case(case.id, note=note)
            done.append(f"case {case.id} is {note}")
    if _remove_candidate_alias(name, version):
        done.append(f"alias {CANDIDATE} is taken off version {version}")
    return done


def _cases_of_candidate(book: CaseBook, name: str, version: str | None) -> list[Case]:
    return [case for case in book.cases() if case.model_name == name and version == (case.candidate_version or "")]


def _remove_candidate_alias(name: str, version: str) -> bool:
    import mlflow

    client = mlflow.MlflowClient()
    with registry_errors(f"alias {CANDIDATE} of {name}"):
        aliases = cast(dict[str, object], client.get_registered_model(name).aliases)
        if str(aliases.get(CANDIDATE, "")) != version:
            return False
        client.delete_registered_model_alias(name, CANDIDATE)
    return True
