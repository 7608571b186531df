"""Signing in and out: a token is exchanged for a session, under a name that goes into the audit trail."""

from __future__ import annotations

import logging
import unicodedata
from typing import Annotated

from fastapi import APIRouter, Depends, Form, Query, Request
from fastapi.responses import RedirectResponse, Response

from fieldrepair_service.console.pages import Pages
from fieldrepair_service.console.security import Visitor, refuse_other_sites, security_of, viewer

logger = logging.getLogger(__name__)

_LONGEST_NAME = 100


def sign_in_router(pages: Pages) -> APIRouter:
    """Routes ``/login`` and ``/logout``. ``/login/session`` tells the sign-in page whether there is a session."""
    router = APIRouter(include_in_schema=False)

    def form(request: Request, target: str, name: str = "", problem: str = "", status: int = 200) -> Response:
        return pages.render(
            request, "login.html", None, status=status, target=local_path(target), name=name, problem=problem
        )

    @router.get("/login")
    def show(request: Request, target: Annotated[str, Query(alias="next")] = "/") -> Response:
        if security_of(request).signed_in(request) is not None:
            return RedirectResponse(local_path(target), 303)
        return form(request, target)

    @router.get("/login/session")
    def session(request: Request) -> dict[str, bool]:
        return {"signed_in": security_of(request).signed_in(request) is not None}

    @router.post("/login")
    def sign_in(
        request: Request,
        name: Annotated[str, Form()] = "",
        token: Annotated[str, Form()] = "",
        target: Annotated[str, Form(alias="next")] = "/",
    ) -> Response:
        security = security_of(request)
        refuse_other_sites(request)
        client = request.client.host if request.client else "unknown"
        wait = security.attempts.wait_seconds(client)
        if wait:
            answer = form(request, target, name, f"Too many failed attempts. Try again in {wait} seconds.", 429)
            answer.headers["retry-after"] = str(wait)
            return answer
        name = name.strip()
        if not _is_name(name):
            problem = f"Enter a name of 1 to {_LONGEST_NAME} printable characters. It goes into the audit trail."
            return form(request, target, name, problem, 422)
        role = security.role_of(token.strip())
        if role is None:
            security.attempts.failed(client)
            logger.warning("failed sign-in from %s", client)
            return form(request, target, name, "This token is not known. Check it and try again.", 403)
        answer = RedirectResponse(local_path(target), 303)
        answer.set_cookie(
            security.sessions.cookie_name,
            security.sessions.begin(name, role),
            max_age=security.sessions.seconds,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    @router.post("/logout")
    def sign_out(request: Request, visitor: Annotated[Visitor, Depends(viewer)]) -> Response:
        sessions = security_of(request).sessions
        if visitor.session is not None:
            sessions.end(visitor.session)
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(sessions.cookie_name, httponly=True, samesite="strict")
        return answer

    return router


def local_path(target: str) -> str:
    """The path if it is one of this server, else ``/``: a sign-in must not send anybody elsewhere."""
    local = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if local and not target.startswith(("/login", "/logout")) else "/"


def _is_name(name: str) -> bool:
    return 0 < len(name) <= _LONGEST_NAME and not any(unicodedata.category(letter)[0] == "C" for letter in name)
