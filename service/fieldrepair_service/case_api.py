"""The case API on the control port: mounted as soon as its two stores open, answering 503 until then.

The sidecar serves predictions whether or not the case book and the field log can be reached, so nobody waits here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from fastapi import APIRouter, FastAPI
from fastapi.params import Depends

from fieldrepair_service.errors import FieldRepairError, StoreUnavailable

if TYPE_CHECKING:
    from fieldrepair_service.case_book import CaseBook

logger = logging.getLogger(__name__)

_RETRY_SECONDS = 5.0
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


class CaseApi:
    """Opens the stores and mounts the routes under ``/api``."""

    def __init__(self, case_book_url: str, field_log_uri: str) -> None:
        self._case_book_url = case_book_url
        self._field_log_uri = field_log_uri
        self._book: CaseBook | None = None
        self._problem = "they are being opened"

    def mount(self, app: FastAPI, guard: Sequence[Depends]) -> None:
        """Take over ``/api`` of the app; :meth:`opened` must run with it."""
        self._app = app
        self._guard = guard
        waiting = APIRouter()
        waiting.add_api_route("/{path:path}", self._not_yet, methods=_METHODS)
        before = list(app.router.routes)
        app.include_router(waiting, prefix="/api", dependencies=guard)
        self._placeholders = [route for route in app.router.routes if route not in before]

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        """Open the stores in the background, again and again until it works; close them at the end."""
        opening = asyncio.create_task(self._open())
        try:
            yield
        finally:
            opening.cancel()
            with suppress(asyncio.CancelledError):
                await opening
            if self._book is not None:
                self._book.close()

    async def _open(self) -> None:
        while True:
            try:
                router = await asyncio.to_thread(self._open_stores)
                break
            except FieldRepairError as error:
                if str(error) != self._problem:
                    logger.warning("the case API has to wait: %s", error)
                self._problem = str(error)
            await asyncio.sleep(_RETRY_SECONDS)
        routes = self._app.router.routes
        for route in self._placeholders:
            routes.remove(route)
        self._app.include_router(router, prefix="/api", dependencies=self._guard)

    def _open_stores(self) -> APIRouter:
        # The SQL toolkit and the Delta reader take longer to import than all the rest. Predictions do not wait for it.
        from fieldrepair_service.api import case_router
        from fieldrepair_service.case_book import open_case_book
        from fieldrepair_service.field_log import FieldLog

        if self._book is None:
            self._book = open_case_book(self._case_book_url)
        return case_router(self._book, FieldLog.open(self._field_log_uri))

    def _not_yet(self, path: str) -> None:
        del path
        raise StoreUnavailable(f"the case book and the field log are not open yet: {self._problem}")
