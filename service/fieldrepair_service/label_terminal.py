"""Labelling in a terminal: shows a question, reads an answer, line by line."""

from __future__ import annotations

import os
import shutil
import textwrap
from collections.abc import Sequence
from typing import Any, TextIO

from fieldrepair_service.errors import Conflict, NotInCaseBook
from fieldrepair_service.half_blocks import half_blocks
from fieldrepair_service.label_client import LabelClient

_LISTED = 30
"""Classes up to which all are listed; of more, those that match what was typed."""
_HELP = (
    "Answer with a class: its number, its name, or the beginning of its name. Or s = skip, n = not sure, l = later, "
    "u = undo, c = list classes, q = quit. A class that is called like a command is answered by its number."
)


class LabelTerminal:
    """Asks one labeller the questions of one case.

    Args:
        client: the case API.
        case_id: the case.
        answers: where answers come from, line by line.
        out: where questions go.
    """

    def __init__(self, client: LabelClient, case_id: int, answers: TextIO, out: TextIO) -> None:
        self._client = client
        self._case_id = case_id
        self._answers = answers
        self._out = out
        self._colour = out.isatty() and "NO_COLOR" not in os.environ
        self._answered: list[int] = []

    def run(self) -> int:
        """Ask until there is no question left or the labeller has had enough; returns how many were answered."""
        self._say(_HELP)
        after: int | None = None
        while (task := self._client.next_task(self._case_id, after)) is not None:
            self._show(task)
            after = None
            command = self._ask(task)
            if command == "q":
                self._say(f"{len(self._answered)} answered, {task['remaining']} left. Thank you.")
                return len(self._answered)
            if command == "l":
                after = int(task["position"])
        self._say(f"{len(self._answered)} answered; no question is free now. Thank you.")
        return len(self._answered)

    def _ask(self, task: dict[str, Any]) -> str:
        """Read until there is an answer; gives "q" or "l" if the labeller wants to quit or to put it off."""
        names: list[str] = task["class_names"]
        while True:
            self._out.write("> ")
            self._out.flush()
            line = self._answers.readline()
            said = line.strip()
            if not line or said == "q":
                return "q"
            if said == "l":
                return "l"
            if said in ("", "?", "h"):
                self._say(_HELP)
            elif said == "c":
                self._list(names, range(len(names)))
            elif self._answer(task, said, names):
                return ""

    def _answer(self, task: dict[str, Any], said: str, names: Sequence[str]) -> bool:
        """Act on what was said; False if it was no answer and the question stands."""
        task_id = int(task["task_id"])
        try:
            if said == "u":
                return self._undo()
            if said in ("s", "n"):
                self._client.skip(task_id, not_sure=said == "n")
                self._say("Skipped." if said == "s" else "Noted as not sure.")
            else:
                found = matching(said, names)
                if len(found) != 1:
                    self._say("No class is called that." if not found else f"{len(found)} classes match:")
                    self._list(names, found[:_LISTED])
                    return False
                self._client.label(task_id, found[0])
                self._say(f"Labelled {_plain(names[found[0]])}.")
        except (Conflict, NotInCaseBook) as error:  # somebody was first, or the case went on: go to the next
            self._say(f"Not stored: {error}")
            return True
        self._answered.append(task_id)
        return True

    def _undo(self) -> bool:
        if not self._answered:
            self._say("There is no answer of this session to take back.")
            return False
        self._client.undo(self._answered.pop())
        self._say("Taken back; answer it again.")
        return True

    def _show(self, task: dict[str, Any]) -> None:
        done = task["total"] - task["remaining"]
        self._say(f"\nQuestion {done + 1} of {task['total']}")
        columns, lines = shutil.get_terminal_size((80, 24))
        try:
            shown = self._client.input(int(task["task_id"]))
            if shown["kind"] == "image":
                picture = self._client.picture(int(task["task_id"]))
                self._say(half_blocks(picture, columns - 1, max(8, lines - 8), colour=self._colour))
            elif shown["kind"] == "tabular":
                width = max(len(name) for name, _, _ in shown["rows"])
                self._say("\n".join(f"  {_plain(n):<{width}}  {_plain(v)} {_plain(u)}" for n, v, u in shown["rows"]))
            else:
                self._say(textwrap.fill(_plain(shown["text"]), columns - 1))
        except NotInCaseBook as error:
            self._say(f"This field input cannot be shown: {error}. Skip it with s.")
        if len(task["class_names"]) <= _LISTED:
            self._list(task["class_names"], range(len(task["class_names"])))

    def _list(self, names: Sequence[str], which: Sequence[int]) -> None:
        if which:
            # A number that is itself the name of a class means that class; then numbers would only mislead.
            numbered = not any(name.isdigit() and 1 <= int(name[:9]) <= len(names) for name in names)
            text = "   ".join(
                f"{index + 1} {_plain(names[index])}" if numbered else _plain(names[index]) for index in which
            )
            self._say(textwrap.fill(text, shutil.get_terminal_size((80, 24)).columns - 1))

    def _say(self, text: str) -> None:
        self._out.write(f"{text}\n")


def matching(said: str, names: Sequence[str]) -> list[int]:
    """Indices of the classes that an answer can mean: its exact name, else its number from 1, else its beginning."""
    if said in names:
        return [names.index(said)]
    if said.isascii() and said.isdigit() and 1 <= int(said[:9]) <= len(names):
        return [int(said) - 1]
    lowered = said.lower()
    return [index for index, name in enumerate(names) if name.lower().startswith(lowered)]


def _plain(text: str) -> str:
    """Without control characters: a class name must not drive the terminal."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
