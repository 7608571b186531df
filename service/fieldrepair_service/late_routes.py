"""Routes that answer 503 until what they need is there, and are replaced by the real ones then."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fastapi import APIRouter, FastAPI, Request
from fastapi.params import Depends

_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


class LateRoutes:
    """Takes over paths of an application at once, and fills them later.

    Args:
        app: the application.
        paths: that are taken over until the real routes come.
        guard: dependencies of the placeholders and of the real routes.
        missing: makes the error that is raised until then.
    """

    def __init__(
        self, app: FastAPI, paths: Sequence[str], guard: Sequence[Depends], missing: Callable[[], Exception]
    ) -> None:
        self._app = app
        self._guard = guard

        def not_yet(request: Request) -> None:
            del request
            raise missing()

        waiting = APIRouter(include_in_schema=False)
        for path in paths:
            waiting.add_api_route(path, not_yet, methods=_METHODS)
        before = list(app.router.routes)
        app.include_router(waiting, dependencies=guard)
        self._placeholders = [route for route in app.router.routes if route not in before]

    def fill(self, *routers: APIRouter, prefix: str = "") -> None:
        """Put the real routes in place."""
        routes = self._app.router.routes
        for route in self._placeholders:
            routes.remove(route)
        self._placeholders = []
        for router in routers:
            self._app.include_router(router, prefix=prefix, dependencies=self._guard)
