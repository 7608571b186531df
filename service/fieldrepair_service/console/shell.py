"""What every answer of a control port has: guards, errors as pages for people, and headers for browsers."""

from __future__ import annotations

from fastapi import FastAPI

from fieldrepair_service.console.headers import SecurityHeaders
from fieldrepair_service.console.pages import Pages
from fieldrepair_service.console.security import Security
from fieldrepair_service.console.static_files import StaticFiles


def install_shell(app: FastAPI, security: Security, *, console: bool) -> Pages:
    """Install them, and serve the style sheets and scripts that pages need.

    Args:
        app: the control app; its error handlers must be installed already.
        security: who gets in.
        console: whether the console's pages are here, and with them a place to sign in.
    """
    static = StaticFiles()
    pages = Pages(static, console=console)
    app.state.security = security
    app.state.error_page = pages.error
    app.add_middleware(SecurityHeaders)
    app.include_router(static.router)
    return pages
