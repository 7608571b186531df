"""The labelling page: one field input at a time, answered with one key. Works without JavaScript as plain forms.

With JavaScript an answer is sent in the background and brings the next task as a piece of the same page, so there is
one place that renders a task, and class names from traffic are escaped in one place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Depends, Form, HTTPException, Path, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import ValidationError

from fieldrepair_service.console.class_keys import class_keys
from fieldrepair_service.console.pages import Pages
from fieldrepair_service.console.security import Visitor, labeller
from fieldrepair_service.console.task_view import view_task
from fieldrepair_service.errors import AlreadyLabelled, Conflict
from fieldrepair_service.examples import EXAMPLES, ExampleIndex, example_name
from fieldrepair_service.stores import Stores

if TYPE_CHECKING:
    from fieldrepair_service.case_book import Case, CaseBook, Task

SEARCH_FROM = 11
"""Classes from which on there is a search box."""

CaseId = Annotated[int, Path(ge=1, le=2**31 - 1)]
TaskId = Annotated[int, Form(ge=1, le=2**31 - 1)]
Labeller = Annotated[Visitor, Depends(labeller)]
_FRAGMENT = "x-fragment"


def labelling_router(pages: Pages, stores: Stores) -> APIRouter:
    """Routes under ``/label``.

    The handlers are plain functions, so that FastAPI runs them in its thread pool: they wait for databases.
    """
    router = APIRouter(include_in_schema=False)

    @router.get("/label/{case_id}")
    def show(request: Request, case_id: CaseId, visitor: Labeller) -> Response:
        return answer_page(request, case_id, visitor)

    @router.post("/label/{case_id}")
    def answer(
        request: Request,
        case_id: CaseId,
        visitor: Labeller,
        task_id: TaskId = 1,
        label: Annotated[int | None, Form(ge=0)] = None,
        verdict: Annotated[Literal["skip", "not_sure", "undo", "later"] | None, Form()] = None,
    ) -> Response:
        book = stores.book
        stored = False
        after: int | None = None  # goes on behind what was answered, so that what was put off comes at the end
        try:
            if verdict == "undo":
                said = _undo(book, case_id, visitor)
            else:
                task = book.task(task_id)
                if task.case_id != case_id:
                    raise HTTPException(404, f"case {case_id} has no task {task_id}")
                after = task.position
                said = _answer(book, task, label, verdict, visitor)
            stored = True
        except AlreadyLabelled as error:
            said = f"Somebody was first: {error.labeller} labelled it {error.class_name}."
        except Conflict as error:  # the case went on meanwhile, or there is nothing to take back
            said = f"Not stored: {error}."
        if stored and request.headers.get(_FRAGMENT) is None:
            # A plain form: loading the page again must not send it again. The next task is this labeller's already.
            book.next_task(case_id, visitor.name, after=after)
            return RedirectResponse(f"/label/{case_id}", 303)
        return answer_page(request, case_id, visitor, after=after, said=said)

    def answer_page(
        request: Request, case_id: int, visitor: Visitor, *, after: int | None = None, said: str = ""
    ) -> Response:
        """The whole page, or with the header ``x-fragment`` only what changes with the task."""
        book = stores.book
        case = book.case(case_id)
        task = book.next_task(case_id, visitor.name, after=after)
        only_task = request.headers.get(_FRAGMENT) is not None
        last = book.last_answer(case_id, visitor.name)
        mine, answered_open = book.answered_by(case_id, visitor.name)
        context: dict[str, Any] = {
            "case": case,
            "counts": book.task_counts(case_id),
            "mine": mine,
            "answered_open": answered_open,
            "agreement": book.agreement(case_id),
            "task": task,
            "view": None if task is None else view_task(stores, case, task),
            "ahead": None if task is None else book.ahead(task, visitor.name),
            "can_undo": last is not None and case.state == "annotating",
            "said": said,
        }
        if not only_task:
            context["keys"] = class_keys(case.class_names)
            context["searchable"] = len(case.class_names) >= SEARCH_FROM
            context["examples"] = _examples(book, case)
        return pages.render(request, "label_task.html" if only_task else "label.html", visitor, **context)

    @router.get("/label/{case_id}/examples/{index}.png")
    def example(case_id: CaseId, index: Annotated[int, Path(ge=0, le=2**31 - 1)], visitor: Labeller) -> Response:
        del visitor
        found = stores.book.attachment(case_id, example_name(index))
        if found is None:
            raise HTTPException(404, f"case {case_id} has no examples of class {index}")
        return Response(found.content, media_type="image/png", headers={"cache-control": "private, max-age=3600"})

    return router


def _answer(book: CaseBook, task: Task, label: int | None, verdict: str | None, visitor: Visitor) -> str:
    """Store an answer; says what was done."""
    role = str(visitor.role)
    if verdict == "later":
        return "Put off; it comes back at the end."
    if verdict is not None:
        book.skip(task.id, visitor.name, not_sure=verdict == "not_sure", source="console", role=role)
        return "Noted as not sure." if verdict == "not_sure" else "Skipped."
    if label is None:
        raise HTTPException(422, "an answer needs a label or a verdict")
    book.submit(task.id, label, visitor.name, source="console", role=role)
    return f"Labelled {book.case(task.case_id).class_names[label]}."


def _undo(book: CaseBook, case_id: int, visitor: Visitor) -> str:
    last = book.last_answer(case_id, visitor.name)
    if last is None:
        return "There is no answer of yours to take back."
    book.undo(last.task_id, visitor.name, role=str(visitor.role))
    return "Taken back; answer it again."


def _examples(book: CaseBook, case: Case) -> ExampleIndex | None:
    """Which classes have reference examples; None if the worker stored none."""
    found = book.attachment(case.id, EXAMPLES)
    if found is None:
        return None
    try:
        return ExampleIndex.model_validate(orjson.loads(found.content))
    except (orjson.JSONDecodeError, ValidationError):
        return None  # written by another version; the page says that there are none
