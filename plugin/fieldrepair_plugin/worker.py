"""The repair worker: goes through the case book and takes each case as far as it can go.

    annotating, not planned   wait for enough field inputs, then choose the tasks        -> case_planning.py
    annotating, planned       when no task is open any more                              -> training
    training                  train, judge, register                                     -> accepted or rejected
    accepted                  nothing, until the alias moves; unless its version is gone -> dismissed

What can pass by itself (a registry or store that does not answer) is tried again. What cannot (training that fails) is
tried a few times, then the case is rejected with the error. Serving is never touched from here.
"""

from __future__ import annotations

import fcntl
import logging
import math
import threading
import time
import uuid
from collections.abc import Generator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

from fieldrepair_monitoring.backoff import Backoff
from fieldrepair_monitoring.errors import ModelVersionMissingError, RegistryError
from fieldrepair_monitoring.event_trace import event_span
from fieldrepair_monitoring.lifecycle import open_stores, stopped_by_signals
from fieldrepair_monitoring.registry import model_version
from fieldrepair_plugin.case_lease import CaseLease
from fieldrepair_plugin.case_planning import Planner, waiting_note
from fieldrepair_plugin.case_progress import CaseProgress, terminal_progress
from fieldrepair_plugin.case_training import Trainer
from fieldrepair_plugin.errors import AlreadyRunningError, CaseLeft, TrainingStopped
from fieldrepair_plugin.ground_truth import settle_known
from fieldrepair_plugin.settings import WorkerSettings
from fieldrepair_service.case_book import OPEN_STATES, Case, CaseBook, CaseState
from fieldrepair_service.errors import Conflict, FieldRepairError, RowsNotFound, StoreError
from fieldrepair_service.field_log import FieldLog
from fieldrepair_service.tracing import NO_TRACING, TraceSpan, Tracing, open_tracing

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 10.0
"""How often an open case's model version is looked up."""
_LOCK_FILE = "worker.lock"
_ID_FILE = "worker-id"


