"""What every control port has, whichever part it is of: whether it is well, and its numbers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from fieldrepair_service.http_errors import install_error_handlers


def create_base_app(
    title: str,
    registry: CollectorRegistry,
    not_ready: Callable[[], str | None],
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]],
) -> FastAPI:
    """An app with ``/healthz``, ``/readyz`` and ``/metrics``, open to everybody, and with the one form of errors.

    Args:
        title: of the app.
        registry: what ``/metrics`` shows.
        not_ready: why ``/readyz`` should say no, with 503; None when it should say yes.
        lifespan: what runs beside it.
    """
    app = FastAPI(title=title, docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    install_error_handlers(app)

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz")
    def readyz() -> JSONResponse:
        reason = not_ready()
        if reason is None:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "not ready", "detail": reason}, status_code=503)

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return app
