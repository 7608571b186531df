"""The case API on the control port: mounted as soon as its two stores are open, answering 503 until then."""

from __future__ import annotations

from fastapi import Depends, FastAPI, Request

from fieldrepair_service.console.paths import API
from fieldrepair_service.console.security import Visitor, approver, labeller, viewer
from fieldrepair_service.late_routes import LateRoutes
from fieldrepair_service.stores import Stores


class CaseApi:
    """Mounts the routes under ``/api``.

    Args:
        app: the control app.
        stores: what the routes work on.
    """

    def __init__(self, app: FastAPI, stores: Stores) -> None:
        self._stores = stores
        self._routes = LateRoutes(app, API, [Depends(api_guard)], stores.missing)

    def mount(self) -> None:
        """The stores are open: answer."""
        from fieldrepair_service.api import case_router

        self._routes.fill(case_router(self._stores.book, self._stores.field_log), prefix="/api")


async def api_guard(request: Request) -> Visitor:
    """Reading needs a viewer, answering tasks and bringing in labels a labeller, all else an approver.

    Leaves the visitor in ``request.state.visitor`` for the audit trail.
    """
    parts = request.url.path.removeprefix("/api/").split("/")
    if request.method in ("GET", "HEAD"):
        guard = viewer
    elif parts[0] in ("tasks", "labels") or parts[2:3] in (["labels"], ["label-studio"]):
        guard = labeller
    else:
        guard = approver
    request.state.visitor = await guard(request)
    return request.state.visitor
