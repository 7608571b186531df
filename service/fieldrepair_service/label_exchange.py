"""Labels out and in over HTTP: Label Studio, CSV, and ground truth that arrives later."""

from __future__ import annotations

import base64
import logging
from collections import defaultdict
from dataclasses import asdict
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from fieldrepair_service import label_studio
from fieldrepair_service.acting import Acting, acting
from fieldrepair_service.api_models import Name
from fieldrepair_service.body_limit import limited_route
from fieldrepair_service.case_book import Answer, Case, CaseBook, ImportedAnswer, NewGroundTruth, Task
from fieldrepair_service.errors import BadUpload, ImageUnavailable, InputError
from fieldrepair_service.field_log import FieldLog
from fieldrepair_service.http_errors import ErrorBody
from fieldrepair_service.images import READ_AHEAD, InputCache, Key, render_png
from fieldrepair_service.input_text import describe_row, describe_text
from fieldrepair_service.inputs import ImageInput, TabularInput, read_input_spec
from fieldrepair_service.label_csv import read_csv, write_csv

logger = logging.getLogger(__name__)

MAX_UPLOAD_BYTES = 32 * 2**20
MAX_BATCH = 10_000

Id = Annotated[int, Path(ge=1, le=2**31 - 1)]
_SCAN_ROWS = 50_000


async def _raw_text(request: Request) -> str:
    """The body as text: JSON that FastAPI has parsed no longer knows its lines."""
    body = await request.body()
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadUpload(body.count(b"\n", 0, error.start) + 1, "this is no UTF-8 text") from error


RawText = Annotated[str, Depends(_raw_text)]


def _raw(media_type: str) -> dict[str, Any]:
    """What the schema says about a body that is read as text."""
    return {"requestBody": {"required": True, "content": {media_type: {"schema": {"type": "string"}}}}}


_ERRORS: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorBody, "description": "Nothing has this id."},
    409: {"model": ErrorBody, "description": "The case or task is in another state."},
    413: {"model": ErrorBody, "description": f"The body exceeds {MAX_UPLOAD_BYTES} bytes."},
    422: {"model": ErrorBody, "description": "The upload is wrong; the message names the line, and nothing is kept."},
}


class ImportView(BaseModel):
    """What became of an import."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True)

    stored: int
    """New answers."""
    repeated: int
    """Answers that were stored before, or that agree with the label their task has."""
    ignored: str | None = None
    """Of a webhook: what happened that does not matter here."""


class TruthLabel(BaseModel):
    """The right answer for one field input."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, extra="forbid")

    client_request_id: str = Field(min_length=1, max_length=500, pattern=r"^[^\x00]+$")
    """The id that the client sent with its prediction request."""
    row: int = Field(default=0, ge=0, le=2**31 - 1)
    """Place in the request."""
    label: str = Field(min_length=1, max_length=1000, pattern=r"^[^\x00]+$")
    """Name of the class."""


class TruthRequest(BaseModel):
    """A batch of right answers from the business."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, extra="forbid")

    labels: list[TruthLabel] = Field(min_length=1, max_length=MAX_BATCH)
    source: Name = "api"
    """Where they come from, for people."""


class TruthView(BaseModel):
    """What became of a batch of ground truth."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True)

    stored: int
    """New ones."""
    repeated: int
    """Known before with the same label."""
    replaced: int
    """Known before with another label; the new one counts."""
    unknown: int | None
    """Of this batch: field inputs that are not in the field log (yet); their labels are kept until they arrive. Null
    if that was not to be counted."""


