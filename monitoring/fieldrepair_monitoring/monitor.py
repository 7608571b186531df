"""The monitor's loop: every model version in the field log, one window at a time, then the alerts; and again."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Generator
from contextlib import closing, contextmanager, nullcontext

from fieldrepair_monitoring.alert_bodies import plain_body, slack_body
from fieldrepair_monitoring.alerts import Webhook, deliver
from fieldrepair_monitoring.backoff import Backoff
from fieldrepair_monitoring.case_metrics import exported_cases
from fieldrepair_monitoring.detectors import detector_factory
from fieldrepair_monitoring.errors import RegistryError
from fieldrepair_monitoring.explainer import Explainer
from fieldrepair_monitoring.lifecycle import open_stores, stopped_by_signals
from fieldrepair_monitoring.metrics import MonitorMetrics, serve_metrics
from fieldrepair_monitoring.settings import MonitorSettings
from fieldrepair_monitoring.stream import Stream
from fieldrepair_monitoring.watched_version import WatchedVersion
from fieldrepair_service.case_book import CaseBook
from fieldrepair_service.errors import FieldRepairError, StoreError
from fieldrepair_service.field_log import FieldLog
from fieldrepair_service.tracing import NO_TRACING, Tracing, open_tracing

logger = logging.getLogger(__name__)

StreamKey = tuple[str, str]

# A model and its reference embeddings take memory; versions that were not served lately give theirs back.
MAX_LOADED_VERSIONS = 4


class Monitor:
    """Watches every model version that the field log has inputs of.

    Args:
        settings: what to watch and when to raise an alert.
        log: the field log.
        book: the case book.
        metrics: where to count.
        webhook: where to post alerts, if anywhere.
        tracing: makes spans.
    """

    def __init__(
        self,
        settings: MonitorSettings,
        log: FieldLog,
        book: CaseBook,
        metrics: MonitorMetrics,
        webhook: Webhook | None = None,
        tracing: Tracing = NO_TRACING,
    ) -> None:
        self._settings = settings
        self._log = log
        self._book = book
        self._metrics = metrics
        self._webhook = webhook
        self._tracing = tracing
        self._streams: OrderedDict[StreamKey, Stream] = OrderedDict()
        self._pauses: dict[StreamKey, Backoff] = {}
        self._said: dict[StreamKey, str] = {}
        self._delivered = time.monotonic()

    def run(self, stop: threading.Event) -> None:
        """Go round until ``stop`` is set. A store that fails is tried again; nothing but ``stop`` ends this."""
        pause = Backoff(self._settings.poll_seconds, 60.0)
        while not stop.is_set():
            try:
                self.round(stop)
            except (FieldRepairError, OSError) as error:  # OSError: a file of the log that was vacuumed meanwhile
                self._metrics.errors.labels("round").inc()
                wait = pause.failed()
                logger.warning("trying again in %.0f s: %s", wait, error)
                stop.wait(wait)
                continue
            pause.succeeded()
            self._metrics.last_success.set_to_current_time()
            stop.wait(self._settings.poll_seconds)

    def round(self, stop: threading.Event | None = None) -> list[FieldRepairError]:
        """Judge every full window that is there, then post the alerts that are due.

        Model versions take turns, one window each, so that a long backlog of one does not hold up another.

        Returns:
            What failed: model versions that cannot be watched now do not keep the others from being watched.

        Raises:
            StoreError: field log or case book does not answer.
        """
        failures: list[FieldRepairError] = []
        waiting = [key for key in self._keys() if self._pause(key).due]
        while waiting and not (stop is not None and stop.is_set()):
            waiting = [key for key in waiting if self._step(key, failures)]
            if time.monotonic() - self._delivered > self._settings.poll_seconds:
                self._deliver()  # an alert does not wait until a long backlog is done
        while len(self._streams) > MAX_LOADED_VERSIONS:
            self._streams.popitem(last=False)  # the one that had a window longest ago
        self._deliver()
        return failures

    def _deliver(self) -> None:
        if self._webhook is not None:
            deliver(self._book, self._webhook, self._metrics)
        self._delivered = time.monotonic()

    def _keys(self) -> list[StreamKey]:
        wanted = self._settings.model_name
        return [key for key in self._log.streams() if wanted is None or key[0] == wanted]

    def _step(self, key: StreamKey, failures: list[FieldRepairError]) -> bool:
        """Judge one window; whether there may be another."""
        try:
            stream = self._stream(key)
            more = stream is not None and stream.step()
            if more:
                self._streams.move_to_end(key)
        except StoreError:
            raise
        except FieldRepairError as error:
            failures.append(error)
            self._failed(key, error)
            return False
        self._pause(key).succeeded()
        self._metrics.failing(*key, None)
        self._said.pop(key, None)
        return more

    def _stream(self, key: StreamKey) -> Stream | None:
        """The loaded stream; None if it is not loaded and has no full window to judge anyway."""
        stream = self._streams.get(key)
        if stream is None:
            if not self._has_window(key):
                return None
            watched = WatchedVersion.load(*key, self._settings, self._settings.state_dir / "cache" / "handovers")
            stream = Stream(
                *key,
                watched=watched,
                log=self._log,
                book=self._book,
                metrics=self._metrics,
                settings=self._settings,
                tracing=self._tracing,
            )
            self._streams[key] = stream
            logger.info("watching models:/%s/%s", *key)
        return stream

    def _has_window(self, key: StreamKey) -> bool:
        checkpoint = self._book.checkpoint(*key)
        size = self._settings.window_size
        rows = self._log.read_after(
            checkpoint.cursor if checkpoint is not None else {},
            limit=size,
            model_name=key[0],
            model_version=key[1],
            columns=[],
        )
        return len(rows) == size

    def _pause(self, key: StreamKey) -> Backoff:
        return self._pauses.setdefault(key, Backoff(self._settings.poll_seconds, 60.0))

    def _failed(self, key: StreamKey, error: FieldRepairError) -> None:
        """Say it once, count it every time, and come back later."""
        self._streams.pop(key, None)
        self._metrics.errors.labels("registry" if isinstance(error, RegistryError) else "stream").inc()
        self._metrics.failing(*key, error)
        wait = self._pause(key).failed()
        if self._said.get(key) != str(error):
            self._said[key] = str(error)
            logger.warning("models:/%s/%s is not watched, trying again in %.0f s and later: %s", *key, wait, error)


def run_monitor(settings: MonitorSettings) -> None:
    """The command: run until SIGTERM or SIGINT, or, with ``once``, until everything that is there is judged.

    Raises:
        FieldRepairError: with ``once``, what could not be reached; without, only what no waiting can mend (a case
            book of a newer schema, a port in use, a setting that cannot work).
    """
    import torch

    # Takes seconds to load: now, not when the first window is there.
    for name in settings.detector_names:
        detector_factory(name)
    settings.use_registry()
    if settings.monitor_threads is not None:
        torch.set_num_threads(settings.monitor_threads)
    tracing = open_tracing("monitor", settings.otlp_endpoint)
    metrics = MonitorMetrics()
    serving = (
        nullcontext()
        if settings.once
        else serve_metrics(metrics, settings.monitor_metrics_host, settings.monitor_metrics_port)
    )
    with closing(tracing), stopped_by_signals("stopping after this window") as stop, serving:
        stores = open_stores(settings, stop, poll_seconds=settings.poll_seconds, once=settings.once)
        if stores is None:
            return
        log, book = stores
        with book, exported_cases(metrics.registry, book), _webhook(settings) as webhook:
            monitor = Monitor(settings, log, book, metrics, webhook, tracing)
            explainer = Explainer(settings, log, book, metrics)
            if not settings.once:
                with explainer.running():
                    monitor.run(stop)
                return
            failures = monitor.round(stop)
            explainer.refresh_labels()
            explainer.round(stop)
            for failure in failures:
                # One that is missing something is no failure of this run; a registry that does not answer is.
                if type(failure) is RegistryError:
                    raise failure


@contextmanager
def _webhook(settings: MonitorSettings) -> Generator[Webhook | None]:
    if settings.alert_webhook_url is None:
        yield None
        return
    token = settings.alert_webhook_token
    with Webhook(
        str(settings.alert_webhook_url),
        token=None if token is None else token.get_secret_value(),
        timeout_s=settings.alert_timeout_seconds,
        body=slack_body if settings.alert_webhook_format == "slack" else plain_body,
    ) as webhook:
        yield webhook
