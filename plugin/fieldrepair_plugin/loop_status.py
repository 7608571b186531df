"""What monitor and worker are doing, in one line each, read from the case book."""

from __future__ import annotations

from datetime import datetime, timezone

from fieldrepair_service.case_book import OPEN_STATES, CaseBook, CaseState, open_case_book


class LoopStatus:
    """Reads the case book again and again. Blocks, so ask in a thread, one at a time.

    Args:
        case_book_url: where it lives; opened at the first question.
        model_name: the registered model.
    """

    def __init__(self, case_book_url: str, model_name: str) -> None:
        self._url = case_book_url
        self._name = model_name
        self._book: CaseBook | None = None

    def read(self, version: str) -> tuple[str, str]:
        """One line for the monitor, which watches ``version``, and one for the worker.

        Raises:
            StoreError: the case book does not answer.
        """
        if self._book is None:
            self._book = open_case_book(self._url)
        return self._monitor(self._book, version), self._worker(self._book)

    def _monitor(self, book: CaseBook, version: str) -> str:
        event = book.open_event(self._name, version)
        if event is not None:
            opened = datetime.fromtimestamp(event.opened_ms / 1000, timezone.utc).astimezone()
            return f"drift since {opened:%Y-%m-%d %H:%M}, case {event.case_id}: {event.summary}"
        checkpoint = book.checkpoint(self._name, version)
        if checkpoint is None or checkpoint.next_window_index == 0:
            return f"watches v{version}; no window of field inputs judged yet"
        last = book.windows(self._name, version, limit=1)[-1]
        found = "drifted" if last.drifted else "calm"
        p_value = "" if last.p_value is None else f", p = {last.p_value:.3g}"
        return f"watches v{version}; {checkpoint.next_window_index} windows judged, the last one {found}{p_value}"

    def _worker(self, book: CaseBook) -> str:
        cases = [case for case in book.cases(limit=100) if case.model_name == self._name]
        open_cases = [case for case in cases if case.state in OPEN_STATES]
        if open_cases:
            case = open_cases[0]
            more = "" if len(open_cases) == 1 else f" (and {len(open_cases) - 1} more)"
            waits = case.note or case.reason
            if case.state is CaseState.ANNOTATING and case.planned_ms is not None:
                counts = book.task_counts(case.id)
                waits = f"{counts.open} of {counts.total} labels missing"
            return f"case {case.id} {case.state}: {waits}{more}"
        if cases:
            return f"no open case; case {cases[0].id} was {cases[0].state}: {cases[0].note or cases[0].reason}"
        return "no case yet"
