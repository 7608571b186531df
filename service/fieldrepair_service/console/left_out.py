"""Answers in place of a console that is not here, so that who looks for it learns where it is."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI, HTTPException

from fieldrepair_service.console.paths import API, PAGES
from fieldrepair_service.console.security import Security
from fieldrepair_service.console.shell import install_shell

_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]


def install_left_out(app: FastAPI, security: Security, reason: str) -> None:
    """Answer 404 wherever pages and case API would be, to everybody: there is nothing to guard.

    Args:
        app: the control app; its error handlers must be installed already.
        security: guards what else the app serves.
        reason: why they are not here and where they may be, a sentence for people.
    """
    install_shell(app, security, console=False)
    router = APIRouter(include_in_schema=False)

    def not_here() -> None:
        raise HTTPException(404, reason)

    for path in (*PAGES, "/login", "/logout", *API):
        router.add_api_route(path, not_here, methods=_METHODS)
    app.include_router(router)
