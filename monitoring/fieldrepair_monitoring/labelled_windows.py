"""The accuracy of single windows, from right answers that the business sent: they may come long after the window."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from fieldrepair_service.case_book import CaseBook, Checkpoint
from fieldrepair_service.errors import FieldRepairError, StoreError
from fieldrepair_service.field_log import Cursor, FieldLog

logger = logging.getLogger(__name__)

LOOKED_BACK = 100
"""Newest windows of a version that answers are looked for; those that come later still are for the repair only."""
READ = 5000
_NOTHING = (-1, -1)

ClassNames = Callable[[str, str], Sequence[str]]


class LabelledWindows:
    """Notes with each judged window how many of its field inputs have ground truth, and how often the model was right.

    Work is done only when ground truth or windows are new.

    Args:
        log: the field log: what the model server answered.
        book: the case book: windows and ground truth.
        class_names: of a model version, by name and version.
    """

    def __init__(self, log: FieldLog, book: CaseBook, class_names: ClassNames) -> None:
        self._log = log
        self._book = book
        self._class_names = class_names
        self._mark = (0, 0)
        self._measured: dict[tuple[str, str], int] = {}

    def refresh(self, model_name: str | None = None) -> None:
        """Bring the newest windows of every version up to date.

        Args:
            model_name: only versions of this model.

        Raises:
            StoreError: field log or case book does not answer; the next call does what was left.
        """
        mark = self._book.ground_truth_mark()
        if mark != self._mark:
            self._mark, self._measured = mark, {}
        if mark[0] == 0:
            return
        for checkpoint in self._book.checkpoints():
            key = (checkpoint.model_name, checkpoint.model_version)
            first = self._measured.get(key, 0)
            if model_name not in (None, key[0]) or first == checkpoint.next_window_index:
                continue
            try:
                self._measure(checkpoint, first)
            except StoreError:
                raise
            except FieldRepairError as error:
                logger.warning("%s %s: its windows have no labelled accuracy: %s", *key, error)
            self._measured[key] = checkpoint.next_window_index

    def _measure(self, checkpoint: Checkpoint, first: int) -> None:
        name, version = checkpoint.model_name, checkpoint.model_version
        windows = [w for w in self._book.windows(name, version, limit=LOOKED_BACK) if w.index >= first]
        # A window that was judged since the checkpoint was read comes next time; it is the end of the last one here.
        windows, later = (
            [w for w in windows if w.index < checkpoint.next_window_index],
            [w for w in windows if w.index >= checkpoint.next_window_index],
        )
        if not windows:
            return
        starts = [*(w.cursor_start for w in windows[1:]), *(w.cursor_start for w in later[:1])]
        ends = [*starts, checkpoint.cursor][: len(windows)]
        answered = self._answered(name, version, windows[0].cursor_start, ends)
        truths = self._book.ground_truth({request for answers in answered.values() for request, _, _ in answers})
        index = {label: number for number, label in enumerate(self._class_names(name, version))}
        found: dict[int, tuple[float, int]] = {}
        strange = 0
        for at, answers in answered.items():
            known = [(truths[request, row].label, said) for request, row, said in answers if (request, row) in truths]
            right = [index[label] == said for label, said in known if label in index]
            strange += len(known) - len(right)
            if right:
                found[windows[at].index] = (sum(right) / len(right), len(right))
        if strange:
            logger.warning("%s %s: ground truth of %d field inputs names no class of the model", name, version, strange)
        if found:
            self._book.label_windows(name, version, found)

    def _answered(
        self,
        name: str,
        version: str,
        start: Mapping[str, tuple[int, int]],
        ends: Sequence[Mapping[str, tuple[int, int]]],
    ) -> dict[int, list[tuple[str, int, int]]]:
        """``(client_request_id, row, predicted class)`` of the rows up to each of ``ends``, by the number of the end.

        A row's place among its writer's rows says which window it was in, however late it came.
        """
        position: Cursor = dict(start)
        answered: dict[int, list[tuple[str, int, int]]] = defaultdict(list)
        columns = ["client_request_id", "predicted_class"]
        bounds = {writer: [end.get(writer, _NOTHING) for end in ends] for writer in ends[-1]}
        while any(position.get(writer, _NOTHING) < places[-1] for writer, places in bounds.items()):
            rows = self._log.read_after(position, limit=READ, model_name=name, model_version=version, columns=columns)
            if len(rows) == 0:
                break
            position = rows.cursor_after(position)
            for row in rows.to_table().to_pylist():
                places = bounds.get(row["writer"], [])
                at = bisect_left(places, (row["seq"], row["row"]))
                if at < len(places) and row["client_request_id"] is not None and row["predicted_class"] is not None:
                    answered[at].append((row["client_request_id"], row["row"], row["predicted_class"]))
        return answered
