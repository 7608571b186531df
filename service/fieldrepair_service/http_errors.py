"""The one place that says which error is which HTTP status. Every answer is ``{"error": class, "detail": message}``.

Where ``app.state.error_page`` is set, people get a page instead: it takes request, status, detail and headers, and
gives None for those who want data.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

from fieldrepair_service import errors

logger = logging.getLogger(__name__)

STATUS: dict[type[errors.FieldRepairError], int] = {
    errors.FieldRepairError: 500,
    errors.ConfigurationError: 422,  # at request time it comes from what was asked for, an upstream say
    errors.InputError: 422,
    errors.BodyTooLarge: 413,
    errors.StoreError: 503,
    errors.SchemaMismatch: 500,
    errors.NotInCaseBook: 404,
    errors.ImageUnavailable: 404,
    errors.RowsNotFound: 404,
    errors.Conflict: 409,
}
"""An error without an entry has that of its nearest ancestor."""


ErrorPage = Callable[[Request, int, str, Mapping[str, str]], Response | None]
"""Makes the page for an error: request, status, detail, headers; None for who wants data."""


class ErrorBody(BaseModel):
    """What went wrong."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    error: str
    """Name of the error."""
    detail: str
    """One sentence for people, with the values that matter."""


class AlreadyLabelledBody(ErrorBody):
    """A label that came second, and the one that is stored."""

    label: int
    """Index of the stored class."""
    class_name: str
    """The stored class."""
    labeller: str
    """Who gave it."""


def status_of(error: errors.FieldRepairError) -> int:
    """HTTP status of an error."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def install_error_handlers(app: FastAPI) -> None:
    """Make an application answer every error, also an unexpected one, in the one form."""
    app.add_exception_handler(errors.FieldRepairError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)


def _answer(request: Request, status: int, body: ErrorBody, headers: dict[str, str] | None = None) -> Response:
    page: ErrorPage | None = getattr(request.app.state, "error_page", None)
    answer = page(request, status, body.detail, headers or {}) if page is not None else None
    if answer is not None:
        return answer
    return JSONResponse(body.model_dump(), status_code=status, headers=headers)


def _ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.FieldRepairError)  # noqa: S101  (registered for these only)
    status = status_of(error)
    if status >= 500:
        logger.error("%s %s: %s", request.method, request.url.path, error)
    name, detail = type(error).__name__, str(error)
    if isinstance(error, errors.AlreadyLabelled):
        return _answer(
            request,
            status,
            AlreadyLabelledBody(
                error=name,
                detail=detail,
                label=error.label,
                class_name=error.class_name,
                labeller=error.labeller,
            ),
        )
    return _answer(request, status, ErrorBody(error=name, detail=detail))


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101  (registered for these only)
    # What came in is not repeated: it may be huge, secret, or not even text.
    problems = [f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}" for problem in error.errors()]
    detail = "; ".join(problems).encode("utf-8", "replace").decode()
    return _answer(request, 422, ErrorBody(error="InvalidRequest", detail=detail))


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  (registered for these only)
    name = HTTPStatus(error.status_code).phrase.title().replace(" ", "").replace("-", "")
    headers = dict(error.headers) if error.headers else None
    return _answer(request, error.status_code, ErrorBody(error=name, detail=str(error.detail)), headers)


def _unexpected(request: Request, error: Exception) -> Response:
    # Starlette raises the error again after this answer, so the server logs it with its trace.
    return _answer(
        request, 500, ErrorBody(error="InternalServerError", detail=f"unexpected {type(error).__name__}; see the log")
    )
