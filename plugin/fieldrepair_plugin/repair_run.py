"""The MLflow run of a repair: settings, data, every epoch, the verdict and its pictures, in one place."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast
from urllib.parse import urlsplit

import mlflow
import numpy as np
from mlflow.data import numpy_dataset
from mlflow.data.dataset import Dataset
from mlflow.entities import LifecycleStage, Metric, RunStatus

from fieldrepair_monitoring.errors import ModelVersionMissingError, RegistryError
from fieldrepair_monitoring.registry import registry_errors
from fieldrepair_plugin.acceptance import Verdict, verdict_metrics
from fieldrepair_plugin.errors import TrainingStopped
from fieldrepair_plugin.field_window import FieldLogWindow
from fieldrepair_plugin.progress import ProgressEvent
from fieldrepair_plugin.registration import CASE_KEY_TAG, Labelled, case_key
from fieldrepair_plugin.repairable import IntArray, Served
from fieldrepair_plugin.training import RepairResult
from fieldrepair_service.case_book import Case, CaseBook

logger = logging.getLogger(__name__)

EXPERIMENT = "fieldrepair"
ARTIFACT_FOLDER = "repair"
WINDOW_DATASET = "field-log-window"
"""Name of the run's input that holds the field inputs."""


class RepairRun:
    """One repair's run. Made by :func:`repair_run`."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self._client = mlflow.MlflowClient()

    def log_epoch(self, event: ProgressEvent) -> None:
        """A progress listener: an epoch's record as metrics. A registry that does not answer holds nothing up."""
        if event.stage != "training":
            return
        try:
            self._log_metrics({k: v for k, v in event.metrics.items() if k != "epoch"}, step=event.done)
        except RegistryError as error:
            logger.warning("epoch %d could not be logged to MLflow yet: %s", event.done, error)

    def log_missing_epochs(self, result: RepairResult) -> None:
        """Epochs of the result that MLflow has not: it did not answer then, or the worker stopped in between."""
        with registry_errors(f"run {self.run_id}"):
            history = self._client.get_metric_history(self.run_id, "total_unsmoothness")
        logged = {metric.step for metric in history}
        for record in result.epochs:
            if record.epoch not in logged:
                self._log_metrics({k: float(v) for k, v in asdict(record).items() if k != "epoch"}, step=record.epoch)

    def log_field_data(self, pool: Served, labels: Labelled, window: FieldLogWindow) -> None:
        """Record the field-log window and the label set as inputs of the run, with where they come from.

        Args:
            pool: ``(n, *served shape)`` what the repair learned from.
            labels: what people labelled for it.
            window: where both lie in the field log.
        """
        self._log_input(WINDOW_DATASET, pool, None, window)
        self._log_input("labels", labels.x, labels, window)

    def log_verdict(self, verdict: Verdict, result: RepairResult) -> None:
        """The numbers that people compare repairs by."""
        training = {
            "kept_epoch": float(result.kept_epoch),
            "labels_used": float(result.labels_used),
            "labels_propagated": float(result.propagated),
        }
        self._log_metrics({**verdict_metrics(verdict), **training}, step=0)

    def log_files(self, folder: Path) -> None:
        """Everything in ``folder`` as artifacts under ``repair/``."""
        with registry_errors(f"artifacts of run {self.run_id}"):
            self._client.log_artifacts(self.run_id, str(folder), ARTIFACT_FOLDER)

    def _log_metrics(self, values: Mapping[str, float], *, step: int) -> None:
        now = time.time_ns() // 1_000_000
        with registry_errors(f"run {self.run_id}"):
            self._client.log_batch(
                self.run_id, metrics=[Metric(name, float(value), now, step) for name, value in values.items()]
            )

    def _log_input(self, name: str, x: Served, labels: Labelled | None, source: FieldLogWindow) -> None:
        # MLflow's own annotation leaves out that targets may be None.
        make = cast(Callable[..., Dataset], numpy_dataset.from_numpy)
        targets = None if labels is None else labels.y
        dataset = make(x, source=source, targets=targets, name=name, digest=_digest(x, targets, source))
        with registry_errors(f"run {self.run_id}"):
            mlflow.log_input(dataset, context="repair")


