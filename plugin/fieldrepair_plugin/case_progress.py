"""Listens to a repair: tells the case book and the terminal how far it is, and ends it when it is asked to."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fieldrepair_plugin.errors import CaseLeft, TrainingStopped
from fieldrepair_plugin.progress import ProgressEvent
from fieldrepair_service.case_book import Case, CaseBook

_TELL_SECONDS = 1.0

Listener = Callable[[ProgressEvent], None]


class CaseProgress:
    """A progress listener for one case.

    Args:
        book: told at most once a second, and at each finished epoch.
        case: the case as the work on it began.
        stop: set when the worker is asked to stop.
        lost: set when the case belongs to another worker.
        others: further listeners.
    """

    def __init__(
        self,
        book: CaseBook,
        case: Case,
        *,
        stop: threading.Event,
        lost: threading.Event,
        others: tuple[Listener, ...] = (),
    ) -> None:
        self._book = book
        self._case = case
        self._stop = stop
        self._lost = lost
        self._others = list(others)
        self._told_at = 0.0
        self._epoch: dict[str, object] = {}

    def __call__(self, event: ProgressEvent) -> None:
        """Take one event.

        Raises:
            TrainingStopped: the worker is to stop; the last finished epoch is in the checkpoint.
            CaseLeft: the case was dismissed, or another worker has it.
        """
        for listener in self._others:
            listener(event)
        finished_epoch = event.stage == "training"
        if finished_epoch:
            self._epoch = {**event.metrics, "epoch": event.done, "epochs": event.total}
        now = time.monotonic()
        if finished_epoch or now - self._told_at >= _TELL_SECONDS:
            self._told_at = now
            self._tell(event)
        if self._stop.is_set():
            raise TrainingStopped(f"case {self._case.id}: stopped during {event.stage}")

    def of(self, case: Case) -> CaseProgress:
        """The same for the case as it stands now."""
        return CaseProgress(self._book, case, stop=self._stop, lost=self._lost, others=tuple(self._others))

    @contextmanager
    def also(self, listener: Listener) -> Generator[None]:
        """Let ``listener`` hear the events too, inside the block."""
        self._others.append(listener)
        try:
            yield
        finally:
            self._others.remove(listener)

    def _tell(self, event: ProgressEvent) -> None:
        if self._lost.is_set():
            raise CaseLeft(f"case {self._case.id}: another worker has taken it over")
        present = self._book.case(self._case.id)
        if (present.state, present.attempt) != (self._case.state, self._case.attempt):
            raise CaseLeft(f"case {self._case.id} went from {self._case.state} to {present.state} meanwhile")
        kept: Mapping[str, object] = {key: present.progress[key] for key in ("failures",) if key in present.progress}
        now: dict[str, object] = {"stage": event.stage, "done": event.done, "total": event.total}
        self._book.update_progress(self._case.id, {**kept, **self._epoch, **now})


@contextmanager
def terminal_progress(title: str) -> Generator[tuple[Listener, ...]]:
    """A progress bar on standard error if that is a terminal; no listener otherwise."""
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield ()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        bar = bars.add_task(title, total=None)

        def show(event: ProgressEvent) -> None:
            bars.update(bar, description=f"{title}: {event.stage}", completed=event.done, total=event.total)

        yield (show,)
