"""The console: pages for people on the control port. Server-rendered; needs no build step and almost no script."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI
from prometheus_client import CollectorRegistry

from fieldrepair_service.console.headers import SecurityHeaders
from fieldrepair_service.console.mlflow_links import MlflowLinks
from fieldrepair_service.console.pages import Pages
from fieldrepair_service.console.security import Security, viewer
from fieldrepair_service.console.sign_in import sign_in_router
from fieldrepair_service.console.static_files import StaticFiles
from fieldrepair_service.console.traffic import Throughput
from fieldrepair_service.late_routes import LateRoutes
from fieldrepair_service.stores import Stores
from fieldrepair_service.upstream import UpstreamView

Traffic = Callable[[], Awaitable[tuple[UpstreamView | None, list[UpstreamView]]]]


class Console:
    """Sign-in, guards and headers of the control app, and its pages once the stores are open.

    Args:
        app: the control app; its error handlers must be installed already.
        security: who gets in.
        stores: case book and field log; None leaves out the pages about them.
        upstreams: gives the active upstream and the draining ones.
        registry: the sidecar's numbers.
        mlflow_ui_url: where people find the MLflow UI, without a slash at its end; None leaves out links to it.
    """

    def __init__(
        self,
        app: FastAPI,
        security: Security,
        *,
        stores: Stores | None,
        upstreams: Traffic,
        registry: CollectorRegistry,
        mlflow_ui_url: str | None,
    ) -> None:
        static = StaticFiles()
        self._pages = Pages(static)
        self._stores = stores
        self._upstreams = upstreams
        self._links = MlflowLinks(mlflow_ui_url)
        self._throughput = Throughput(registry)
        app.state.security = security
        app.state.error_page = self._pages.error
        app.add_middleware(SecurityHeaders)
        app.include_router(static.router)
        app.include_router(sign_in_router(self._pages))
        if stores is not None:
            paths = ["/", "/cases", "/cases/{path:path}", "/label/{path:path}", "/audit"]
            self._routes = LateRoutes(app, paths, [Depends(viewer)], stores.missing)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Sample the traffic inside the block."""
        async with self._throughput.running():
            yield

    def mount(self) -> None:
        """The stores are open: serve the pages about them."""
        # Imported late: the SQL toolkit behind them takes longer to import than all the rest.
        from fieldrepair_service.console.case_events import event_router
        from fieldrepair_service.console.case_page import case_router
        from fieldrepair_service.console.decisions import decision_router
        from fieldrepair_service.console.labelling import labelling_router
        from fieldrepair_service.console.overview import overview_router

        if self._stores is None:
            return
        pages, stores = self._pages, self._stores
        self._routes.fill(
            overview_router(pages, stores, self._upstreams, self._throughput),
            event_router(pages, stores),
            case_router(pages, stores, self._links),
            decision_router(pages, stores),
            labelling_router(pages, stores),
        )
