"""Renders pages: one template environment, what every page needs, and errors as pages for people."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fieldrepair_service.console import formats
from fieldrepair_service.console.security import CSRF, Role, Visitor, security_of, wants_page
from fieldrepair_service.console.static_files import StaticFiles


class Pages:
    """The console's pages.

    Args:
        static: knows the addresses of style sheets and scripts.
        console: whether people can sign in here and find an overview; without it there are pages for errors alone.
    """

    def __init__(self, static: StaticFiles, *, console: bool = True) -> None:
        self._console = console
        self._environment = Environment(
            loader=FileSystemLoader(Path(__file__).parent / "templates"),
            autoescape=True,  # whatever a model, a class or a request is called, it is shown as text
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        known = cast(dict[str, Any], self._environment.globals)
        known.update(asset=static.url, console=console, CSRF=CSRF, Role=Role, **formats.FUNCTIONS)
        self._environment.filters.update(formats.FILTERS)

    def render(
        self,
        request: Request,
        template: str,
        visitor: Visitor | None,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        **context: object,
    ) -> HTMLResponse:
        """A page.

        Args:
            request: what asks for it.
            template: file name in ``templates``.
            visitor: who looks at it; None where nobody has signed in.
            status: HTTP status.
            headers: more headers.
            context: what the template uses.
        """
        text = self._environment.get_template(template).render(
            visitor=visitor, path=request.url.path, open_door=security_of(request).open, **context
        )
        return HTMLResponse(text, status_code=status, headers=dict(headers or {}))

    def error(self, request: Request, status: int, detail: str, headers: Mapping[str, str]) -> Response | None:
        """The page for an error, or the way to the sign-in; None for those who want data."""
        if not wants_page(request):
            return None
        if status == 401 and self._console:
            target = request.url.path if request.method == "GET" else "/"
            if request.method == "GET" and request.url.query:
                target += f"?{request.url.query}"
            return RedirectResponse("/login" if target == "/" else f"/login?next={quote(target, safe='')}", 303)
        visitor = security_of(request).signed_in(request)
        heading = HTTPStatus(status).phrase
        return self.render(
            request, "error.html", visitor, status=status, headers=headers, heading=heading, detail=detail, code=status
        )
