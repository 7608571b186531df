"""The case book over HTTP, from a real server: what a labelling page and a console do."""

from __future__ import annotations

import io
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import psycopg
import pytest
from fastapi import FastAPI, HTTPException
from PIL import Image

from fieldrepair_service import errors
from fieldrepair_service.api import MAX_BODY_BYTES, case_router
from fieldrepair_service.case_book import (
    Case,
    CaseBook,
    CaseState,
    NewDriftEvent,
    Purpose,
    WindowRecord,
    open_case_book,
)
from fieldrepair_service.field_log import FieldLog
from fieldrepair_service.http_errors import STATUS, install_error_handlers, status_of
from fieldrepair_service.inputs import ImageInput

OpenCase = Callable[..., Case]
Plan = Callable[..., Case]
Serve = Callable[[FastAPI], httpx.Client]

SPEC = ImageInput(height=4, width=6)  # as in the fixture make_event


def _instance(value: int) -> npt.NDArray[np.float32]:
    return np.full(SPEC.shape, value / 255, dtype=np.float32)


def _app(book: CaseBook, log: FieldLog) -> FastAPI:
    app = FastAPI()
    app.include_router(case_router(book, log), prefix="/api")
    install_error_handlers(app)
    return app


@pytest.fixture
def book(sqlite_book: CaseBook) -> CaseBook:
    """The routes are the same on every database; the book's own tests and the fuzz test cover both."""
    return sqlite_book


@pytest.fixture
def log(log_inputs: Callable[..., FieldLog]) -> FieldLog:
    """Holds the inputs of the plans made here, but that of task r3."""
    repair = [(f"r{i}", i, _instance(10 + i)) for i in range(3)]
    return log_inputs(repair + [(f"a{i}", i, _instance(100 + i)) for i in range(3)])


@pytest.fixture
def api(book: CaseBook, log: FieldLog, serve: Serve) -> httpx.Client:
    return serve(_app(book, log))


@pytest.fixture
def case(book: CaseBook, open_case: OpenCase, plan: Plan) -> Case:
    """A planned case: tasks r0..r3, a0..a2; classes cat, dog, 7."""
    return plan(book, open_case(book).id)


