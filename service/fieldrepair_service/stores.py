"""The case book and the field log as the control port has them: opened in the background, and until then missing.

A sidecar serves predictions whether or not the two can be reached, so nobody waits for them here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from fieldrepair_service.errors import FieldRepairError, StoreUnavailable

if TYPE_CHECKING:
    from fieldrepair_service.case_book import CaseBook
    from fieldrepair_service.field_log import FieldLog
    from fieldrepair_service.images import InputCache

logger = logging.getLogger(__name__)

_RETRY_SECONDS = 5.0


class Stores:
    """The two stores, once they are open.

    Args:
        case_book_url: where the case book is.
        field_log_uri: where the field log is.
    """

    def __init__(self, case_book_url: str, field_log_uri: str) -> None:
        self._case_book_url = case_book_url
        self._field_log_uri = field_log_uri
        self._book: CaseBook | None = None
        self._log: FieldLog | None = None
        self._inputs: InputCache | None = None
        self._problem = "they are being opened"

    @property
    def book(self) -> CaseBook:
        """The case book.

        Raises:
            StoreUnavailable: the stores are not open yet; the message says why.
        """
        if self._book is None or self._log is None:
            raise self.missing()
        return self._book

    @property
    def field_log(self) -> FieldLog:
        """The field log.

        Raises:
            StoreUnavailable: the stores are not open yet; the message says why.
        """
        if self._log is None:
            raise self.missing()
        return self._log

    @property
    def inputs(self) -> InputCache:
        """Field inputs of cases, as pictures need them.

        Raises:
            StoreUnavailable: the stores are not open yet; the message says why.
        """
        if self._inputs is None:
            raise self.missing()
        return self._inputs

    def missing(self) -> StoreUnavailable:
        """Why the stores cannot be used yet."""
        return StoreUnavailable(f"the case book and the field log are not open yet: {self._problem}")

    def not_open(self) -> str | None:
        """Why the stores cannot be used yet; None once they can."""
        return str(self.missing()) if self._inputs is None or self._log is None else None

    @asynccontextmanager
    async def opened(self, then: Callable[[], None]) -> AsyncGenerator[None]:
        """Open them in the background, again and again until it works, and call ``then``; close them at the end."""
        opening = asyncio.create_task(self._open(then))
        try:
            yield
        finally:
            opening.cancel()
            with suppress(asyncio.CancelledError):
                await opening
            if self._book is not None:
                self._book.close()

    async def _open(self, then: Callable[[], None]) -> None:
        while True:
            try:
                await asyncio.to_thread(self._open_both)
                break
            except FieldRepairError as error:
                if str(error) != self._problem:
                    logger.warning("the case API has to wait: %s", error)
                self._problem = str(error)
            await asyncio.sleep(_RETRY_SECONDS)
        then()

    def _open_both(self) -> None:
        # The SQL toolkit and the Delta reader take longer to import than all the rest. Predictions do not wait for it.
        from fieldrepair_service.case_book import open_case_book
        from fieldrepair_service.field_log import FieldLog
        from fieldrepair_service.images import InputCache

        if self._book is None:
            self._book = open_case_book(self._case_book_url)
        log = FieldLog.open(self._field_log_uri)
        self._inputs = InputCache(log)
        self._log = log
