"""Whatever a client sends, the answer is one of the documented ones: never a 5xx, always JSON (or a picture)."""

from __future__ import annotations

import json
from collections.abc import Callable
from urllib.parse import quote

import httpx
import numpy as np
import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

from fieldrepair_service.api import case_router
from fieldrepair_service.case_book import Case, CaseBook
from fieldrepair_service.field_log import FieldLog
from fieldrepair_service.http_errors import install_error_handlers
from fieldrepair_service.inputs import ImageInput

_IDS = st.one_of(
    st.integers(0, 8).map(str), st.integers(-(2**70), 2**70).map(str), st.text(max_size=8), st.just("1.5"), st.just("")
)
_WORDS = st.one_of(st.sampled_from(["ann", "cat", "dog", "", " ", "\0", "annotating"]), st.text(max_size=300))
_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 5), st.integers(), st.floats(), _WORDS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_WORDS, inner, max_size=3)),
    max_leaves=8,
)
_NO_KEYS: dict[str, st.SearchStrategy[object]] = {}
_BODIES: st.SearchStrategy[object] = st.one_of(
    st.fixed_dictionaries(_NO_KEYS, optional={"label": _JSON, "labeller": _JSON, "reason": _JSON, "actor": _JSON}),
    _JSON,
    st.fixed_dictionaries({"label": st.sampled_from([0, "cat", 2]), "labeller": st.sampled_from(["ann", "bob"])}),
    st.fixed_dictionaries({"labeller": st.sampled_from(["ann", "bob"])}),
)
_PATHS = st.one_of(
    st.sampled_from(["cases", "events", "windows", "streams"]).map(lambda name: [name]),
    st.tuples(st.just("cases"), _IDS).map(list),
    st.tuples(st.just("cases"), _IDS, st.sampled_from(["history", "dismiss", "retry", "tasks"])).map(list),
    st.tuples(st.just("cases"), _IDS, st.just("tasks"), st.just("next")).map(list),
    st.tuples(st.just("tasks"), _IDS, st.sampled_from(["label", "skip", "undo", "image.png", "input"])).map(list),
    st.tuples(st.just("cases"), _IDS, st.just("labels"), st.sampled_from(["csv", "label-studio"])).map(list),
    st.tuples(st.just("cases"), _IDS, st.just("export"), st.sampled_from(["csv", "label-studio"])).map(list),
    st.tuples(st.just("cases"), _IDS, st.just("label-studio"), st.just("webhook")).map(list),
    st.sampled_from([["labels"], ["openapi.json"]]),
)
_QUERIES = st.dictionaries(
    st.sampled_from(["labeller", "state", "limit", "scale", "model_name", "model_version", "other"]),
    st.one_of(_WORDS, st.integers(-5, 2000).map(str), st.integers().map(str)),
    max_size=3,
)


@pytest.fixture
def app(
    book: CaseBook,
    open_case: Callable[..., Case],
    plan: Callable[..., Case],
    log_inputs: Callable[..., FieldLog],
) -> FastAPI:
    """Three cases: one planned, one not, one whose inputs are no images; some inputs are in the field log."""
    spec = ImageInput(height=4, width=6)
    log = log_inputs([(f"r{i}", i, np.zeros(spec.shape, dtype=np.float32)) for i in range(3)])
    plan(book, open_case(book).id)
    open_case(book)
    plan(book, open_case(book, input_spec={"kind": "table"}).id)
    made = FastAPI()
    made.include_router(case_router(book, log), prefix="/api")
    install_error_handlers(made)
    return made


@pytest.fixture
def api(app: FastAPI, serve: Callable[[FastAPI], httpx.Client]) -> httpx.Client:
    """A client of it, on a real server."""
    return serve(app)


@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    # The book keeps what earlier examples did to it; all the better.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    method=st.sampled_from(["GET", "POST", "POST", "PUT", "DELETE"]),
    path=_PATHS,
    query=_QUERIES,
    body=_BODIES,
    headers=st.sampled_from([{}, {"content-type": "text/plain"}, {"if-none-match": "*"}]),
)
def test_no_request_is_answered_with_a_5xx(
    api: httpx.Client, method: str, path: list[str], query: dict[str, str], body: object, headers: dict[str, str]
) -> None:
    url = "/api/" + "/".join(quote(part, safe="") for part in path)
    content = None if method == "GET" else json.dumps(body)  # as text: with NaN and half surrogate pairs
    headers = {"content-type": "application/json", **headers} if content else headers
    answer = api.request(method, url, params=query, content=content, headers=headers)
    assert answer.status_code < 500, (method, url, query, body, answer.text)
    if answer.status_code >= 400:
        assert {"error", "detail"} <= set(answer.json())
    elif answer.headers.get("content-type") == "image/png":
        assert answer.content.startswith(b"\x89PNG")
    elif answer.headers.get("content-type") == "application/json":
        answer.json()


def test_every_route_answers_as_documented(api: httpx.Client, sqlite_only: None) -> None:
    """No 5xx, and only statuses and content types that the API's own schema promises."""
    schema = schemathesis.openapi.from_url(f"{api.base_url}/api/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) >= 20
    assert {"/api/labels", "/api/cases/{case_id}/labels/csv"} <= {operation.path for operation in operations}
    for operation in operations:
        _try_out(operation)


def _try_out(operation: APIOperation) -> None:
    """Not by schemathesis' own pytest plugin: that one does not know the present pytest."""

    @settings(
        max_examples=12,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )
    @given(case=operation.as_strategy())
    def try_out(case: schemathesis.Case) -> None:
        case.call_and_validate(checks=[not_a_server_error, status_code_conformance, content_type_conformance])

    try_out()


@pytest.fixture
def sqlite_only(request: pytest.FixtureRequest) -> None:
    """The database makes no difference to the schema."""
    if "postgresql" in request.node.name:
        pytest.skip("on SQLite alone")