def _get(api: httpx.Client, path: str, **params: Any) -> Any:
    answer = api.get(path, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def _post(api: httpx.Client, path: str, **body: Any) -> Any:
    answer = api.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def _refused(answer: httpx.Response, status: int, error: str, *words: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body["error"] == error
    for word in words:
        assert word in body["detail"]
    return body


# -- cases -------------------------------------------------------------------------------------------------------


def test_cases_are_listed_newest_first_and_by_state(api: httpx.Client, book: CaseBook, open_case: OpenCase) -> None:
    assert _get(api, "/api/cases") == []
    first, second = open_case(book), open_case(book)
    book.transition(first.id, "training")
    assert [case["id"] for case in _get(api, "/api/cases")] == [second.id, first.id]
    assert [case["id"] for case in _get(api, "/api/cases", state="training")] == [first.id]
    assert [case["id"] for case in _get(api, "/api/cases", limit=1)] == [second.id]
    _refused(api.get("/api/cases", params={"state": "asleep"}), 422, "InvalidRequest", "query.state", "'annotating'")


def test_a_case_shows_all_but_what_tasks_are_for(api: httpx.Client, book: CaseBook, case: Case) -> None:
    book.update_case(case.id, acceptance={"accepted": True}, progress={"epoch": 1}, run_id="abc")
    shown = _get(api, f"/api/cases/{case.id}")
    assert shown["state"] == "annotating"
    assert shown["tasks"] == {"open": 7, "labelled": 0, "skipped": 0, "total": 7}
    assert shown["class_names"] == ["cat", "dog", "7"]
    assert (shown["note"], shown["budget"], shown["acceptance_size"]) == ("waiting for labels", 4, 3)
    assert (shown["acceptance"], shown["progress"], shown["run_id"]) == ({"accepted": True}, {"epoch": 1}, "abc")
    assert shown == _get(api, "/api/cases")[0]


def test_an_approval_is_shown_with_its_case(
    api: httpx.Client, book: CaseBook, case: Case, clock: SimpleNamespace
) -> None:
    book.transition(case.id, CaseState.TRAINING, "all labels are in", actor="worker")
    book.update_case(case.id, candidate_version="4")
    book.transition(case.id, CaseState.ACCEPTED, "better", actor="worker")
    assert api.get(f"/api/cases/{case.id}").json()["approval"] is None
    book.approve(case.id, "Ann", "approver", "fewer mistakes")
    shown = api.get(f"/api/cases/{case.id}").json()["approval"]
    assert shown == {"by": "Ann", "at_ms": clock.ms, "version": "4", "moved_ms": None, "problem": ""}
    assert [one["approval"] for one in api.get("/api/cases", params={"state": "accepted"}).json()] == [shown]


def test_dismissing_a_case_is_in_its_history(api: httpx.Client, case: Case, clock: SimpleNamespace) -> None:
    path = f"/api/cases/{case.id}"
    assert _post(api, f"{path}/dismiss", reason=" a false alarm ", actor="ann")["state"] == "dismissed"
    opening, dismissed = _get(api, f"{path}/history")
    assert (opening["from_state"], opening["to_state"], opening["actor"]) == (None, "annotating", "monitor")
    assert dismissed == {
        "at_ms": clock.ms,
        "from_state": "annotating",
        "to_state": "dismissed",
        "reason": "a false alarm",
        "actor": "ann",
    }
    _refused(api.post(f"{path}/dismiss", json={"reason": "again"}), 409, "IllegalTransition", "dismissed is final")


def test_a_rejected_case_is_tried_again(api: httpx.Client, book: CaseBook, case: Case) -> None:
    path = f"/api/cases/{case.id}/retry"
    for state in ("annotating", "training"):
        _refused(api.post(path, json={"reason": "x"}), 409, "Conflict", f"case {case.id} is {state}")
        book.transition(case.id, "training" if state == "annotating" else "rejected")
    retried = _post(api, path, reason="more labels", actor="ann")
    assert (retried["state"], retried["attempt"], retried["tasks"]["total"]) == ("annotating", 2, 0)
    assert _get(api, f"/api/cases/{case.id}/history")[-1]["actor"] == "ann"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/cases/77/retry", {"reason": "x"}),
        ("GET", "/api/cases/77", None),
        ("GET", "/api/cases/77/history", None),
        ("GET", "/api/cases/77/tasks/next?labeller=ann", None),
        ("POST", "/api/cases/77/dismiss", {"reason": "x"}),
        ("GET", "/api/tasks/77/image.png", None),
        ("POST", "/api/tasks/77/label", {"label": 0, "labeller": "ann"}),
        ("POST", "/api/tasks/77/skip", {"labeller": "ann"}),
        ("POST", "/api/tasks/77/undo", {"labeller": "ann"}),
    ],
)
def test_unknown_ids_are_not_found(api: httpx.Client, method: str, path: str, body: dict[str, Any] | None) -> None:
    _refused(api.request(method, path, json=body), 404, "NotInCaseBook", "77")


# -- labelling ---------------------------------------------------------------------------------------------------


def test_a_labeller_works_through_a_case(api: httpx.Client, book: CaseBook, case: Case) -> None:
    path = f"/api/cases/{case.id}/tasks/next"
    for number in range(7):
        task = _get(api, path, labeller="ann")
        assert set(task) == {
            "task_id",
            "case_id",
            "image_url",
            "class_names",
            "key",
            "position",
            "remaining",
            "total",
            "leased_until_ms",
        }
        assert (task["remaining"], task["total"]) == (7 - number, 7)
        assert task["image_url"] == f"/api/tasks/{task['task_id']}/image.png"
        assert tuple(task["key"]) in {(f"{kind}{i}", i) for kind in "ra" for i in range(4)}
        decided = _post(api, f"/api/tasks/{task['task_id']}/label", label=number % 3, labeller="ann")
        assert (decided["state"], decided["label"], decided["labeller"]) == ("labelled", number % 3, "ann")
        assert (decided["class_name"], decided["remaining"]) == (["cat", "dog", "7"][number % 3], 6 - number)
    done = api.get(path, params={"labeller": "ann"})
    assert (done.status_code, done.content) == (204, b"")
    assert book.task_counts(case.id).ready
    assert len(book.labels(case.id, Purpose.REPAIR)) == 4


