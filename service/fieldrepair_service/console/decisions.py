"""Promote, dismiss, retry: each a page that says what will happen, and a form that does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Form, HTTPException, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import TypeAdapter, ValidationError

from fieldrepair_service.api_models import Line
from fieldrepair_service.case_book import Case, CaseState
from fieldrepair_service.console.case_page import CaseId
from fieldrepair_service.console.pages import Pages
from fieldrepair_service.console.security import Visitor, approver
from fieldrepair_service.errors import Conflict
from fieldrepair_service.stores import Stores

_REASON = TypeAdapter[str](Line)


@dataclass(frozen=True)
class Decision:
    """One thing an approver can do with a case."""

    name: str
    title: str
    button: str
    states: frozenset[CaseState]
    """Where it can be done."""
    needs_reason: bool
    danger: bool = False


DECISIONS = (
    Decision("promote", "Promote the candidate", "Promote", frozenset({CaseState.ACCEPTED}), needs_reason=False),
    Decision("retry", "Try again", "Try again", frozenset({CaseState.REJECTED}), needs_reason=True),
    Decision(
        "dismiss",
        "Dismiss the case",
        "Dismiss",
        frozenset({CaseState.ANNOTATING, CaseState.TRAINING, CaseState.ACCEPTED, CaseState.REJECTED}),
        needs_reason=True,
        danger=True,
    ),
)


def decision_router(pages: Pages, stores: Stores) -> APIRouter:
    """Routes ``/cases/{id}/promote``, ``/dismiss`` and ``/retry``."""
    router = APIRouter(include_in_schema=False)

    def form(
        request: Request, visitor: Visitor, decision: Decision, case: Case, reason: str = "", problem: str = ""
    ) -> Response:
        return pages.render(
            request,
            "decide.html",
            visitor,
            status=422 if problem else 200,
            decision=decision,
            case=case,
            counts=stores.book.task_counts(case.id),
            place=_place(case),
            reason=reason,
            problem=problem,
        )

    def add(decision: Decision) -> None:
        @router.get(f"/cases/{{case_id}}/{decision.name}")
        def ask(request: Request, case_id: CaseId, visitor: Annotated[Visitor, Depends(approver)]) -> Response:
            case = stores.book.case(case_id)
            _require_possible(decision, case)
            return form(request, visitor, decision, case)

        @router.post(f"/cases/{{case_id}}/{decision.name}")
        def act(
            request: Request,
            case_id: CaseId,
            visitor: Annotated[Visitor, Depends(approver)],
            place: Annotated[str, Form(max_length=100)] = "",
            reason: Annotated[str, Form(max_length=2000)] = "",
        ) -> Response:
            case = stores.book.case(case_id)
            _require_possible(decision, case)
            if place != _place(case):
                raise HTTPException(409, f"case {case_id} has moved on since this page was loaded; look at it again")
            if reason.strip() or decision.needs_reason:
                try:
                    reason = _REASON.validate_python(reason)
                except ValidationError:
                    problem = "Give a reason in one line. It goes into the history of the case."
                    return form(request, visitor, decision, case, reason, problem)
            _decide(stores, decision, case, visitor, reason.strip())
            return RedirectResponse(f"/cases/{case_id}", 303)

    for decision in DECISIONS:
        add(decision)
    return router


def _decide(stores: Stores, decision: Decision, case: Case, visitor: Visitor, reason: str) -> None:
    book = stores.book
    if decision.name == "promote":
        book.approve(case.id, visitor.name, str(visitor.role), reason)
        return
    state = CaseState.ANNOTATING if decision.name == "retry" else CaseState.DISMISSED
    book.transition(case.id, state, reason, actor=visitor.name)
    book.audit(visitor.name, str(visitor.role), decision.name, f"case {case.id}", {"reason": reason})


def _place(case: Case) -> str:
    """Changes when somebody else has decided something meanwhile."""
    return f"{case.state}/{case.attempt}/{case.candidate_version or ''}"


def _require_possible(decision: Decision, case: Case) -> None:
    if case.state not in decision.states:
        raise Conflict(
            f"case {case.id} is {case.state}; {decision.name} is for cases that are "
            f"{' or '.join(sorted(map(str, decision.states)))}"
        )
