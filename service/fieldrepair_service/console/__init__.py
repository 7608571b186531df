"""The console: pages for people on the control port. Server-rendered; needs no build step and almost no script."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI

from fieldrepair_service.case_api import CaseApi
from fieldrepair_service.console.mlflow_links import MlflowLinks
from fieldrepair_service.console.paths import PAGES
from fieldrepair_service.console.security import Security, viewer
from fieldrepair_service.console.shell import install_shell
from fieldrepair_service.console.sign_in import sign_in_router
from fieldrepair_service.console.throughput import Throughput
from fieldrepair_service.console.traffic import TrafficSource
from fieldrepair_service.late_routes import LateRoutes
from fieldrepair_service.stores import Stores


class Console:
    """Sign-in of a control app, and its pages and case API once the stores are open.

    Args:
        app: the control app; its error handlers must be installed already.
        security: who gets in.
        stores: case book and field log.
        traffic: what the overview shows of the traffic.
        mlflow_ui_url: where people find the MLflow UI, without a slash at its end; None leaves out links to it.
    """

    def __init__(
        self,
        app: FastAPI,
        security: Security,
        *,
        stores: Stores,
        traffic: TrafficSource,
        mlflow_ui_url: str | None,
    ) -> None:
        self._pages = install_shell(app, security, console=True)
        self._stores = stores
        self._traffic = traffic
        self._links = MlflowLinks(mlflow_ui_url)
        self._throughput = Throughput(traffic)
        app.include_router(sign_in_router(self._pages))
        self._routes = LateRoutes(app, PAGES, [Depends(viewer)], stores.missing)
        self._api = CaseApi(app, stores)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Open the stores and sample the traffic, inside the block."""
        async with self._traffic.running(), self._throughput.running(), self._stores.opened(self._mount):
            yield

    def _mount(self) -> None:
        """The stores are open: serve what is about them."""
        # Imported late: the SQL toolkit behind them takes longer to import than all the rest.
        from fieldrepair_service.console.case_events import event_router
        from fieldrepair_service.console.case_page import case_router
        from fieldrepair_service.console.decisions import decision_router
        from fieldrepair_service.console.labelling import labelling_router
        from fieldrepair_service.console.overview import overview_router

        pages, stores = self._pages, self._stores
        self._routes.fill(
            overview_router(pages, stores, self._traffic, self._throughput),
            event_router(pages, stores),
            case_router(pages, stores, self._links),
            decision_router(pages, stores),
            labelling_router(pages, stores),
        )
        self._api.mount()