def test_what_a_task_is_for_is_nowhere(api: httpx.Client, case: Case) -> None:
    """A labeller who knew could be kinder to acceptance tasks."""
    handed_out = api.get(f"/api/cases/{case.id}/tasks/next?labeller=ann")
    path = f"/api/tasks/{handed_out.json()['task_id']}"
    labelled = api.post(f"{path}/label", json={"label": 0, "labeller": "ann"})
    undone = api.post(f"{path}/undo", json={"labeller": "ann"})
    for answer in (handed_out, labelled, undone):
        assert answer.status_code == 200
        for word in ("purpose", "repair", "acceptance", "region", "rank", "predict", "score"):
            assert word not in answer.text


def test_second_label_skip_and_undo(api: httpx.Client, case: Case) -> None:
    task = _get(api, f"/api/cases/{case.id}/tasks/next", labeller="ann")
    path = f"/api/tasks/{task['task_id']}"
    first = _post(api, f"{path}/label", label="dog", labeller="ann")
    assert _post(api, f"{path}/label", label=1, labeller="ann") == first
    body = _refused(
        api.post(f"{path}/label", json={"label": "cat", "labeller": "bob"}), 409, "AlreadyLabelled", "'dog' from 'ann'"
    )
    assert (body["label"], body["class_name"], body["labeller"]) == (1, "dog", "ann")
    _refused(api.post(f"{path}/skip", json={"labeller": "bob"}), 409, "AlreadyLabelled")
    _refused(api.post(f"{path}/undo", json={"labeller": "bob"}), 409, "NotYourTask", "labelled by 'ann'")
    undone = _post(api, f"{path}/undo", labeller="ann")
    assert (undone["state"], undone["label"], undone["class_name"], undone["labeller"]) == ("open", None, None, None)
    assert _post(api, f"{path}/skip", labeller="ann")["state"] == "skipped"
    assert _get(api, f"/api/cases/{case.id}")["tasks"] == {"open": 6, "labelled": 0, "skipped": 1, "total": 7}


def test_labels_after_annotating_are_refused(api: httpx.Client, book: CaseBook, case: Case) -> None:
    task = _get(api, f"/api/cases/{case.id}/tasks/next", labeller="ann")
    book.transition(case.id, "training")
    answer = api.post(f"/api/tasks/{task['task_id']}/label", json={"label": 0, "labeller": "ann"})
    _refused(answer, 409, "CaseNotAnnotating", f"case {case.id} is training")
    assert api.get(f"/api/cases/{case.id}/tasks/next?labeller=ann").status_code == 204


@pytest.mark.parametrize("label", ["bird", "0", 3, 10**30])
def test_unknown_classes_are_refused_with_the_known_ones(api: httpx.Client, case: Case, label: int | str) -> None:
    task = _get(api, f"/api/cases/{case.id}/tasks/next", labeller="ann")
    answer = api.post(f"/api/tasks/{task['task_id']}/label", json={"label": label, "labeller": "ann"})
    _refused(answer, 422, "UnknownClass", "['cat', 'dog', '7']")


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"label": True, "labeller": "ann"}, "body.label"),
        ({"label": -1, "labeller": "ann"}, "body.label"),
        ({"label": 0.5, "labeller": "ann"}, "body.label"),
        ({"label": None, "labeller": "ann"}, "body.label"),
        ({"label": "x" * 1001, "labeller": "ann"}, "body.label"),
        ({"label": 0}, "body.labeller"),
        ({"label": 0, "labeller": " "}, "body.labeller"),
        ({"label": 0, "labeller": "a\0b"}, "body.labeller"),
        ({"label": 0, "labeller": "x" * 201}, "body.labeller"),
        ({"label": 0, "labeller": "ann", "purpose": "repair"}, "body.purpose"),
        ([], "body"),
    ],
)
def test_bodies_that_are_wrong_are_explained(api: httpx.Client, case: Case, body: Any, where: str) -> None:
    task = _get(api, f"/api/cases/{case.id}/tasks/next", labeller="ann")
    _refused(api.post(f"/api/tasks/{task['task_id']}/label", json=body), 422, "InvalidRequest", where)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 10_000, b'{"label": 0, "labeller": "\\ud800"}'])
