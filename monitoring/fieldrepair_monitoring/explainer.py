"""Explains drift events after they were raised: in a thread of its own, so that no alert ever waits for it. The same
thread measures what labels say of the accuracy, once there are any.

What is left to do is read off the case book: an event without an explanation needs one, an explanation without an
MLflow run needs that. So a monitor that was killed goes on where it was, and one event gets one explanation.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from fieldrepair_monitoring.backoff import Backoff
from fieldrepair_monitoring.drift_run import log_drift_run
from fieldrepair_monitoring.errors import FieldInputsMissingError, ModelVersionMissingError, RegistryError
from fieldrepair_monitoring.explanation import explain
from fieldrepair_monitoring.handover import HandOver, load_handover, load_module
from fieldrepair_monitoring.history_plot import HISTORY_PICTURE, history_plot
from fieldrepair_monitoring.labelled import LabelledAccuracy
from fieldrepair_monitoring.labelled_windows import LabelledWindows
from fieldrepair_monitoring.metrics import MonitorMetrics
from fieldrepair_monitoring.model_cache import cached_module
from fieldrepair_monitoring.served_model import ServedModel
from fieldrepair_monitoring.settings import MonitorSettings
from fieldrepair_monitoring.windows import FieldWindow, WindowReader
from fieldrepair_service.case_book import CaseBook, DriftEvent, WindowRecord
from fieldrepair_service.errors import FieldRepairError, NotInCaseBook, StoreError
from fieldrepair_service.field_log import FieldLog

logger = logging.getLogger(__name__)

MOST_INPUTS = 2000
MOST_BYTES = 128 * 2**20
"""Field inputs of one event that are looked at, at most: so many, and so many bytes."""
HISTORY_WINDOWS = 300
LOOKED_BACK = 100
"""Newest events among which those without an explanation are looked for; never so many are raised meanwhile."""
RUN_ID = "mlflow_run_id"
FAILED = "failed"


@dataclass
class _Attempts:
    pause: Backoff
    unexpected: int = 0


class Explainer:
    """Explains the events of one case book.

    Args:
        settings: the monitor's.
        log: the field log.
        book: the case book.
        metrics: where to count.
    """

    def __init__(self, settings: MonitorSettings, log: FieldLog, book: CaseBook, metrics: MonitorMetrics) -> None:
        self._settings = settings
        self._log = log
        self._book = book
        self._metrics = metrics
        self._labelled = LabelledAccuracy(log, book, metrics)
        self._labelled_windows = LabelledWindows(log, book, self._class_names)
        self._attempts: dict[int, _Attempts] = {}

    @contextmanager
    def running(self) -> Generator[None]:
        """Explain events in a thread until the block ends; it ends after the event at hand."""
        stop = threading.Event()
        thread = threading.Thread(target=self._run, args=(stop,), name="explainer", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _run(self, stop: threading.Event) -> None:
        pause = Backoff(self._settings.poll_seconds, 60.0)
        while not stop.is_set():
            try:
                self.refresh_labels()
                self.round(stop)
            except StoreError as error:
                self._metrics.errors.labels("explanation").inc()
                wait = pause.failed()
                logger.warning("explanations: trying again in %.0f s: %s", wait, error)
            else:
                pause.succeeded()
                wait = self._settings.poll_seconds
            stop.wait(wait)

    def refresh_labels(self) -> None:
        """Measure cases and windows that have new labels.

        Raises:
            StoreError: a store does not answer.
        """
        self._labelled_windows.refresh(self._settings.model_name)
        self._labelled.refresh(self._settings.model_name)

    def _class_names(self, name: str, version: str) -> tuple[str, ...]:
        return load_handover(name, version, self._settings.state_dir / "cache" / "handovers").class_names

    def round(self, stop: threading.Event | None = None) -> int:
        """Do what is left to do for every event, oldest first.

        Returns:
            How many were explained.

        Raises:
            StoreError: the case book does not answer. (If the field log or MLflow does not, the event waits.)
        """
        waiting = [event for event in reversed(self._book.events(limit=LOOKED_BACK)) if self._open(event)]
        self._attempts = {event.id: self._attempts[event.id] for event in waiting if event.id in self._attempts}
        done = 0
        for event in waiting:
            if stop is not None and stop.is_set():
                break
            attempts = self._attempts.setdefault(event.id, _Attempts(Backoff(self._settings.poll_seconds, 300.0)))
            done += attempts.pause.due and self._attempt(event, attempts)
        self._metrics.explanations_pending.set(len(waiting) - done)
        return done

    def _open(self, event: DriftEvent) -> bool:
        if self._settings.model_name not in (None, event.model_name):
            return False
        stored = event.explanation
        return stored is None or (RUN_ID not in stored and FAILED not in stored)

    def _attempt(self, event: DriftEvent, attempts: _Attempts) -> bool:
        """Whether nothing is left to do for this event."""
        try:
            if event.explanation is None:
                self._explain(event)
                event = self._book.event(event.id)
            self._store_in_mlflow(event)
        except ModelVersionMissingError as error:
            return self._give_up(event, error)
        except (StoreError, RegistryError) as error:
            self._wait(event, attempts, error)
            return False
        except FieldRepairError as error:
            return self._give_up(event, error)
        except Exception as error:  # a defect, or a model that breaks: windows and alerts must go on
            logger.exception("drift event %d: unexpected error while it was explained", event.id)
            attempts.unexpected += 1
            if attempts.unexpected >= 3:
                return self._give_up(event, error)
            self._wait(event, attempts, error)
            return False
        self._metrics.explanations.labels("explained").inc()
        return True

    def _explain(self, event: DriftEvent) -> None:
        """Compute the explanation and put it, with its pictures, beside the event."""
        name, version = event.model_name, event.model_version
        cache = self._settings.state_dir / "cache"
        handover = load_handover(name, version, cache / "handovers")
        folder = cached_module(name, version, cache / "models")
        model = ServedModel(load_module(name, version, folder), handover, device=self._settings.torch_device)
        found = explain(model, handover, self._field_inputs(event, handover), seed=self._settings.monitor_seed)
        windows = self._windows_until(event)
        pictures = {**found.pictures, **_history(event, windows)}
        content = {
            **found.content,
            "accuracy": _accuracy(event, windows),
            "pictures": {file: attachment_name(event, file) for file in pictures},
        }
        # Pictures first: who sees the explanation finds all of it. A picture that is there already is replaced.
        for file, picture in pictures.items():
            self._book.attach(event.case_id, attachment_name(event, file), "image/png", picture, event_id=event.id)
        self._book.explain_event(event.id, content)
        logger.info("drift event %d: %s", event.id, content["summary"])

    def _field_inputs(self, event: DriftEvent, handover: HandOver) -> FieldWindow:
        spec = handover.input
        instance = max(1, int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize)
        size = max(1, min(event.field_inputs_until_alert, MOST_INPUTS, MOST_BYTES // instance))
        reader = WindowReader(self._log, event.model_name, event.model_version, spec=spec, size=size)
        found = reader.next(event.cursor_start)
        if not isinstance(found, FieldWindow):
            raise FieldInputsMissingError(f"the field log has no {size} field inputs of this event any more")
        return found

    def _windows_until(self, event: DriftEvent) -> list[WindowRecord]:
        recorded = self._book.windows(event.model_name, event.model_version, limit=2 * HISTORY_WINDOWS)
        return [window for window in recorded if window.index <= event.window_index][-HISTORY_WINDOWS:]

    def _store_in_mlflow(self, event: DriftEvent) -> None:
        explanation = event.explanation
        if explanation is None:
            raise NotInCaseBook(f"drift event {event.id} has lost its explanation")
        pictures: dict[str, bytes] = {}
        for listed in self._book.attachments(event.case_id):
            attachment = self._book.attachment(event.case_id, listed.name)
            if attachment is not None and attachment.event_id == event.id:
                pictures[attachment.name] = attachment.content
        run_id = log_drift_run(event, explanation, pictures)
        self._book.explain_event(event.id, {**explanation, RUN_ID: run_id})

    def _wait(self, event: DriftEvent, attempts: _Attempts, error: Exception) -> None:
        self._metrics.explanations.labels("failed").inc()
        wait = attempts.pause.failed()
        logger.warning("drift event %d is not explained yet, trying again in %.0f s: %s", event.id, wait, error)

    def _give_up(self, event: DriftEvent, error: Exception) -> bool:
        """Say in the event's place why there is no explanation; trying again would not help."""
        self._metrics.explanations.labels("given_up").inc()
        logger.warning("drift event %d cannot be explained: %s", event.id, error)
        known = {} if event.explanation is None else dict(event.explanation)
        what = f"{type(error).__name__}: {error}"
        self._book.explain_event(event.id, {"summary": f"No explanation: {what}", **known, FAILED: what})
        return True


def attachment_name(event: DriftEvent, file: str) -> str:
    """The picture's name among the attachments of a case, which several events may belong to."""
    stem, dot, ending = file.rpartition(".")
    return file if event.opened_case else f"{stem}-{event.id}{dot}{ending}"


def _accuracy(event: DriftEvent, windows: list[WindowRecord]) -> dict[str, object]:
    last = windows[-1] if windows else None
    return {
        "estimated": event.estimated_accuracy,
        "low": None if last is None else last.accuracy_low,
        "high": None if last is None else last.accuracy_high,
        "trusted": None if last is None else last.accuracy_trusted,
        "reference": event.reference_accuracy,
        "labelled": None if last is None else last.labelled_accuracy,
        "labelled_count": None if last is None else last.labelled_count,
    }


def _history(event: DriftEvent, windows: list[WindowRecord]) -> Mapping[str, bytes]:
    if not windows:
        return {}
    picture = history_plot(
        windows,
        title=f"{event.model_name} version {event.model_version}, drift event {event.id}",
        alert_index=event.window_index,
        reference_accuracy=event.reference_accuracy,
    )
    return {HISTORY_PICTURE: picture}