class Worker:
    """Works the cases of one case book.

    Args:
        settings: the worker's.
        book: the case book.
        log: the field log.
        worker_id: names this worker in its leases; the same after a restart, so that it finds its own cases free.
        stop: set when the work is to end; training then stops after the step at hand.
        tracing: makes a span for each step of a case, in the trace of its drift event.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        book: CaseBook,
        log: FieldLog,
        *,
        worker_id: str,
        stop: threading.Event,
        tracing: Tracing = NO_TRACING,
    ) -> None:
        self._settings = settings
        self._book = book
        self._log = log
        self._worker_id = worker_id
        self._stop = stop
        self._planner = Planner(book, log, settings)
        self._tracing = tracing
        self._trainer = Trainer(book, log, settings, tracing)
        self._looked_at: dict[int, float] = {}
        self._truth_seen: dict[int, tuple[int, int]] = {}

    def run(self) -> None:
        """Go round until stopped. A store that fails is tried again; nothing but a stop ends this."""
        pause = Backoff(self._settings.case_poll_seconds, 60.0)
        while not self._stop.is_set():
            wait = self._settings.case_poll_seconds
            try:
                moved = self.round()
            except (StoreError, RegistryError) as error:
                wait = pause.failed()
                logger.warning("trying again in %.0f s: %s", wait, error)
            else:
                pause.succeeded()
                if moved:
                    continue  # the next step of the same case may be due already
            self._stop.wait(wait)

    def round(self) -> bool:
        """Take every case one step; whether any made one.

        Raises:
            StoreError, RegistryError: a store or MLflow does not answer.
        """
        moved = False
        for case in reversed(self._book.cases()):
            wanted = self._settings.model_name in (None, case.model_name)
            if case.state in OPEN_STATES and wanted and not self._stop.is_set():
                moved = self._step(case) or moved
        return moved

    def _step(self, case: Case) -> bool:
        if self._gone(case):
            return True
        if case.state is CaseState.ACCEPTED:
            return False
        if case.state is CaseState.ANNOTATING:
            note = self._waits(case)
            if note is not None:
                if note != case.note:
                    self._book.update_case(case.id, note=note)
                return False
        if not self._book.claim(case.id, self._worker_id, self._settings.lease_seconds):
            return False
        with (
            CaseLease(self._book, case.id, self._worker_id, self._settings.lease_seconds) as lease,
            terminal_progress(f"case {case.id}") as bars,
        ):
            # Read anew: it may have moved between the look and the claim.
            case = self._book.case(case.id)
            progress = CaseProgress(self._book, case, stop=self._stop, lost=lease.lost, others=bars)
            return self._claimed_step(case, progress)

    def _waits(self, case: Case) -> str | None:
        """What an annotating case waits for; None when there is something to do."""
        if case.planned_ms is None:
            return waiting_note(self._log, case, self._settings)
        self._use_ground_truth(case)
        counts = self._book.task_counts(case.id)
        return None if counts.ready else f"waiting for {counts.open} of {counts.total} labels"

    def _use_ground_truth(self, case: Case) -> None:
        """Answer what the business has answered since the last look; the log is read only when something has come."""
        mark = self._book.ground_truth_mark()
        if mark[0] and mark != self._truth_seen.get(case.id):
            settle_known(self._book, self._log, case)
        self._truth_seen[case.id] = mark

    def _claimed_step(self, case: Case, progress: CaseProgress) -> bool:
        try:
            if case.state is CaseState.ANNOTATING and case.planned_ms is None:
                logger.info("case %d: choosing what to label", case.id)
                with self._span("plan case", case) as span:
                    planned = self._planner.plan(case, progress)
                    span.set(budget=None if planned is None else planned.budget)
                return planned is not None
            if case.state is CaseState.ANNOTATING:
                case = self._book.transition(
                    case.id, CaseState.TRAINING, "all labels are in", actor="worker", note="training"
                )
                progress = progress.of(case)
            if case.state is CaseState.TRAINING:
                logger.info("case %d: training", case.id)
                with self._span("repair case", case) as span:
                    ended = self._trainer.work(case, progress)
                    span.set(state=str(ended.state), reason=ended.reason, candidate_version=ended.candidate_version)
                logger.info("case %d: %s: %s", case.id, ended.state, ended.reason)
                return True
        except ModelVersionMissingError as error:
            return self._dismiss(case, str(error))
        except (TrainingStopped, CaseLeft, Conflict) as error:
            logger.info("case %d: left as it is: %s", case.id, error)
        except RowsNotFound as error:
            return self._failed(case, error)
        except (RegistryError, StoreError):
            raise  # may pass: the round is tried again, and nothing is counted against the case
        except FieldRepairError as error:
            return self._failed(case, error)
        except Exception as error:  # a defect, or a model that breaks in training: the worker and other cases go on
            logger.exception("case %d: unexpected error", case.id)
            return self._failed(case, error)
        return False

    def _span(self, name: str, case: Case) -> AbstractContextManager[TraceSpan]:
        return self._tracing.span(
            name,
            parent=event_span(self._book.event(case.event_id)),
            case=case.id,
            event=case.event_id,
            attempt=case.attempt,
            model_name=case.model_name,
            model_version=case.model_version,
        )

    def _failed(self, case: Case, error: Exception) -> bool:
        """Count a failure that waiting does not mend; after some, the case is rejected with the last one."""
        present = self._book.case(case.id)
        stored = present.progress.get("failures", 0)
        failures = (stored if isinstance(stored, int) else 0) + 1
        what = f"{type(error).__name__}: {error}"
        logger.warning(
            "case %d: attempt %d of %d failed: %s", case.id, failures, self._settings.training_attempts, what
        )
        if failures >= self._settings.training_attempts:
            self._book.transition(
                case.id, CaseState.REJECTED, f"failed {failures} times, the last time with {what}", actor="worker"
            )
            return True
        note = f"failed {failures} of {self._settings.training_attempts} times, trying again: {what}"
        self._book.update_case(case.id, note=note, progress={**present.progress, "failures": failures})
        self._stop.wait(self._settings.case_poll_seconds)
        return True

    def _gone(self, case: Case) -> bool:
        """Dismiss a case whose model version was deleted; looked at now and then."""
        now = time.monotonic()
        if now - self._looked_at.get(case.id, -math.inf) < _LOOK_SECONDS:
            return False
        self._looked_at[case.id] = now
        candidate = case.candidate_version if case.state is CaseState.ACCEPTED else None
        try:
            model_version(case.model_name, candidate or case.model_version)
        except ModelVersionMissingError as error:
            return self._dismiss(case, str(error))
        except RegistryError as error:
            logger.info("case %d: could not ask for its model version: %s", case.id, error)
        return False

    def _dismiss(self, case: Case, what: str) -> bool:
        """End a case that lost its model version; what is served is not touched."""
        self._book.transition(
            case.id, CaseState.DISMISSED, f"the model version is not in the registry any more ({what})", actor="worker"
        )
        logger.warning("case %d: dismissed: %s", case.id, what)
        return True


def run_worker(settings: WorkerSettings) -> None:
    """The command: work until SIGTERM or SIGINT; with ``worker_once``, until no case can go any further now.

    Raises:
        AlreadyRunningError: another worker works in this state folder.
        FieldRepairError: with ``worker_once``, what could not be reached; without, only what no waiting can mend.
    """
    import torch

    settings.use_registry()
    if settings.repair_threads is not None:
        torch.set_num_threads(settings.repair_threads)
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    tracing = open_tracing("worker", settings.otlp_endpoint)
    with (
        closing(tracing),
        only_worker(settings.state_dir) as worker_id,
        stopped_by_signals("stopping; what is trained so far is kept") as stop,
    ):
        stores = open_stores(settings, stop, poll_seconds=settings.case_poll_seconds, once=settings.worker_once)
        if stores is None:
            return
        log, book = stores
        with book:
            worker = Worker(settings, book, log, worker_id=worker_id, stop=stop, tracing=tracing)
            logger.info("%s works the cases of %s", worker_id, book.url)
            if not settings.worker_once:
                worker.run()
                return
            while not stop.is_set() and worker.round():
                pass


@contextmanager
def only_worker(state_dir: Path) -> Generator[str]:
    """The id of this folder's worker, while this process alone is it.

    The id outlives the process: a worker that was killed finds its cases free at once when it starts again, while
    another folder's worker has to wait until the lease has run out.
    """
    with (state_dir / _LOCK_FILE).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunningError(
                f"another worker already works in {state_dir.absolute()}; several workers on one case book need a "
                "state folder each"
            ) from None
        path = state_dir / _ID_FILE
        if not path.exists():
            path.write_text(f"worker-{uuid.uuid4().hex[:12]}", encoding="utf-8")
        yield path.read_text(encoding="utf-8").strip()