def test_bodies_that_are_not_json_are_refused(api: httpx.Client, case: Case, content: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = api.post("/api/tasks/1/label", content=content, headers=headers)
    assert answer.status_code in (400, 422)
    assert set(answer.json()) == {"error", "detail"}


@pytest.mark.parametrize("chunked", [False, True])
def test_large_bodies_are_refused(api: httpx.Client, chunked: bool) -> None:
    content = b'{"reason": "' + b"x" * MAX_BODY_BYTES + b'"}'
    sent = (content[i : i + 1000] for i in range(0, len(content), 1000)) if chunked else content
    answer = api.post("/api/cases/1/dismiss", content=sent, headers={"content-type": "application/json"})
    _refused(answer, 413, "BodyTooLarge", str(MAX_BODY_BYTES))


def test_many_labellers_at_once(api: httpx.Client, book: CaseBook, open_case: OpenCase, plan: Plan) -> None:
    case = plan(book, open_case(book).id, repair=20, acceptance=20)

    def label_all(labeller: str) -> list[int]:
        mine: list[int] = []
        with httpx.Client(base_url=api.base_url, timeout=60) as client:
            while (answer := client.get(f"/api/cases/{case.id}/tasks/next?labeller={labeller}")).status_code == 200:
                mine.append(answer.json()["task_id"])
                _post(client, f"/api/tasks/{mine[-1]}/label", label="cat", labeller=labeller)
            assert answer.status_code == 204, answer.text
        return mine

    with ThreadPoolExecutor(6) as pool:
        handed_out = [task_id for mine in pool.map(label_all, "abcdef") for task_id in mine]
    assert len(handed_out) == len(set(handed_out)) == 40
    assert _get(api, f"/api/cases/{case.id}")["tasks"]["labelled"] == 40


# -- pictures ----------------------------------------------------------------------------------------------------


def _picture(answer: httpx.Response) -> npt.NDArray[np.uint8]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(answer.content)) as picture:
        return np.asarray(picture)


def test_the_picture_of_a_task(api: httpx.Client, book: CaseBook, case: Case) -> None:
    for task in book.tasks(case.id):
        if task.request_id == "r3":
            continue
        value = {"r": 10, "a": 100}[task.request_id[0]] + task.row
        small = _picture(api.get(f"/api/tasks/{task.id}/image.png", params={"scale": 1}))
        np.testing.assert_array_equal(small, np.full((4, 6), value))
        assert _picture(api.get(f"/api/tasks/{task.id}/image.png")).shape == (128, 192)  # 320 / 6 is above 32


def test_a_picture_is_sent_once(api: httpx.Client, book: CaseBook, case: Case) -> None:
    first, second, *_ = (task for task in book.tasks(case.id) if task.request_id != "r3")
    path = f"/api/tasks/{first.id}/image.png"
    answer = api.get(path)
    assert answer.headers["cache-control"] == "private, no-cache"
    etag = answer.headers["etag"]
    again = api.get(path, headers={"if-none-match": etag})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert api.get(path, params={"scale": 2}, headers={"if-none-match": etag}).status_code == 200
    assert api.get(f"/api/tasks/{second.id}/image.png", headers={"if-none-match": etag}).status_code == 200


def test_a_field_input_that_is_gone_is_named(api: httpx.Client, book: CaseBook, case: Case) -> None:
    [gone] = [task for task in book.tasks(case.id) if task.request_id == "r3"]
    _refused(api.get(f"/api/tasks/{gone.id}/image.png"), 404, "ImageUnavailable", "r3", "not in the field log any more")


def test_inputs_that_are_no_images_have_no_picture(
    api: httpx.Client, book: CaseBook, open_case: OpenCase, plan: Plan
) -> None:
    case = plan(book, open_case(book, input_spec={"kind": "table"}).id)
    answer = api.get(f"/api/tasks/{book.tasks(case.id)[0].id}/image.png")
    _refused(answer, 404, "ImageUnavailable", "kind 'table'")


@pytest.mark.parametrize("scale", [0, 33, "big"])
def test_scale_is_bounded(api: httpx.Client, scale: int | str) -> None:
    _refused(api.get("/api/tasks/1/image.png", params={"scale": scale}), 422, "InvalidRequest", "query.scale")


# -- monitoring --------------------------------------------------------------------------------------------------