def _digest(x: Served, targets: IntArray | None, source: FieldLogWindow) -> str:
    """What tells a dataset from every other: its source, and all of its values.

    Of two datasets with the same name and digest in an experiment MLflow keeps the first, source included. Its own
    digest looks at the first 10,000 numbers alone, so that another window would be taken for this one.
    """
    digest = hashlib.blake2b(source.to_json().encode(), digest_size=16)
    digest.update(np.ascontiguousarray(x).tobytes())
    if targets is not None:
        digest.update(np.ascontiguousarray(targets).tobytes())
    return digest.hexdigest()


def run_url(run_id: str) -> str:
    """Where people see a run: an address of the MLflow UI, relative where nobody told us its beginning.

    Raises:
        RegistryError: MLflow does not answer.
    """
    with registry_errors(f"run {run_id}"):
        experiment = mlflow.MlflowClient().get_run(run_id).info.experiment_id
    server = urlsplit(str(mlflow.get_tracking_uri()))
    page = f"#/experiments/{experiment}/runs/{run_id}"
    if server.scheme not in ("http", "https"):
        return page
    host = server.netloc.rpartition("@")[2]  # a password in the address is not for everybody who reads a model card
    return f"{server.scheme}://{host}{server.path.rstrip('/')}/{page}"


def prepare_run(book: CaseBook, case: Case, plan_files: Sequence[Path]) -> str:
    """Make the case's run when its tasks are chosen, with the plan in it: the labels will be worth nothing without it.

    Args:
        book: where the run's id is kept.
        case: the case, being planned.
        plan_files: stored as artifacts under ``repair/``, where any worker finds them.

    Returns:
        The run's id.

    Raises:
        RegistryError: MLflow does not answer.
    """
    client = mlflow.MlflowClient()
    run_id = _existing_run(case)
    with registry_errors(f"run of case {case.id}"):
        if run_id is None:
            experiment = mlflow.set_experiment(EXPERIMENT)
            tags = {"fieldrepair.case": str(case.id), CASE_KEY_TAG: case_key(case)}
            run = client.create_run(experiment.experiment_id, run_name=f"case-{case.id}", tags=tags)
            run_id = str(run.info.run_id)
        for path in plan_files:
            client.log_artifact(run_id, str(path), ARTIFACT_FOLDER)
        # It goes on when people have answered: minutes from now, or days.
        client.update_run(run_id, status=RunStatus.to_string(RunStatus.SCHEDULED))
    book.update_case(case.id, run_id=run_id)
    return run_id


def fetch_plan(case: Case, files: Sequence[Path]) -> None:
    """Bring back plan files that are not on this machine: another worker made the plan, or the folder was lost.

    Raises:
        RegistryError: MLflow does not answer, or has not got them.
    """
    for path in files:
        if path.exists() or case.run_id is None:
            continue
        with registry_errors(f"{path.name} of run {case.run_id}"), TemporaryDirectory(dir=path.parent) as scratch:
            fetched = mlflow.MlflowClient().download_artifacts(case.run_id, f"{ARTIFACT_FOLDER}/{path.name}", scratch)
            Path(fetched).replace(path)


@contextmanager
def repair_run(book: CaseBook, case: Case, params: Mapping[str, object]) -> Generator[RepairRun]:
    """The case's run, active inside the block; a worker that was stopped goes on in it.

    Args:
        book: where a run's id is kept if the one made with the plan is gone.
        case: the case.
        params: logged once.

    Raises:
        RegistryError: MLflow does not answer.
    """
    run_id = _existing_run(case) or prepare_run(book, case, ())
    with registry_errors(f"run {run_id}"):
        run = mlflow.start_run(run_id=run_id)
    status = RunStatus.FAILED
    try:
        with registry_errors(f"run {run_id}"):
            if not run.data.params:
                mlflow.log_params({name: str(value) for name, value in params.items()})
        yield RepairRun(run_id)
        status = RunStatus.FINISHED
    except (TrainingStopped, KeyboardInterrupt):
        status = RunStatus.KILLED
        raise
    finally:
        try:
            with registry_errors(f"run {run_id}"):
                mlflow.end_run(RunStatus.to_string(status))
        except RegistryError as error:
            logger.warning("run %s could not be closed: %s", run_id, error)


def _existing_run(case: Case) -> str | None:
    if case.run_id is None:
        return None
    try:
        with registry_errors(f"run {case.run_id}"):
            run: Any = mlflow.MlflowClient().get_run(case.run_id)
    except ModelVersionMissingError:  # MLflow's "there is no such thing", here of a run
        return None
    return case.run_id if run.info.lifecycle_stage == LifecycleStage.ACTIVE else None
