"""The page of one repair case: why, how far, with what result, and what a person can do about it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Path, Request
from fastapi.responses import Response

from fieldrepair_service.case_book import CaseBook, CaseState, DriftEvent
from fieldrepair_service.console import case_result
from fieldrepair_service.console.case_map import read_map
from fieldrepair_service.console.case_progress import live_view, steps_of
from fieldrepair_service.console.explanation import read_explanation
from fieldrepair_service.console.mlflow_links import MlflowLinks
from fieldrepair_service.console.pages import Pages
from fieldrepair_service.console.security import Visitor, viewer
from fieldrepair_service.console.trials import canary_of, shadow_of
from fieldrepair_service.errors import NotInCaseBook
from fieldrepair_service.images import image_input, render_png
from fieldrepair_service.stores import Stores

CaseId = Annotated[int, Path(ge=1, le=2**31 - 1)]

_SHOWN = {"image/png"}
"""Media types that are given out to be looked at; all else is offered as a file."""


def case_router(pages: Pages, stores: Stores, links: MlflowLinks) -> APIRouter:
    """Routes ``/cases/{id}`` and its attachments."""
    router = APIRouter(include_in_schema=False)

    @router.get("/cases/{case_id}")
    def show(request: Request, case_id: CaseId, visitor: Annotated[Visitor, Depends(viewer)]) -> Response:
        book = stores.book
        case, history, counts = book.case(case_id), book.history(case_id), book.task_counts(case_id)
        tasks = book.tasks(case_id, attempt=case.attempt)
        event = _opening_event(book, case.event_id)
        result = case_result.read_result(case.acceptance)
        repaired, broken = case_result.examples(result, case.class_names, tasks) if result else ([], [])
        return pages.render(
            request,
            "case.html",
            visitor,
            case=case,
            live=live_view(case, counts),
            counts=counts,
            steps=steps_of(case, history),
            history=history,
            event=event,
            explanation=read_explanation(event.explanation if event else None),
            attachments={each.name: each for each in book.attachments(case_id)},
            map=read_map(book, case_id, tasks, case.class_names),
            result=result,
            shadow=shadow_of(book, case.model_name, case.candidate_version),
            canary=canary_of(book, case.model_name, case.candidate_version),
            bars=case_result.bars(result) if result else None,
            matrices=_matrices(result, len(case.class_names)),
            changed=case_result.changed_pairs(result.field, case.class_names) if result else [],
            repaired=repaired,
            broken=broken,
            is_image=case.input_spec.get("kind") == "image",
            run_url=links.run(case.run_id),
            version_url=links.version(case.model_name, case.candidate_version),
            champion_url=links.version(case.model_name, case.model_version),
            State=CaseState,
        )

    @router.get("/cases/{case_id}/attachments/{name}")
    def attachment(
        request: Request, case_id: CaseId, name: str, visitor: Annotated[Visitor, Depends(viewer)]
    ) -> Response:
        del visitor
        found = stores.book.attachment(case_id, name)
        if found is None:
            raise HTTPException(404, f"case {case_id} has no attachment {name!r}")
        etag = f'"{found.id}-{found.created_ms}"'
        headers = {"etag": etag, "cache-control": "private, no-cache"}
        if etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        if found.media_type not in _SHOWN:
            headers["content-disposition"] = "attachment"
        return Response(found.content, media_type=found.media_type, headers=headers)

    @router.get("/cases/{case_id}/shadow/{request_id}/{row}.png")
    def disagreement(
        case_id: CaseId,
        request_id: str,
        row: Annotated[int, Path(ge=0, le=2**31 - 1)],
        visitor: Annotated[Visitor, Depends(viewer)],
    ) -> Response:
        del visitor
        case = stores.book.case(case_id)
        shadow = shadow_of(stores.book, case.model_name, case.candidate_version)
        shown = [(each.request_id, each.row) for each in shadow.disagreements] if shadow else []
        if shadow is None or (request_id, row) not in shown:
            raise HTTPException(404, f"case {case_id} shows no disagreement on row {row} of request {request_id}")
        spec = image_input(shadow.report.input_spec)
        instance = stores.inputs.read((request_id, row), shown, spec)
        return Response(
            render_png(instance, spec), media_type="image/png", headers={"cache-control": "private, max-age=3600"}
        )

    return router


def _opening_event(book: CaseBook, event_id: int) -> DriftEvent | None:
    try:
        return book.event(event_id)
    except NotInCaseBook:
        return None


def _matrices(result: case_result.Result | None, classes: int) -> list[tuple[str, list[list[tuple[int, int]]]]]:
    """(title, shaded cells) before and after; none where there are too many classes to read."""
    if result is None or classes > case_result.MATRIX_CLASSES:
        return []
    return [
        ("Before", case_result.heat(result.field.champion_confusion)),
        ("After", case_result.heat(result.field.candidate_confusion)),
    ]
