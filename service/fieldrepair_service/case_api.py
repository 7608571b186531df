"""The case API on the control port: mounted as soon as its two stores are open, answering 503 until then."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, FastAPI, Request
from fastapi.params import Depends

from fieldrepair_service.console.security import Visitor, approver, labeller, viewer
from fieldrepair_service.stores import Stores

_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


class CaseApi:
    """Mounts the routes under ``/api``.

    Args:
        app: the control app.
        stores: what the routes work on.
    """

    def __init__(self, app: FastAPI, stores: Stores) -> None:
        self._app = app
        self._stores = stores
        self._guard: Sequence[Depends] = [Depends(api_guard)]
        waiting = APIRouter()
        waiting.add_api_route("/{path:path}", self._not_yet, methods=_METHODS)
        before = list(app.router.routes)
        app.include_router(waiting, prefix="/api", dependencies=self._guard)
        self._placeholders = [route for route in app.router.routes if route not in before]

    def mount(self) -> None:
        """The stores are open: answer."""
        from fieldrepair_service.api import case_router

        router = case_router(self._stores.book, self._stores.field_log)
        routes = self._app.router.routes
        for route in self._placeholders:
            routes.remove(route)
        self._app.include_router(router, prefix="/api", dependencies=self._guard)

    def _not_yet(self, path: str) -> None:
        del path
        raise self._stores.missing()


async def api_guard(request: Request) -> Visitor:
    """Reading needs a viewer, answering tasks and bringing in labels a labeller, all else an approver."""
    if request.method in ("GET", "HEAD"):
        return await viewer(request)
    parts = request.url.path.removeprefix("/api/").split("/")
    if parts[0] in ("tasks", "labels") or parts[2:3] == ["labels"]:
        return await labeller(request)
    return await approver(request)
