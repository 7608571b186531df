"""The live part of a case page as server-sent events: sent again whenever it has changed in the case book.

The book is the source, not the worker: the stream goes on with whichever server the browser reconnects to.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from fieldrepair_service.case_book import CaseState
from fieldrepair_service.console.case_page import CaseId
from fieldrepair_service.console.case_progress import live_view
from fieldrepair_service.console.pages import Pages
from fieldrepair_service.console.security import Visitor, viewer
from fieldrepair_service.errors import NotInCaseBook, StoreError
from fieldrepair_service.stores import Stores

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0
_SLICES = 4  # per poll, a look whether the server stops
_STREAM_SECONDS = 600.0  # then the browser connects anew, and its session is looked at again
_SILENCE_SECONDS = 15.0  # a comment after so long, or a proxy between takes the connection for dead
_FINAL = frozenset({CaseState.PROMOTED, CaseState.DISMISSED})


def event_router(pages: Pages, stores: Stores) -> APIRouter:
    """Route ``/cases/{id}/events``."""
    router = APIRouter(include_in_schema=False)

    @router.get("/cases/{case_id}/events")
    async def events(
        request: Request, case_id: CaseId, visitor: Annotated[Visitor, Depends(viewer)]
    ) -> StreamingResponse:
        def look() -> tuple[str, bool]:
            case = stores.book.case(case_id)
            live = live_view(case, stores.book.task_counts(case_id))
            html = bytes(pages.render(request, "_live.html", visitor, live=live, case=case).body).decode()
            data = {"place": live.place, "announcement": live.announcement, "html": html}
            return json.dumps(data), case.state in _FINAL

        first = await run_in_threadpool(look)  # a case that does not exist is a 404, not a stream
        stopping: Callable[[], bool] = getattr(request.app.state, "stopping", lambda: False)
        return StreamingResponse(
            _stream(first, look, stopping),
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )

    return router


async def _stream(
    first: tuple[str, bool], look: Callable[[], tuple[str, bool]], stopping: Callable[[], bool]
) -> AsyncGenerator[str]:
    text, final = first
    yield f"retry: 1000\nevent: case\ndata: {text}\n\n"
    begun = spoken = time.monotonic()
    while not final and time.monotonic() - begun < _STREAM_SECONDS:
        for _ in range(_SLICES):
            if stopping():
                return
            await asyncio.sleep(POLL_SECONDS / _SLICES)
        try:
            now, final = await run_in_threadpool(look)
        except NotInCaseBook:
            return
        except StoreError as error:
            logger.info("the progress of a case cannot be read: %s", error)
            now = text
        if now != text:
            text, spoken = now, time.monotonic()
            yield f"event: case\ndata: {text}\n\n"
        elif time.monotonic() - spoken > _SILENCE_SECONDS:
            spoken = time.monotonic()
            yield ": still here\n\n"
    if final:
        yield "event: end\ndata: {}\n\n"
