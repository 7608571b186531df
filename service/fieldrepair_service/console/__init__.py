"""The console: pages for people on the control port. Server-rendered; needs no build step and almost no script."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from fieldrepair_service.console.headers import SecurityHeaders
from fieldrepair_service.console.pages import Pages
from fieldrepair_service.console.security import Security
from fieldrepair_service.console.sign_in import sign_in_router
from fieldrepair_service.console.static_files import StaticFiles
from fieldrepair_service.stores import Stores
from fieldrepair_service.upstream import UpstreamView

Traffic = Callable[[], Awaitable[tuple[UpstreamView | None, list[UpstreamView]]]]


def create_console(
    app: FastAPI,
    security: Security,
    *,
    stores: Stores | None,
    upstreams: Traffic,
    registry: CollectorRegistry,
    mlflow_ui_url: str | None,
) -> None:
    """Add sign-in and pages to the control app, and guard it.

    Args:
        app: the control app; its error handlers must be installed already.
        security: who gets in.
        stores: case book and field log; None leaves out the pages about them.
        upstreams: gives the active upstream and the draining ones.
        registry: the sidecar's numbers.
        mlflow_ui_url: where people find the MLflow UI, without a slash at its end; None leaves out links to it.
    """
    static = StaticFiles()
    pages = Pages(static)
    app.state.security = security
    app.state.error_page = pages.error
    app.add_middleware(SecurityHeaders)
    app.include_router(static.router)
    app.include_router(sign_in_router(pages))
    if stores is None:
        return
    # Labelling pages: app.include_router(labelling_router(pages, stores))
