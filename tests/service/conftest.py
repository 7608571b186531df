"""Real databases, a real field log and a real server for the service's tests."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import numpy.typing as npt
import psycopg
import pyarrow as pa
import pytest
import uvicorn
from fastapi import FastAPI

from fieldrepair_service.case_book import Case, CaseBook, NewDriftEvent, NewTask, WindowRecord, open_case_book
from fieldrepair_service.field_log import FIELD_LOG_SCHEMA, FieldLog
from fieldrepair_service.inputs import ImageInput
from tests.servers import postgresql_programs, running_postgresql

_names = itertools.count()


# -- databases ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgresql_server() -> Generator[str]:
    """URL of an empty database on a throwaway PostgreSQL cluster on 127.0.0.1."""
    programs = postgresql_programs()
    if programs is None:
        pytest.skip("needs PostgreSQL's server programs (initdb, pg_ctl); install the package postgresql")
    with running_postgresql(programs) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def case_book_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database, once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'case_book.db'}"
    server: str = request.getfixturevalue("postgresql_server")
    name = f"book_{next(_names)}"  # a schema, not a database: that would be a thousand files per test
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}".encode())
    return f"{server}?options=-csearch_path%3D{name}"


@pytest.fixture
def clock() -> SimpleNamespace:
    """A clock that stands still; move it by changing ``clock.ms``."""
    return SimpleNamespace(ms=1_700_000_000_000)


@pytest.fixture
def book(case_book_url: str, clock: SimpleNamespace) -> Generator[CaseBook]:
    """An empty case book on each database, on the clock that stands still."""
    with open_case_book(case_book_url, clock=lambda: clock.ms) as opened:
        yield opened


@pytest.fixture
def sqlite_book(tmp_path: Path, clock: SimpleNamespace) -> Generator[CaseBook]:
    """An empty case book on SQLite alone, where the database makes no difference."""
    with open_case_book(f"sqlite:///{tmp_path / 'case_book.db'}", clock=lambda: clock.ms) as opened:
        yield opened


# -- contents ----------------------------------------------------------------------------------------------------


@pytest.fixture
def make_window() -> Callable[..., WindowRecord]:
    """Makes the window of an index; keywords change its other fields."""

    def make(index: int, **changes: object) -> WindowRecord:
        fields: dict[str, object] = {
            "first_timestamp_ms": 1000 * index,
            "last_timestamp_ms": 1000 * index + 999,
            "size": 100,
            "detector": "mmd",
            "statistic": 0.25,
            "threshold": 0.1,
            "p_value": 0.001,
            "drifted": True,
            "estimated_accuracy": 0.75,
        }
        return WindowRecord(index=index, **{**fields, **changes})  # type: ignore[arg-type]

    return make


@pytest.fixture
def make_event() -> Callable[..., NewDriftEvent]:
    """Makes a new drift event; keywords change its fields."""

    def make(**changes: object) -> NewDriftEvent:
        fields: dict[str, object] = {
            "model_name": "digits",
            "model_version": "3",
            "detector": "mmd",
            "statistic": 0.25,
            "p_value": 0.001,
            "threshold": 0.1,
            "window_index": 2,
            "cursor_start": {"w1": (10, 0)},
            "field_inputs_until_alert": 200,
            "estimated_accuracy": 0.75,
            "reference_accuracy": 0.98,
            "summary": "2 of the last 3 windows differ",
            "class_names": ["cat", "dog", "7"],
            "input_spec": ImageInput(height=4, width=6).model_dump(mode="json"),
        }
        return NewDriftEvent(**{**fields, **changes})  # type: ignore[arg-type]

    return make


@pytest.fixture
def open_case(
    make_window: Callable[..., WindowRecord], make_event: Callable[..., NewDriftEvent]
) -> Callable[..., Case]:
    """Opens a case the way the monitor does: by recording a window with a drift event. Each call a new model."""

    def make(book: CaseBook, **changes: object) -> Case:
        changes = {"model_name": f"model-{next(_names)}", **changes}
        event = make_event(**changes)
        opened = book.record_windows(event.model_name, event.model_version, {"w1": (20, 0)}, [make_window(0)], event)
        assert opened is not None
        return book.case(opened.case_id)

    return make


@pytest.fixture
def plan() -> Callable[..., Case]:
    """Plans a case: ``repair`` and ``acceptance`` tasks, of requests named r0, r1, ... and a0, a1, ..."""

    def make(book: CaseBook, case_id: int, repair: int = 4, acceptance: int = 3, prefix: str = "") -> Case:
        tasks = [NewTask(f"{prefix}r{i}", i, "repair", rank=i, region=i) for i in range(repair)]
        tasks += [NewTask(f"{prefix}a{i}", i, "acceptance", rank=i) for i in range(acceptance)]
        return book.plan_case(case_id, tasks, repair, acceptance, {"w1": (20, 0)}, "waiting for labels")

    return make


@pytest.fixture
def log_inputs(tmp_path: Path) -> Callable[..., FieldLog]:
    """Writes field inputs, given as (request_id, row, instance), into a new field log, of a given class if need be."""

    def write(inputs: Sequence[tuple[str, int, npt.NDArray[np.generic]]], kind: type[FieldLog] = FieldLog) -> FieldLog:
        log = kind.open(tmp_path / f"field_log_{next(_names)}")
        rows = [
            {
                "writer": "w1",
                "seq": seq,
                "row": row,
                "request_id": request_id,
                "timestamp_ms": seq,
                "date": "1970-01-01",
                "model_name": "digits",
                "model_version": "3",
                "protocol": "mlflow",
                "status_code": 200,
                "execution_time_ms": 1.0,
                "sampling_fraction": 1.0,
                "input": instance.astype(instance.dtype.newbyteorder("<")).tobytes(),
                "dtype": instance.dtype.name,
                "shape": list(instance.shape),
            }
            for seq, (request_id, row, instance) in enumerate(inputs)
        ]
        log.append(pa.Table.from_pylist(rows, schema=FIELD_LOG_SCHEMA), writer="w1", last_seq=len(rows))
        return log

    return write


# -- servers -----------------------------------------------------------------------------------------------------


@pytest.fixture
def serve() -> Generator[Callable[[FastAPI], httpx.Client]]:
    """Serves applications with uvicorn on free ports of 127.0.0.1; gives a client for each."""
    started: list[tuple[uvicorn.Server, threading.Thread, httpx.Client]] = []

    def start(app: FastAPI) -> httpx.Client:
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none", lifespan="off"))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the server ended before it started"
            time.sleep(0.005)
        client = httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=30)
        started.append((server, thread, client))
        return client

    yield start
    for server, thread, client in started:
        client.close()
        server.should_exit = True
        thread.join(timeout=30)
        assert not thread.is_alive()
