"""One model version's stream of field inputs, judged window by window and recorded in the case book."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from fieldrepair_monitoring.confirmation import Confirmation, Shift, hurts
from fieldrepair_monitoring.errors import WindowNotJudgedError
from fieldrepair_monitoring.event_trace import event_span
from fieldrepair_monitoring.metrics import MonitorMetrics
from fieldrepair_monitoring.settings import MonitorSettings
from fieldrepair_monitoring.watched_version import Verdict, WatchedVersion
from fieldrepair_monitoring.windows import FieldWindow, NothingUsable, WindowReader
from fieldrepair_service.case_book import CaseBook, DriftEvent, NewDriftEvent, WindowRecord
from fieldrepair_service.errors import EventAlreadyOpen, WindowsOutOfOrder
from fieldrepair_service.field_log import Cursor, FieldLog
from fieldrepair_service.tracing import NO_TRACING, TraceSpan, Tracing

logger = logging.getLogger(__name__)

LATE_AFTER_MS = 60_000
"""Two sidecars never ship in step; only a field input that is so much older than one already judged counts as late."""


class Stream:
    """Judges windows of one model version.

    All state is in the case book: checkpoint, what detectors remember, earlier windows, the open event. One window and
    everything that follows from it are recorded in one transaction, so a monitor that is killed at any point goes on
    from the last recorded window and repeats nothing.

    Args:
        model_name: registered model.
        model_version: its version.
        watched: the version, loaded.
        log: the field log.
        book: the case book.
        metrics: the monitor's.
        settings: the monitor's.
        tracing: makes a span for each window and each event.
    """

    def __init__(
        self,
        model_name: str,
        model_version: str,
        *,
        watched: WatchedVersion,
        log: FieldLog,
        book: CaseBook,
        metrics: MonitorMetrics,
        settings: MonitorSettings,
        tracing: Tracing = NO_TRACING,
    ) -> None:
        self._name = model_name
        self._version = model_version
        self._watched = watched
        self._book = book
        self._metrics = metrics
        self._settings = settings
        self._tracing = tracing
        self._confirmation = Confirmation(settings.drift_confirmations, settings.drift_confirmation_windows)
        spec = watched.handover.input
        self._reader = WindowReader(log, model_name, model_version, spec=spec, size=settings.window_size)

    def step(self) -> bool:
        """Judge and record the next window.

        Returns:
            True if there was one (or unusable rows were passed), False if more field inputs must come first.

        Raises:
            StoreError: field log or case book cannot do it now.
            DetectorError: the window cannot be compared with the reference.
        """
        began = time.perf_counter()
        checkpoint = self._book.checkpoint(self._name, self._version)
        cursor: Cursor = checkpoint.cursor if checkpoint is not None else {}
        index = checkpoint.next_window_index if checkpoint is not None else 0
        found = self._reader.next(cursor)
        if found is None:
            return False
        try:
            if isinstance(found, NothingUsable):
                self._book.record_windows(self._name, self._version, found.cursor_end, [])
            else:
                with self._tracing.span(
                    "judge window", model_name=self._name, model_version=self._version, window=index
                ) as span:
                    self._judge(found, index, {} if checkpoint is None else checkpoint.memory, span)
        except WindowNotJudgedError as error:
            # The model answered these inputs in service, but not here. Waiting would not help: they are passed over.
            logger.error("%s %s: passed over a window: %s", self._name, self._version, error)  # noqa: TRY400
            self._book.record_windows(self._name, self._version, found.cursor_end, [])
            found.skipped[error.reason] += self._settings.window_size
        except (WindowsOutOfOrder, EventAlreadyOpen) as error:
            # Another monitor on the same case book was first: what it recorded stands.
            logger.info("%s %s: %s", self._name, self._version, error)
            return True
        for reason, count in found.skipped.items():
            self._metrics.skipped.labels(self._name, self._version, reason).inc(count)
            logger.warning(
                "%s %s: passed over %d field inputs that the model version cannot take (%s)",
                self._name,
                self._version,
                count,
                reason,
            )
        self._metrics.window_seconds.observe(time.perf_counter() - began)
        return True

    def _judge(self, found: FieldWindow, index: int, memory: Mapping[str, str], span: TraceSpan) -> None:
        verdict = self._watched.judge(found.inputs, memory)
        window = WindowRecord(
            index=index,
            first_timestamp_ms=found.first_timestamp_ms,
            last_timestamp_ms=found.last_timestamp_ms,
            size=len(found.inputs),
            detector=verdict.detector,
            statistic=verdict.score.statistic,
            threshold=verdict.score.threshold,
            p_value=verdict.p_value,
            drifted=verdict.drifted,
            estimated_accuracy=verdict.accuracy.value,
            accuracy_low=verdict.accuracy.low,
            accuracy_high=verdict.accuracy.high,
            accuracy_trusted=verdict.accuracy.trusted,
            effect_size=verdict.score.effect_size,
            scores=verdict.scores_json(),
            cursor_start=found.cursor_start,
        )
        earlier = self._book.windows(self._name, self._version, limit=self._confirmation.windows)
        # Windows after this one cannot be there: recording it would fail. Those long before do not count.
        recent = [*earlier, window][-self._confirmation.windows :]
        event = self._book.open_event(self._name, self._version)
        shift = self._confirmation.shift(recent, confirmed=verdict.confirmed)
        harmful = shift is not None and self._harmful(shift)
        wanted = shift is not None and harmful and event is None and not self._cooling()
        opens = self._new_event(shift, window, verdict) if shift is not None and wanted else None
        ends = event.id if event is not None and self._confirmation.calm(recent) else None
        opened = self._book.record_windows(
            self._name, self._version, found.cursor_end, [window], opens, ends, verdict.memory
        )
        self._report(window, opened, still_open=event is not None and ends is None)
        self._trace(window, opened, span)
        newest = max((each.last_timestamp_ms for each in earlier), default=0)
        self._metrics.timestamps(
            self._name,
            self._version,
            newest_ms=found.last_timestamp_ms,
            now_s=time.time(),
            late=int((found.timestamps_ms < newest - LATE_AFTER_MS).sum()),
        )
        without_harm = shift is not None and not harmful and event is None
        self._metrics.shift_without_harm.labels(self._name, self._version).set(int(without_harm))
        if ends is not None:
            logger.info("%s %s: drift event %d has ended", self._name, self._version, ends)

    def _trace(self, window: WindowRecord, opened: DriftEvent | None, span: TraceSpan) -> None:
        span.set(
            field_inputs=window.size,
            detector=window.detector,
            drifted=window.drifted,
            statistic=window.statistic,
            p_value=window.p_value,
            estimated_accuracy=window.estimated_accuracy,
        )
        if opened is not None:
            # A trace of its own, which the worker's spans about the case join; linked with the window's.
            with self._tracing.span(
                "drift event",
                root=True,
                ids=event_span(opened),
                link=span.ref,
                event=opened.id,
                case=opened.case_id,
                model_name=self._name,
                model_version=self._version,
                summary=opened.summary,
            ):
                pass

    def _cooling(self) -> bool:
        """Whether the last event ended too short a time ago for another one to begin."""
        last = self._book.events(self._name, self._version, limit=1)
        if self._settings.drift_cooldown_seconds == 0 or not last or last[0].ended_ms is None:
            return False
        return time.time() - last[0].ended_ms / 1000 < self._settings.drift_cooldown_seconds

    def _harmful(self, shift: Shift) -> bool:
        if not self._settings.require_harm:
            return True
        return hurts(shift, reference_accuracy=self._watched.reference_accuracy, margin=self._settings.harm_margin)

    def _new_event(self, shift: Shift, window: WindowRecord, verdict: Verdict) -> NewDriftEvent:
        handover = self._watched.handover
        return NewDriftEvent(
            model_name=self._name,
            model_version=self._version,
            detector=verdict.detector,
            statistic=window.statistic,
            p_value=window.p_value,
            threshold=window.threshold,
            window_index=window.index,
            cursor_start=shift.start.cursor_start,
            field_inputs_until_alert=shift.field_inputs,
            estimated_accuracy=shift.estimated_accuracy,
            reference_accuracy=self._watched.reference_accuracy,
            summary=self._summary(shift, verdict.accuracy.doubts),
            class_names=handover.class_names,
            input_spec=handover.input.model_dump(mode="json"),
        )

    def _summary(self, shift: Shift, doubts: tuple[str, ...]) -> str:
        last = shift.windows[-1]
        p_value = "" if last.p_value is None else f" (p = {last.p_value:.2g} < {self._settings.false_alarm_rate:.2g})"
        estimate = ""
        if shift.estimated_accuracy is not None:
            estimate = (
                f"; estimated accuracy {shift.estimated_accuracy:.0%} against "
                f"{self._watched.reference_accuracy:.0%} on the reference"
            )
            if doubts:
                estimate += f", which cannot be trusted: {'; '.join(doubts)}"
        detector = last.detector.replace("_", " ").upper()
        return (
            f"{detector} {last.statistic:.4f} > {last.threshold:.4f}{p_value} in {len(shift.windows)} of "
            f"the last {self._confirmation.windows} windows of {last.size} field inputs{estimate}"
        )

    def _report(self, window: WindowRecord, opened: DriftEvent | None, *, still_open: bool) -> None:
        self._metrics.window(self._name, self._version, window, self._watched.reference_accuracy)
        self._metrics.event_open.labels(self._name, self._version).set(int(still_open or opened is not None))
        logger.info(
            "%s %s window %d: %s, statistic %.4f, p %s, estimated accuracy %s",
            self._name,
            self._version,
            window.index,
            "drifted" if window.drifted else "calm",
            window.statistic,
            window.p_value,
            window.estimated_accuracy,
        )
        if opened is not None:
            self._metrics.events.labels(self._name, self._version).inc()
            logger.warning(
                "drift event %d, case %d: %s %s: %s",
                opened.id,
                opened.case_id,
                self._name,
                self._version,
                opened.summary,
            )
