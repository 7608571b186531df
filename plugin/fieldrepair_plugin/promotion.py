"""Approval: when the alias moves in the registry, traffic moves, and no request is lost.

:class:`AliasWatcher` notices the move, :class:`~fieldrepair_plugin.blue_green.BlueGreen` makes it (start the new
server, warm it, switch the sidecar, drain and stop the old one), :func:`settle_promotion` records it. Moving the alias
back goes the same way. With a canary, :class:`~fieldrepair_plugin.canary_stage.CanaryStage` comes in between.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from fieldrepair_monitoring.errors import RegistryError
from fieldrepair_monitoring.registry import registry_errors
from fieldrepair_plugin.errors import ModelUriError
from fieldrepair_plugin.model_uri import CANDIDATE, ModelTarget, wanted_version
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