def test_events_windows_and_streams(
    api: httpx.Client,
    book: CaseBook,
    make_window: Callable[..., WindowRecord],
    make_event: Callable[..., NewDriftEvent],
    clock: SimpleNamespace,
) -> None:
    assert _get(api, "/api/events") == _get(api, "/api/streams") == []
    book.record_windows("digits", "3", {"w1": (20, 0)}, [make_window(i) for i in range(3)], make_event())
    [event] = _get(api, "/api/events")
    assert (event["model_name"], event["summary"], event["ended_ms"]) == (
        "digits",
        "2 of the last 3 windows differ",
        None,
    )
    assert _get(api, "/api/events", model_name="other") == []
    windows = _get(api, "/api/windows", model_name="digits", model_version="3", limit=2)
    assert [window["index"] for window in windows] == [1, 2]
    assert windows[0]["p_value"] == 0.001
    assert _get(api, "/api/streams") == [
        {"model_name": "digits", "model_version": "3", "next_window_index": 3, "updated_ms": clock.ms}
    ]
    _refused(api.get("/api/windows"), 422, "InvalidRequest", "query.model_name", "query.model_version")


# -- errors ------------------------------------------------------------------------------------------------------


def _tree(kind: type[errors.FieldRepairError]) -> Generator[type[errors.FieldRepairError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _tree(child)


def test_every_error_has_a_status() -> None:
    for kind in _tree(errors.FieldRepairError):
        error = kind.__new__(kind)
        assert 400 <= status_of(error) < 600
        if issubclass(kind, errors.Conflict):
            assert status_of(error) == 409
    assert STATUS[errors.FieldRepairError] == 500


def test_errors_outside_the_routes_have_the_same_form(serve: Serve, book: CaseBook, log: FieldLog) -> None:
    app = _app(book, log)

    @app.get("/locked")
    def locked() -> None:
        raise HTTPException(401, "no token", headers={"www-authenticate": "Bearer"})

    @app.get("/broken")
    def broken() -> None:
        raise ZeroDivisionError("secret detail")

    @app.get("/busy")
    def busy() -> None:
        raise errors.StoreUnavailable("the database is busy")

    api = serve(app)
    answer = api.get("/locked")
    _refused(answer, 401, "Unauthorized", "no token")
    assert answer.headers["www-authenticate"] == "Bearer"
    # The server hangs up after an answer like this, so the client must not use the connection again.
    unexpected = api.get("/broken", headers={"connection": "close"})
    assert "secret" not in _refused(unexpected, 500, "InternalServerError", "ZeroDivisionError")["detail"]
    _refused(api.get("/busy"), 503, "StoreUnavailable", "the database is busy")
    _refused(api.get("/nowhere"), 404, "NotFound")
    _refused(api.put("/api/cases"), 405, "MethodNotAllowed")


def test_a_database_that_goes_away_and_comes_back(serve: Serve, log: FieldLog, postgresql_server: str) -> None:
    with psycopg.connect(postgresql_server, autocommit=True) as admin:
        admin.execute("CREATE ROLE visitor LOGIN")
        admin.execute("CREATE SCHEMA visitor AUTHORIZATION visitor")
        url = postgresql_server.replace("tester@", "visitor@") + "?options=-csearch_path%3Dvisitor"
        with open_case_book(url) as book:
            api = serve(_app(book, log))
            assert api.get("/api/cases").status_code == 200
            break_connections = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'visitor'"
            admin.execute(break_connections)
            assert api.get("/api/cases").status_code == 200  # on a new connection
            admin.execute("ALTER ROLE visitor NOLOGIN")
            admin.execute(break_connections)
            _refused(api.get("/api/cases"), 503, "StoreUnavailable", "not permitted to log in")
            admin.execute("ALTER ROLE visitor LOGIN")
            assert api.get("/api/cases").status_code == 200


def test_openapi_documents_every_route_and_its_errors(book: CaseBook, log: FieldLog) -> None:
    document = _app(book, log).openapi()
    operations = [
        (path, method, operation) for path, item in document["paths"].items() for method, operation in item.items()
    ]
    assert len(operations) == 22
    for path, method, operation in operations:
        assert operation["description"], path
        assert {"422", "503"} <= set(operation["responses"]), path
        if "{" in path:
            assert "404" in operation["responses"], path
        if method == "post":
            assert {"409", "413"} <= set(operation["responses"]), path
        for status, answer in operation["responses"].items():
            if status in ("404", "413", "422", "503"):
                assert answer["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorBody"), (path, status)
