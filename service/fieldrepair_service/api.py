"""The case book over HTTP: cases, labelling, drift events and windows. The control port mounts it under ``/api``."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request, Response

from fieldrepair_service.acting import acting
from fieldrepair_service.api_models import (
    AgreementView,
    CaseView,
    DecisionView,
    EventView,
    HistoryView,
    InputView,
    LabellerRequest,
    LabelRequest,
    Name,
    ReasonRequest,
    SkipRequest,
    StreamView,
    TaskView,
    WindowView,
)
from fieldrepair_service.api_schema import api_schema
from fieldrepair_service.body_limit import limited_route
from fieldrepair_service.case_book import CaseBook, CaseState, Task
from fieldrepair_service.errors import Conflict
from fieldrepair_service.field_log import FieldLog
from fieldrepair_service.http_errors import AlreadyLabelledBody, ErrorBody
from fieldrepair_service.images import MAX_SCALE, READ_AHEAD, InputCache, fitting_scale, image_input, render_png
from fieldrepair_service.input_text import describe_row, describe_text
from fieldrepair_service.inputs import ImageInput, TabularInput, read_input_spec
from fieldrepair_service.label_exchange import label_exchange_router

MAX_BODY_BYTES = 16 * 1024

Id = Annotated[int, Path(ge=1, le=2**31 - 1)]
Limit = Annotated[int, Query(ge=1, le=1000, description="At most so many.")]
ModelText = Annotated[str, Query(min_length=1, max_length=500, pattern=r"^[^\x00]+$")]
Responses = dict[int | str, dict[str, Any]]

_NOT_FOUND: Responses = {404: {"model": ErrorBody, "description": "Nothing has this id."}}
_INVALID: Responses = {422: {"model": ErrorBody, "description": "The request is not what this expects."}}
_UNAVAILABLE: Responses = {503: {"model": ErrorBody, "description": "A store does not answer; try again."}}
_CONFLICT: Responses = {409: {"model": ErrorBody, "description": "The case or task is in another state."}}
_LABELLED: Responses = {
    409: {
        "model": AlreadyLabelledBody | ErrorBody,
        "description": "The task has another label (which is in the answer), or the case takes no labels any more.",
    }
}
_TOO_LARGE: Responses = {413: {"model": ErrorBody, "description": f"The body exceeds {MAX_BODY_BYTES} bytes."}}


def case_router(book: CaseBook, field_log: FieldLog) -> APIRouter:
    """Routes of the case book.

    The handlers are plain functions, so that FastAPI runs them in its thread pool: they wait for databases.

    Args:
        book: the case book; stays open as long as the application lives.
        field_log: where the pictures come from.
    """
    router = APIRouter(route_class=limited_route(MAX_BODY_BYTES), responses={**_INVALID, **_UNAVAILABLE})
    inputs = InputCache(field_log)

    def case_view(case_id: int) -> CaseView:
        return CaseView.of(book.case(case_id), book.task_counts(case_id))

    def decision(task: Task) -> DecisionView:
        return DecisionView.of(task, book.case(task.case_id), book.task_counts(task.case_id))

    @router.get("/cases", tags=["cases"])
    def list_cases(state: CaseState | None = None, limit: Limit = 100) -> list[CaseView]:
        """Repair cases, newest first."""
        cases = book.cases(state, limit=limit)
        counts = book.task_counts_of(cases)
        return [CaseView.of(case, counts[case.id]) for case in cases]

    @router.get("/cases/{case_id}", tags=["cases"], responses=_NOT_FOUND)
    def get_case(case_id: Id) -> CaseView:
        """One repair case."""
        return case_view(case_id)

    @router.get("/cases/{case_id}/history", tags=["cases"], responses=_NOT_FOUND)
    def get_history(case_id: Id) -> list[HistoryView]:
        """Every move of a case, oldest first."""
        return [HistoryView.model_validate(entry) for entry in book.history(case_id)]

    @router.post("/cases/{case_id}/dismiss", tags=["cases"], responses={**_NOT_FOUND, **_CONFLICT, **_TOO_LARGE})
    def dismiss_case(case_id: Id, body: ReasonRequest, request: Request) -> CaseView:
        """End a case without a new model version."""
        who = acting(request, body.actor)
        book.transition(case_id, CaseState.DISMISSED, body.reason, actor=who.name)
        book.audit(who.name, who.role, "dismiss", f"case {case_id}", {"reason": body.reason})
        return case_view(case_id)

    @router.post("/cases/{case_id}/retry", tags=["cases"], responses={**_NOT_FOUND, **_CONFLICT, **_TOO_LARGE})
    def retry_case(case_id: Id, body: ReasonRequest, request: Request) -> CaseView:
        """Try a rejected case again: the worker plans new tasks, and the labels it has stay."""
        case = book.case(case_id)
        if case.state != CaseState.REJECTED:
            # A training case may go back to annotating as well, but that is the worker's to say.
            raise Conflict(f"only a rejected case is tried again, case {case_id} is {case.state}")
        who = acting(request, body.actor)
        book.transition(case_id, CaseState.ANNOTATING, body.reason, actor=who.name)
        book.audit(who.name, who.role, "retry", f"case {case_id}", {"reason": body.reason})
        return case_view(case_id)

    @router.get(
        "/cases/{case_id}/tasks/next",
        tags=["labelling"],
        responses={**_NOT_FOUND, 204: {"description": "No task is free: all are answered or with other labellers."}},
        response_model=TaskView,
    )
    def next_task(
        case_id: Id,
        labeller: Annotated[Name, Query()],
        request: Request,
        after: Annotated[int | None, Query(ge=0, le=2**31 - 1, description="Position of a task to pass over.")] = None,
    ) -> TaskView | Response:
        """The task this labeller shall answer next. Nobody else gets it for five minutes; asking again renews that."""
        task = book.next_task(case_id, acting(request, labeller).name, after=after)
        if task is None:
            return Response(status_code=204)
        case, counts = book.case(case_id), book.task_counts(case_id)
        return TaskView(
            task_id=task.id,
            case_id=case_id,
            image_url=request.url_for("task_image", task_id=str(task.id)).path,
            class_names=list(case.class_names),
            key=(task.request_id, task.row),
            remaining=counts.open,
            total=counts.total,
            leased_until_ms=task.leased_until_ms or 0,
            position=task.position,
        )

    @router.post("/tasks/{task_id}/label", tags=["labelling"], responses={**_NOT_FOUND, **_LABELLED, **_TOO_LARGE})
    def label_task(task_id: Id, body: LabelRequest, request: Request) -> DecisionView:
        """Label a task. Sending the same answer again is fine; another answer for a labelled task is refused."""
        who = acting(request, body.labeller)
        return decision(book.submit(task_id, body.label, who.name, source=body.source, role=who.role))

    @router.post("/tasks/{task_id}/skip", tags=["labelling"], responses={**_NOT_FOUND, **_LABELLED, **_TOO_LARGE})
    def skip_task(task_id: Id, body: SkipRequest, request: Request) -> DecisionView:
        """Close a task without a label: this labeller cannot tell."""
        who = acting(request, body.labeller)
        return decision(book.skip(task_id, who.name, not_sure=body.not_sure, source=body.source, role=who.role))

    @router.post("/tasks/{task_id}/undo", tags=["labelling"], responses={**_NOT_FOUND, **_CONFLICT, **_TOO_LARGE})
    def undo_task(task_id: Id, body: LabellerRequest, request: Request) -> DecisionView:
        """Take back one's own label or skip while the case is annotating; the task is this labeller's again."""
        who = acting(request, body.labeller)
        return decision(book.undo(task_id, who.name, role=who.role))

    @router.get(
        "/tasks/{task_id}/image.png",
        name="task_image",
        tags=["labelling"],
        response_class=Response,
        responses={
            200: {"content": {"image/png": {}}, "description": "The picture."},
            304: {"description": "The picture the client has is still right."},
            404: {"model": ErrorBody, "description": "No such task, or its field input is gone or is no image."},
        },
    )
    def task_image(
        task_id: Id,
        scale: Annotated[int | None, Query(ge=1, le=MAX_SCALE, description="Default: about 320 pixels wide.")] = None,
        if_none_match: Annotated[str | None, Header()] = None,
    ) -> Response:
        """The field input of a task as a PNG, every pixel enlarged to a square of ``scale`` pixels."""
        task = book.task(task_id)
        case = book.case(task.case_id)
        spec = image_input(case.input_spec)
        identity = (case.id, task.request_id, task.row, spec.model_dump_json(), fitting_scale(spec, scale))
        etag = f'"{hashlib.sha256(repr(identity).encode()).hexdigest()[:32]}"'
        # "no-cache" lets the browser keep the picture but ask first: task numbers begin anew in a new case book.
        headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
        if if_none_match is not None and etag in if_none_match:
            return Response(status_code=304, headers=headers)
        key = (task.request_id, task.row)
        instance = inputs.cached(key)
        if instance is None:
            instance = inputs.read(key, book.following(task, limit=READ_AHEAD), spec)
        return Response(render_png(instance, spec, scale), media_type="image/png", headers=headers)

    @router.get("/tasks/{task_id}/input", tags=["labelling"], responses=_NOT_FOUND)
    def task_input(task_id: Id) -> InputView:
        """The field input of a task in words and numbers, as far as it has any."""
        task = book.task(task_id)
        spec = read_input_spec(book.case(task.case_id).input_spec)
        if isinstance(spec, ImageInput):
            return InputView(kind="image", width=spec.width, height=spec.height)
        key = (task.request_id, task.row)
        instance = inputs.cached(key)
        if instance is None:
            instance = inputs.read(key, book.following(task, limit=READ_AHEAD), spec)
        if isinstance(spec, TabularInput):
            return InputView(kind="tabular", rows=list(describe_row(spec, instance)))
        return InputView(kind="text", text=describe_text(spec, instance))

    @router.get("/cases/{case_id}/agreement", tags=["labelling"], responses=_NOT_FOUND)
    def get_agreement(case_id: Id) -> AgreementView:
        """How well labellers agree on the questions that two of them answered."""
        return AgreementView.model_validate(book.agreement(case_id))

    @router.get("/events", tags=["monitoring"])
    def list_events(
        model_name: ModelText | None = None, model_version: ModelText | None = None, limit: Limit = 100
    ) -> list[EventView]:
        """Drift events, newest first."""
        return [EventView.model_validate(event) for event in book.events(model_name, model_version, limit=limit)]

    @router.get("/windows", tags=["monitoring"])
    def list_windows(model_name: ModelText, model_version: ModelText, limit: Limit = 100) -> list[WindowView]:
        """The last judged windows of a model version, oldest first."""
        return [WindowView.model_validate(window) for window in book.windows(model_name, model_version, limit=limit)]

    @router.get("/streams", tags=["monitoring"])
    def list_streams() -> list[StreamView]:
        """Model versions the monitor follows, and how far it has come."""
        return [StreamView.model_validate(checkpoint) for checkpoint in book.checkpoints()]

    @router.get("/openapi.json", include_in_schema=False)
    def openapi(request: Request) -> dict[str, Any]:
        """The schema of this API."""
        return api_schema(request.app)

    router.include_router(label_exchange_router(book, inputs, field_log))
    return router
