"""One clear status line per part: a live table in a terminal, plain lines with a time everywhere else."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Literal, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

State = Literal["starting", "ready", "waiting", "switching", "restarting", "failed", "stopping", "stopped"]
_COLOURS: dict[State, str] = {
    "starting": "yellow",
    "ready": "green",
    "waiting": "yellow",
    "switching": "cyan",
    "restarting": "red",
    "failed": "red",
    "stopping": "yellow",
    "stopped": "dim",
}


@dataclass(frozen=True)
class PartStatus:
    """What is known of one part now."""

    state: State
    text: str


class StatusBoard:
    """The parts' present state, shown as it changes. Use it as a context manager.

    Args:
        parts: their names, in the order shown.
        stream: where to show them; a terminal gets a live table, anything else one line per change.
        changed: called after each change, for whoever stores the status.
    """

    def __init__(
        self, parts: tuple[str, ...], *, stream: TextIO | None = None, changed: Callable[[], None] | None = None
    ) -> None:
        self._console = Console(file=stream or sys.stdout, highlight=False, markup=False, soft_wrap=True)
        self._changed = changed
        self._width = max(len(part) for part in parts)
        self.parts: dict[str, PartStatus] = {part: PartStatus("waiting", "") for part in parts}
        self._headline = ""
        self._live: Live | None = None

    def __enter__(self) -> StatusBoard:
        if self._console.is_terminal:
            self._live = Live(self._table(), console=self._console, auto_refresh=False)
            self._live.start(refresh=True)
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def set(self, part: str, state: State, text: str) -> None:
        """Say where a part stands; saying the same again shows nothing new."""
        status = PartStatus(state, text)
        if self.parts.get(part) == status:
            return
        self.parts[part] = status
        self._show(f"{part:<{self._width}}  {state:<10}  {text}")

    def headline(self, text: str) -> None:
        """The line that stands for the whole: ``ready ...`` when traffic can flow."""
        if text == self._headline:
            return
        self._headline = text
        self._show(text)

    def _show(self, line: str) -> None:
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
        else:
            # A message may end with several lines of a log; they stay together and are indented already.
            self._console.print(f"{datetime.now(timezone.utc).astimezone():%H:%M:%S}  {line}")
        if self._changed is not None:
            self._changed()

    def _table(self) -> Group:
        table = Table.grid(padding=(0, 2))
        for part, status in self.parts.items():
            table.add_row(part, Text(status.state, style=_COLOURS[status.state]), Text(status.text, overflow="fold"))
        return Group(table, Text(self._headline, style="bold"))
