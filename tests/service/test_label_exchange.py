"""Labels out and in: Label Studio's format, CSV, its webhook, ground truth. Wrong uploads leave nothing behind."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import Depends, FastAPI

from fieldrepair_service.api import case_router
from fieldrepair_service.case_api import api_guard
from fieldrepair_service.case_book import Case, CaseBook
from fieldrepair_service.console.security import Security
from fieldrepair_service.field_log import FieldLog
from fieldrepair_service.http_errors import install_error_handlers
from fieldrepair_service.inputs import ImageInput
from fieldrepair_service.roles import Role

OpenCase = Callable[..., Case]


@pytest.fixture
def case(sqlite_book: CaseBook, open_case: OpenCase, plan: Callable[..., Case]) -> Case:
    """A planned case: tasks r0 to r3 and a0 to a2, classes cat, dog, 7."""
    return plan(sqlite_book, open_case(sqlite_book).id)


@pytest.fixture
def api(
    sqlite_book: CaseBook, log_inputs: Callable[..., FieldLog], serve: Callable[[FastAPI], httpx.Client]
) -> httpx.Client:
    """The API over a field log that has all inputs of the case but a2."""
    picture = np.linspace(0, 1, 24, dtype=np.float32).reshape(ImageInput(height=4, width=6).shape)
    keys = [(f"r{i}", i) for i in range(4)] + [(f"a{i}", i) for i in range(2)]
    app = FastAPI()
    app.include_router(case_router(sqlite_book, log_inputs([(*key, picture) for key in keys])), prefix="/api")
    install_error_handlers(app)
    return serve(app)


def annotated(tasks: list[dict[str, Any]], labels: dict[int, str]) -> list[dict[str, Any]]:
    """What Label Studio exports ("JSON") after people have annotated imported tasks: the documented form, abridged."""
    return [
        {
            "id": 1000 + number,
            "annotations": [
                {
                    "id": 5000 + number,
                    "completed_by": {"id": 1, "email": "ann@example.org", "first_name": "Ann", "last_name": ""},
                    "result": [
                        {
                            "value": {"choices": [labels[task["data"]["fieldrepair_task"]]]},
                            "id": "Dx_aB91ISN",
                            "from_name": "label",
                            "to_name": "image",
                            "type": "choices",
                            "origin": "manual",
                        }
                    ],
                    "was_cancelled": False,
                    "ground_truth": False,
                    "created_at": "2026-11-22T13:57:50.527Z",
                    "updated_at": "2026-11-22T13:57:50.527Z",
                    "draft_created_at": None,
                    "lead_time": 2.531,
                    "task": 1000 + number,
                    "project": 25,
                    "parent_prediction": None,
                }
            ],
            "file_upload": "f1a2-tasks.json",
            "drafts": [],
            "predictions": task["predictions"],
            "data": task["data"],
            "meta": {},
            "created_at": "2026-11-22T13:45:23.333Z",
            "project": 25,
        }
        for number, task in enumerate(tasks)
    ]


def _upload(api: httpx.Client, case: Case, text: str | bytes, kind: str = "label-studio") -> httpx.Response:
    return api.post(f"/api/cases/{case.id}/labels/{kind}", content=text)


def _labels(book: CaseBook, case: Case) -> dict[int, str | None]:
    return {task.id: None if task.label is None else case.class_names[task.label] for task in book.tasks(case.id)}


def test_out_to_label_studio_and_back_the_labels_are_the_same(
    api: httpx.Client, sqlite_book: CaseBook, case: Case
) -> None:
    exported = api.get(f"/api/cases/{case.id}/export/label-studio")
    assert exported.headers["x-fieldrepair-left-out"] == "1"  # a2 is not in the log
    tasks = exported.json()
    assert len(tasks) == 6
    assert all(task["data"]["image"].startswith("data:image/png;base64,iVBORw0KGgo") for task in tasks)
    given = {task["data"]["fieldrepair_task"]: case.class_names[n % 3] for n, task in enumerate(tasks)}
    file = json.dumps(annotated(tasks, given), indent=2)
    assert _upload(api, case, file).json() == {"stored": 6, "repeated": 0, "ignored": None}
    assert {task: label for task, label in _labels(sqlite_book, case).items() if label} == given
    assert {answer.labeller for answer in sqlite_book.answers(case.id)} == {"ann@example.org"}
    assert sqlite_book.audit_trail(1)[0].action == "import"
    # The same file again changes nothing, and what comes out now carries the labels.
    assert _upload(api, case, file).json() == {"stored": 0, "repeated": 6, "ignored": None}
    again = api.get(f"/api/cases/{case.id}/export/label-studio").json()
    assert {task["id"]: task["annotations"][0]["result"][0]["value"]["choices"][0] for task in again} == given


def test_a_cancelled_annotation_is_a_skip_and_numbers_of_people_get_a_name(
    api: httpx.Client, sqlite_book: CaseBook, case: Case
) -> None:
    first, second = sqlite_book.tasks(case.id)[:2]
    file: list[dict[str, Any]] = [
        {"data": {"fieldrepair_task": first.id}, "annotations": [{"was_cancelled": True, "result": []}]},
        {
            "data": {"fieldrepair_task": second.id},
            "annotations": [{"completed_by": 7, "result": [{"type": "choices", "value": {"choices": ["7"]}}]}],
        },
    ]
    assert _upload(api, case, json.dumps(file)).json()["stored"] == 2
    assert [(a.labeller, a.verdict, a.label) for a in sqlite_book.answers(case.id)] == [
        ("label-studio", "skip", None),
        ("label-studio:7", "label", 2),
    ]


def _good(task_id: int, choice: str = "cat") -> str:
    value = {"type": "choices", "value": {"choices": [choice]}}
    return json.dumps({"data": {"fieldrepair_task": task_id}, "annotations": [{"result": [value]}]})


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("{not json}", "line 3: this is no JSON"),
        ('"text"', "line 3: task 2 of the list: it: Input should be a valid dictionary"),
        ('{"data": {}}', "line 3: task 2 of the list: data.fieldrepair_task: Field required"),
        ('{"data": {"fieldrepair_task": "1"}}', "line 3: task 2 of the list: data.fieldrepair_task"),
        (_good(1).replace("choices", "boxes"), "line 3: task 2 of the list: annotations.0.result.0.type"),
        (
            '{"data": {"fieldrepair_task": 2}, "annotations": [{"result": []}]}',
            "line 3: the annotation of task 2 has no",
        ),
        (_good(2, "whale"), "line 3: 'whale' is none of the classes"),
        (_good(99), "line 3: there is no task 99"),
        (_good(1, "dog"), "line 3: task 1 already has the label 'cat'"),
        ("[" * 5000, "line 3: this is"),
    ],
)
def test_wrong_json_is_refused_with_its_line_and_leaves_nothing(
    api: httpx.Client, sqlite_book: CaseBook, case: Case, second: str, message: str
) -> None:
    answer = _upload(api, case, f"[\n{_good(1)},\n{second}\n]")
    assert (answer.status_code, answer.json()["error"]) == (422, "BadUpload")
    assert message in answer.json()["detail"]
    assert answer.json()["detail"].endswith("; nothing was imported")
    assert sqlite_book.answers(case.id) == []
    assert sqlite_book.audit_trail() == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "line 1: expected a JSON list"),
        (b'{"data": 1}', "line 1: expected a JSON list"),
        (b"[1 2]", "line 1: task 1"),
        (b"[] x", "line 1: there is something after"),
        (b'\n\n[\xff"]', "line 3: this is no UTF-8"),
    ],
)
def test_what_is_no_list_of_tasks_is_refused(api: httpx.Client, case: Case, text: bytes, message: str) -> None:
    answer = _upload(api, case, text)
    assert answer.status_code == 422
    assert message in answer.json()["detail"]


def test_the_webhook_takes_created_annotations(api: httpx.Client, sqlite_book: CaseBook, case: Case) -> None:
    task = sqlite_book.tasks(case.id)[0]
    url = f"/api/cases/{case.id}/label-studio/webhook"
    event = {
        "action": "ANNOTATION_CREATED",
        "annotation": json.loads(_good(task.id))["annotations"][0],
        "project": {"id": 1, "title": "case"},
        "task": {"id": 11, "data": {"fieldrepair_task": task.id}},
    }
    assert api.post(url, json=event).json() == {"stored": 1, "repeated": 0, "ignored": None}
    assert api.post(url, json=event).json() == {"stored": 0, "repeated": 1, "ignored": None}
    other = {"action": "PROJECT_UPDATED", "project": {"id": 1}}
    assert api.post(url, json=other).json() == {"stored": 0, "repeated": 0, "ignored": "PROJECT_UPDATED"}
    assert api.post(url, json={**event, "task": None}).status_code == 422
    assert _labels(sqlite_book, case)[task.id] == "cat"


def test_csv_out_and_in(api: httpx.Client, sqlite_book: CaseBook, case: Case) -> None:
    text = api.get(f"/api/cases/{case.id}/export/csv").text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [int(row["task_id"]) for row in rows] == [task.id for task in sqlite_book.tasks(case.id)]
    for number, row in enumerate(rows[:5]):
        row["label"], row["labeller"] = case.class_names[number % 3], "bob"
    rows[5]["state"] = "not_sure"
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    assert _upload(api, case, buffer.getvalue().encode("utf-8-sig"), "csv").json()["stored"] == 6
    assert list(_labels(sqlite_book, case).values()) == ["cat", "dog", "7", "cat", "dog", None, None]
    assert sqlite_book.tasks(case.id)[5].reason == "not_sure"
    assert sqlite_book.tasks(case.id)[6].state == "open"


def test_class_names_that_look_like_formulas_survive_a_spreadsheet(
    api: httpx.Client, sqlite_book: CaseBook, open_case: OpenCase, plan: Callable[..., Case]
) -> None:
    case = plan(sqlite_book, open_case(sqlite_book, class_names=['=HYPERLINK("http://x")', "-1", "'quoted"]).id)
    tasks = sqlite_book.tasks(case.id)
    for task, label in zip(tasks, case.class_names, strict=False):
        sqlite_book.submit(task.id, label, "ann")
    text = api.get(f"/api/cases/{case.id}/export/csv").text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["label"] for row in rows[:3]] == ['\'=HYPERLINK("http://x")', "'-1", "'quoted"]
    assert _upload(api, case, text, "csv").json() == {"stored": 0, "repeated": 3, "ignored": None}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected the columns task_id, label"),
        ("task,label\n1,cat\n", r"line 1: expected the columns task_id, label in the first line; missing: ['task_id']"),
        ("task_id,label\n1,cat\nx,dog\n", "line 3: task_id is the number of a question, got 'x'"),
        ("task_id,label\n1,cat\n2,dog,3\n", "line 3: expected 2 cells"),
        ("task_id,label\n1,cat\n2,whale\n", "line 3: 'whale' is none of the classes"),
        ('task_id,label\n1,cat\n2,"dog\n', "this is no CSV"),
        ("task_id,label\n1,cat\n99999999999999999999,dog\n", "line 3: task_id is the number"),
    ],
)
def test_wrong_csv_is_refused_with_its_line_and_leaves_nothing(
    api: httpx.Client, sqlite_book: CaseBook, case: Case, text: str, message: str
) -> None:
    answer = _upload(api, case, text, "csv")
    assert answer.status_code == 422
    assert message in answer.json()["detail"]
    assert sqlite_book.answers(case.id) == []


def test_the_labelling_interface_names_every_class(
    api: httpx.Client, sqlite_book: CaseBook, open_case: OpenCase
) -> None:
    case = open_case(sqlite_book, class_names=["a<b", 'say "hi"'])
    text = api.get(f"/api/cases/{case.id}/export/label-studio-config").text
    assert '<Choice value="a&lt;b"/>' in text
    assert "<Choice value='say \"hi\"'/>" in text


def test_ground_truth_comes_in_batches_and_unknown_ids_wait(api: httpx.Client, sqlite_book: CaseBook) -> None:
    labels = [
        {"client_request_id": "order-1", "label": "cat"},
        {"client_request_id": "order-1", "row": 1, "label": "7"},
    ]
    batch = {"labels": labels, "source": "returns desk"}
    assert api.post("/api/labels", json=batch).json() == {"stored": 2, "repeated": 0, "replaced": 0, "unknown": 2}
    assert api.post("/api/labels", json=batch).json()["repeated"] == 2
    assert sqlite_book.ground_truth(["order-1"])["order-1", 1].source == "returns desk"
    assert len(sqlite_book.audit_trail()) == 1  # repeating is nothing to note
    refused: list[dict[str, Any]] = [{"labels": []}, {"labels": [{"label": "cat"}]}, {"labels": [*labels, labels[0]]}]
    for wrong in refused:
        assert api.post("/api/labels", json=wrong).status_code == 422


def test_labels_come_in_by_a_labellers_token_under_the_name_it_speaks_for(
    sqlite_book: CaseBook,
    case: Case,
    log_inputs: Callable[..., FieldLog],
    serve: Callable[[FastAPI], httpx.Client],
) -> None:
    app = FastAPI()
    tokens = {role: f"the-{role}s-secret-token" for role in Role}
    app.state.security = Security(tokens)
    app.include_router(case_router(sqlite_book, log_inputs([])), prefix="/api", dependencies=[Depends(api_guard)])
    install_error_handlers(app)
    client = serve(app)
    task = sqlite_book.tasks(case.id)[0]
    event = {
        "action": "ANNOTATION_CREATED",
        "annotation": json.loads(_good(task.id))["annotations"][0],
        "task": {"data": {"fieldrepair_task": task.id}},
    }
    url = f"/api/cases/{case.id}/label-studio/webhook"
    assert client.post(url, json=event).status_code == 401
    for role, status in ((Role.VIEWER, 403), (Role.LABELLER, 200)):
        headers = {"authorization": f"Bearer {tokens[role]}"}
        assert client.post(url, json=event, headers=headers).status_code == status
    assert [(e.actor, e.role, e.action) for e in sqlite_book.audit_trail()] == [
        ("label-studio", "labeller", "import"),
        ("label-studio", "labeller", "label"),
    ]
