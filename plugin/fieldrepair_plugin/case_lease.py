"""A worker's hold on a case: renewed in the background as long as the work goes on."""

from __future__ import annotations

import logging
import threading
from types import TracebackType

from typing_extensions import Self

from fieldrepair_service.case_book import CaseBook
from fieldrepair_service.errors import StoreError

logger = logging.getLogger(__name__)


class CaseLease:
    """Holds a claimed case while the ``with`` block runs; gives it back at the end.

    A worker that is killed cannot give it back; then the lease runs out by itself. The block must watch :attr:`lost`:
    a worker that could not renew in time, because it was suspended say, no longer owns the case.

    Args:
        book: the case book.
        case_id: a case that ``worker_id`` has just claimed.
        worker_id: the worker.
        seconds: of each lease; it is renewed three times as often.
    """

    def __init__(self, book: CaseBook, case_id: int, worker_id: str, seconds: float) -> None:
        self._book = book
        self._case_id = case_id
        self._worker_id = worker_id
        self._seconds = seconds
        self._done = threading.Event()
        self.lost = threading.Event()
        """Set once another worker has taken the case over."""
        self._thread = threading.Thread(target=self._renew, name=f"lease of case {case_id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        try:
            self._book.release(self._case_id, self._worker_id)
        except StoreError as failure:
            logger.warning(
                "case %d: the lease runs out by itself, it could not be given back: %s", self._case_id, failure
            )

    def _renew(self) -> None:
        while not self._done.wait(self._seconds / 3):
            if not self._held():
                self.lost.set()
                return

    def _held(self) -> bool:
        try:
            return self._book.claim(self._case_id, self._worker_id, self._seconds)
        except StoreError as failure:
            logger.warning("case %d: could not renew the lease: %s", self._case_id, failure)
            return True  # as far as is known
