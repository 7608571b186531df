"""What happens to a case when its worker is stopped, killed, or loses what it works with. Serving is never involved."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from mlflow import MlflowClient

from fieldrepair_plugin.processes import child_environment
from fieldrepair_plugin.settings import WorkerSettings
from fieldrepair_plugin.worker import Worker
from fieldrepair_service.case_book import Case, CaseState

if TYPE_CHECKING:
    from tests.plugin.conftest import Field

pytestmark = pytest.mark.timeout(600)

SETTINGS = {
    "POOL_MINIMUM": 120,
    "ACCEPTANCE_SIZE": 40,
    "LABEL_FRACTION": 0.15,
    "EPOCHS": 20,
    "MARGIN": 0.1,
    "CASE_POLL_SECONDS": 0.2,
    "LEASE_SECONDS": 5,
    "REPAIR_THREADS": 1,
    "WORKER_ONCE": "false",
}


class WorkerProcess:
    """``fieldrepair worker`` on the field's stores."""

    def __init__(self, field: Field) -> None:
        self._field = field
        self._log = field.folder / "worker.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, **settings: object) -> None:
        chosen = {**SETTINGS, "STATE_DIR": self._field.folder, **settings}
        environment = child_environment(**{f"FIELDREPAIR_{name}": str(value) for name, value in chosen.items()})
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fieldrepair_service.cli", "worker"], env=environment, stdout=log, stderr=log
            )

    def end(self, number: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(60)

    def wait_for(self, case_id: int, what: Callable[[Case], bool]) -> Case:
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            case = self._field.book.case(case_id)
            if what(case):
                return case
            assert self.process is None or self.process.poll() is None, self.log
            time.sleep(0.05)
        raise AssertionError(f"{self._field.book.case(case_id)}\n{self.log}")

    @property
    def log(self) -> str:
        return self._log.read_text()


@pytest.fixture
def worker(field: Field) -> Iterator[WorkerProcess]:
    worker = WorkerProcess(field)
    yield worker
    if worker.process is not None and worker.process.poll() is None:
        worker.process.kill()
        worker.process.wait()


@pytest.fixture
def labelled_case(field: Field) -> int:
    """A case whose labels are all in and whose training has not begun."""
    field.send(150)
    case_id = field.open_case()
    settings = WorkerSettings(
        state_dir=field.folder,
        **{name.lower(): value for name, value in SETTINGS.items()},  # type: ignore[arg-type]
    )
    worker = Worker(settings, field.book, field.log, worker_id="planner", stop=threading.Event())
    assert worker.round()
    field.answer(case_id)
    return case_id


def in_training(case: Case) -> bool:
    epoch = case.progress.get("epoch")
    return case.state is CaseState.TRAINING and isinstance(epoch, int) and epoch >= 2


def epochs_logged(case: Case) -> list[int]:
    return [metric.step for metric in MlflowClient().get_metric_history(case.run_id or "", "total_unsmoothness")]


def checkpoint(field: Field, case_id: int) -> Path:
    return field.folder / "cases" / str(case_id) / "attempt-1" / "checkpoint.pt"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_training_goes_on_where_it_was_stopped(
    field: Field, worker: WorkerProcess, labelled_case: int, number: signal.Signals
) -> None:
    worker.start()
    stopped = worker.wait_for(labelled_case, in_training)
    assert worker.end(number) == (0 if number is signal.SIGINT else -signal.SIGKILL)

    case = field.book.case(labelled_case)
    assert case.state is CaseState.TRAINING
    assert checkpoint(field, labelled_case).exists()
    if number is signal.SIGINT:
        assert case.claimed_by is None
        assert MlflowClient().get_run(case.run_id or "").info.status == "KILLED"

    worker.start()
    case = worker.wait_for(labelled_case, lambda case: case.state is not CaseState.TRAINING)
    assert case.state is CaseState.ACCEPTED, case.reason
    assert "continuing the repair after epoch" in worker.log
    assert case.run_id == stopped.run_id
    # Every epoch is in the run once, whichever process trained it.
    assert sorted(epochs_logged(case)) == list(range(1, 21))
    assert MlflowClient().get_run(case.run_id or "").info.status == "FINISHED"
    assert len(MlflowClient().search_model_versions(f"name = '{field.name}'")) == 2
    assert len(field.book.labels(labelled_case, "repair")) == 22
    assert len(field.book.labels(labelled_case, "acceptance")) == 40


def test_a_case_without_its_model_version_is_dismissed(field: Field, worker: WorkerProcess, labelled_case: int) -> None:
    MlflowClient().delete_model_version(field.name, field.version)
    worker.start()
    case = worker.wait_for(labelled_case, lambda case: case.state is CaseState.DISMISSED)
    assert "the model version is not in the registry any more" in case.reason
    assert f"models:/{field.name}/1" in case.reason
    assert worker.end(signal.SIGTERM) == 0
    # What people and clients gave is still there.
    assert len(field.book.labels(labelled_case, "repair")) == 22
    assert field.log.count(model_name=field.name) == 150


def test_a_version_deleted_in_the_middle_of_training(field: Field, worker: WorkerProcess, labelled_case: int) -> None:
    worker.start()
    worker.wait_for(labelled_case, in_training)
    MlflowClient().delete_model_version(field.name, field.version)
    case = worker.wait_for(labelled_case, lambda case: case.state is not CaseState.TRAINING)
    assert case.state is CaseState.DISMISSED, case.reason
    assert worker.end(signal.SIGTERM) == 0


def test_a_failure_that_waiting_does_not_mend_ends_in_a_rejection(
    field: Field, worker: WorkerProcess, labelled_case: int
) -> None:
    plan = field.folder / "cases" / str(labelled_case) / "attempt-1" / "plan.json"
    plan.write_text("{")
    worker.start(TRAINING_ATTEMPTS=2)
    case = worker.wait_for(labelled_case, lambda case: case.state is CaseState.REJECTED)
    assert case.reason.startswith("failed 2 times, the last time with InputError:")
    assert "plan.json is not a plan that can be read" in case.reason
    # The worker itself goes on.
    assert worker.process is not None
    assert worker.process.poll() is None
    assert worker.end(signal.SIGTERM) == 0


def test_another_workers_case_is_left_alone(field: Field, worker: WorkerProcess, labelled_case: int) -> None:
    """Nothing but the end of the other's lease sets the case free."""
    assert field.book.claim(labelled_case, "somebody else", 3600.0)
    worker.start()
    worker.wait_for(labelled_case, lambda _: "works the cases of" in worker.log)
    time.sleep(2.0)  # some rounds
    assert field.book.case(labelled_case).state is CaseState.ANNOTATING
    field.book.release(labelled_case, "somebody else")
    worker.wait_for(labelled_case, lambda case: case.state is CaseState.ACCEPTED)
    assert worker.end(signal.SIGTERM) == 0


def test_a_dismissed_case_is_not_trained_any_further(field: Field, worker: WorkerProcess, labelled_case: int) -> None:
    worker.start()
    worker.wait_for(labelled_case, in_training)
    field.book.transition(labelled_case, CaseState.DISMISSED, "the camera was moved back", actor="ann")
    deadline = time.monotonic() + 60
    while "left as it is" not in worker.log and time.monotonic() < deadline:
        time.sleep(0.1)
    assert f"case {labelled_case} went from training to dismissed meanwhile" in worker.log
    assert field.book.case(labelled_case).state is CaseState.DISMISSED
    assert len(MlflowClient().search_model_versions(f"name = '{field.name}'")) == 1
    assert worker.end(signal.SIGTERM) == 0