def label_exchange_router(book: CaseBook, inputs: InputCache, field_log: FieldLog) -> APIRouter:
    """Routes for exports, imports, the webhook and ground truth."""
    router = APIRouter(route_class=limited_route(MAX_UPLOAD_BYTES), responses=_ERRORS, tags=["exchange"])

    @router.get("/cases/{case_id}/export/label-studio")
    def export_label_studio(case_id: Id, response: Response) -> list[dict[str, Any]]:
        """Questions of the present attempt as Label Studio tasks, with the model's predictions and the labels so far.

        Pictures are in the tasks themselves. Questions whose field input is gone are left out; the header
        ``x-fieldrepair-left-out`` says how many.
        """
        case = book.case(case_id)
        tasks = book.tasks(case_id, attempt=case.attempt)
        keys = [(task.request_id, task.row) for task in tasks]
        answers: defaultdict[int, list[Answer]] = defaultdict(list)
        for answer in book.answers(case_id, attempt=case.attempt):
            answers[answer.task_id].append(answer)
        exported = [
            _export(case, task, keys[number + 1 : number + READ_AHEAD], answers[task.id], inputs)
            for number, task in enumerate(tasks)
        ]
        kept = [task for task in exported if task is not None]
        response.headers["x-fieldrepair-left-out"] = str(len(exported) - len(kept))
        return kept

    @router.get("/cases/{case_id}/export/label-studio-config", response_class=Response)
    def export_config(case_id: Id) -> Response:
        """The labelling interface for the Label Studio project."""
        case = book.case(case_id)
        text = label_studio.labelling_config(read_input_spec(case.input_spec), case.class_names)
        return Response(text, media_type="application/xml")

    @router.get("/cases/{case_id}/export/csv", response_class=Response)
    def export_csv(case_id: Id) -> Response:
        """Questions of the present attempt with the labels so far, one per line."""
        case = book.case(case_id)
        text = write_csv(case, book.tasks(case_id, attempt=case.attempt))
        headers = {"content-disposition": f'attachment; filename="case-{case_id}.csv"'}
        return Response(text, media_type="text/csv; charset=utf-8", headers=headers)

    @router.post("/cases/{case_id}/labels/label-studio", openapi_extra=_raw("application/json"))
    def import_label_studio(case_id: Id, text: RawText, request: Request) -> ImportView:
        """Answers from an export of Label Studio (format "JSON"): all of them, or none."""
        who = acting(request, "label-studio")
        return store(case_id, label_studio.read_annotations(text, who.name), "label-studio", who)

    @router.post("/cases/{case_id}/labels/csv", openapi_extra=_raw("text/csv"))
    def import_csv(case_id: Id, text: RawText, request: Request) -> ImportView:
        """Answers from a CSV file with the columns ``task_id`` and ``label``: all of them, or none."""
        who = acting(request, "csv")
        return store(case_id, read_csv(text, who.name), "csv", who)

    @router.post("/cases/{case_id}/label-studio/webhook")
    def webhook(case_id: Id, event: label_studio.Webhook, request: Request) -> ImportView:
        """Label Studio's webhook: takes what ANNOTATION_CREATED says, and lets other events pass."""
        if event.action != label_studio.ANNOTATION_CREATED:
            return ImportView(stored=0, repeated=0, ignored=event.action)
        if event.task is None or event.annotation is None:
            raise InputError(f"{event.action} needs a task and an annotation")
        who = acting(request, "label-studio")
        answer = label_studio.to_answer(1, event.task.data.fieldrepair_task, event.annotation, who.name)
        return store(case_id, [answer], "label-studio", who)

    @router.post("/labels")
    def ground_truth(
        body: TruthRequest,
        request: Request,
        check: Annotated[bool, Query(description="Whether to count labels whose field input is not logged.")] = True,
    ) -> TruthView:
        """Right answers by client request id. Sending a batch again changes nothing; a correction replaces."""
        labels = [NewGroundTruth(label.client_request_id, label.row, label.label) for label in body.labels]
        receipt = book.receive_ground_truth(labels, body.source)
        who = acting(request, body.source)
        if receipt.stored or receipt.replaced:
            book.audit(who.name, who.role, "ground_truth", "labels", asdict(receipt))
        unknown = None
        if check:
            keys = {(label.client_request_id, label.row) for label in labels}
            unknown = len(keys - _logged(field_log, keys))
        return TruthView(**asdict(receipt), unknown=unknown)

    def store(case_id: int, answers: list[ImportedAnswer], source: str, who: Acting) -> ImportView:
        receipt = book.import_answers(case_id, answers, source=source, actor=who.name, role=who.role)
        return ImportView(stored=receipt.stored, repeated=receipt.repeated)

    return router


def _export(
    case: Case, task: Task, following: list[Key], labels: list[Answer], inputs: InputCache
) -> dict[str, Any] | None:
    """One question as a Label Studio task; None if its field input cannot be shown."""
    key = (task.request_id, task.row)
    try:
        spec = read_input_spec(case.input_spec)
        instance = inputs.cached(key)
        if instance is None:
            instance = inputs.read(key, following, spec)
        data: dict[str, Any] = {"fieldrepair_task": task.id, "request_id": task.request_id, "request_row": task.row}
        if isinstance(spec, ImageInput):
            data["image"] = f"data:image/png;base64,{base64.b64encode(render_png(instance, spec)).decode()}"
        elif isinstance(spec, TabularInput):
            data["row"] = {name: f"{value} {unit}".strip() for name, value, unit in describe_row(spec, instance)}
        else:
            data["text"] = describe_text(spec, instance)
    except (ImageUnavailable, InputError) as error:
        logger.info("task %d is left out of an export: %s", task.id, error)
        return None
    said = inputs.prediction(key)
    return {
        "id": task.id,
        "data": data,
        "predictions": []
        if said is None or not 0 <= said.predicted_class < len(case.class_names)
        else [
            {
                "model_version": f"{case.model_name} {case.model_version}",
                "score": said.confidence,
                "result": [label_studio.choice(spec, case.class_names[said.predicted_class])],
            }
        ],
        "annotations": [
            {
                "completed_by": {"email": answer.labeller},
                "was_cancelled": answer.label is None,
                "result": [] if answer.label is None else [label_studio.choice(spec, case.class_names[answer.label])],
            }
            for answer in labels
        ],
    }


def _logged(field_log: FieldLog, keys: set[tuple[str, int]]) -> set[tuple[str, int]]:
    """Those of these client request ids and rows that the field log has."""
    wanted = pa.array(sorted({name for name, _ in keys}))
    found: set[tuple[str, int]] = set()
    for rows in field_log.batches(columns=["client_request_id", "row"], batch_rows=_SCAN_ROWS):
        hits = rows.filter(pc.is_in(rows.column("client_request_id"), value_set=wanted))
        found |= keys & set(zip(*(hits.column(name).to_pylist() for name in ("client_request_id", "row")), strict=True))
        if len(found) == len(keys):
            break
    return found
