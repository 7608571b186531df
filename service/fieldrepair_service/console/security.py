"""Who may do what on the control port: one set of guards for the pages and for the API.

A visitor is known by a bearer token (scripts) or by a session cookie (people who signed in at ``/login``). What
changes something under a cookie must send the session's CSRF token along, as header or form field ``x-csrf-token``.
Use the guards as dependencies::

    @router.post("/cases/{case_id}/dismiss")
    def dismiss(case_id: int, visitor: Annotated[Visitor, Depends(approver)]) -> ...
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile

from fieldrepair_service.console.attempts import Attempts
from fieldrepair_service.console.sessions import Session, Sessions
from fieldrepair_service.errors import ConfigurationError
from fieldrepair_service.roles import Role

__all__ = ["CSRF", "Role", "Security", "Visitor", "approver", "labeller", "security_of", "viewer", "wants_page"]

CSRF = "x-csrf-token"
"""Name of the header, and of the hidden form field."""

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


@dataclass(frozen=True)
class Visitor:
    """Who sends a request."""

    name: str
    """The name given at sign-in; of a token, what kind of token it is."""
    role: Role
    session: Session | None = None
    """None for bearer tokens, and where nobody has to sign in."""
    csrf_token: str = ""
    """For the forms of this visitor's pages."""

    def may(self, role: Role) -> bool:
        """Whether the role allows it."""
        return self.role >= role

    def speaks_as(self, claimed: str) -> str:
        """The name an action is recorded under: people act under the name they signed in with, scripts say it."""
        return self.name if self.session is not None else claimed


class Security:
    """The tokens, the sessions and the attempts of one control port; ``app.state.security``.

    Args:
        tokens: role -> token. None lets everybody in as approver (``control_auth=off``, on loopback only); who opens
            a page is then asked for a name alone.
        session_seconds: how long a sign-in lasts.
        attempts: limits failed sign-ins.

    Raises:
        ConfigurationError: two roles have the same token.
    """

    def __init__(
        self,
        tokens: Mapping[Role, str] | None,
        *,
        session_seconds: int = 12 * 3600,
        attempts: Attempts | None = None,
    ) -> None:
        self._tokens = dict(sorted(tokens.items())) if tokens is not None else None
        if self._tokens is not None and len(set(self._tokens.values())) < len(self._tokens):
            raise ConfigurationError(f"the tokens of {', '.join(map(str, self._tokens))} must differ from each other")
        self.sessions = Sessions(list((self._tokens or {}).values()), session_seconds)
        self.attempts = attempts or Attempts()

    @property
    def open(self) -> bool:
        """Whether no token is asked for."""
        return self._tokens is None

    def role_of(self, token: str) -> Role | None:
        """The role that a token gives; None if it is nobody's."""
        if self._tokens is None:
            return Role.APPROVER
        # Every token is compared, so that the time taken tells nothing.
        found = [role for role, known in self._tokens.items() if secrets.compare_digest(token.encode(), known.encode())]
        return found[0] if found else None

    def signed_in(self, request: Request) -> Visitor | None:
        """The visitor of a session cookie, if there is a good one."""
        session = self.sessions.read(request.cookies.get(self.sessions.cookie_name, ""))
        if session is None:
            return None
        return Visitor(session.name, Role(session.role), session, self.sessions.csrf_token(session))

    async def let_in(self, request: Request, needed: Role) -> Visitor:
        """The visitor of a request.

        Raises:
            HTTPException: 401 for a stranger, 403 for a role that is too low, a missing CSRF token, or another site.
        """
        visitor = self._by_token(request) or self.signed_in(request)
        if visitor is None and self.open and not wants_page(request):
            _require_local_page(request)
            visitor = Visitor("anonymous", Role.APPROVER)
        if visitor is None:
            raise HTTPException(401, "the control port needs its bearer token", headers={"www-authenticate": "Bearer"})
        if visitor.session is not None and request.method not in _SAFE_METHODS:
            given = await _given_csrf_token(request)
            if not secrets.compare_digest(given.encode(), visitor.csrf_token.encode()):
                raise HTTPException(403, f"the {CSRF} of this session is missing or wrong; load the page again")
        if not visitor.may(needed):
            raise HTTPException(403, f"this needs the role {needed}, and {visitor.name} has the role {visitor.role}")
        return visitor

    def _by_token(self, request: Request) -> Visitor | None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if self.open or scheme.lower() != "bearer":
            return None
        role = self.role_of(token.strip())
        return None if role is None else Visitor(f"{role} token", role)


def security_of(request: Request) -> Security:
    """The control port's security."""
    security: Security = request.app.state.security
    return security


async def viewer(request: Request) -> Visitor:
    """Guard: any role."""
    return await security_of(request).let_in(request, Role.VIEWER)


async def labeller(request: Request) -> Visitor:
    """Guard: labellers and approvers."""
    return await security_of(request).let_in(request, Role.LABELLER)


async def approver(request: Request) -> Visitor:
    """Guard: approvers alone."""
    return await security_of(request).let_in(request, Role.APPROVER)


def wants_page(request: Request) -> bool:
    """Whether a person's browser asks for a page, not a script for data."""
    return "text/html" in request.headers.get("accept", "") and not request.url.path.startswith("/api/")


def refuse_other_sites(request: Request) -> None:
    """Refuse what a page of another site sends.

    Raises:
        HTTPException: 403.
    """
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    other = (
        site not in ("same-origin", "none")
        if site is not None
        else origin is not None and urlsplit(origin).netloc != request.headers.get("host", "")
    )
    if other:
        raise HTTPException(403, f"this was sent by a page of another site, {origin or site}")


def _require_local_page(request: Request) -> None:
    """Nobody signs in here, so a web page in the same browser must not get in: by its origin, or by DNS rebinding."""
    if request.url.hostname not in _LOOPBACK:
        raise HTTPException(403, f"without a token this answers on loopback names only, not as {request.url.hostname}")
    if request.method not in _SAFE_METHODS:
        refuse_other_sites(request)


async def _given_csrf_token(request: Request) -> str:
    header = request.headers.get(CSRF)
    if header is not None:
        return header
    if request.headers.get("content-type", "").split(";")[0].strip() in _FORMS:
        field = (await request.form()).get(CSRF, "")
        return "" if isinstance(field, UploadFile) else field
    return ""
