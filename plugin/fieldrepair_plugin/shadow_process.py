"""``python -m fieldrepair_plugin.shadow_process``: a candidate answers a copy of some of the champion's traffic.

It reads what the champion was asked from the field log, as the monitor does, and so is never in the request path: it
comes a second or two after the clients' answers, at a lower priority, and when it cannot keep up it drops and counts.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Sequence
from itertools import groupby
from random import Random
from typing import cast

import httpx
import numpy as np
import numpy.typing as npt

from fieldrepair_monitoring.backoff import Backoff
from fieldrepair_monitoring.errors import MonitoringError
from fieldrepair_monitoring.lifecycle import stopped_by_signals
from fieldrepair_plugin.request_form import request_body, request_columns
from fieldrepair_plugin.shadow_accuracy import VersionAccuracy
from fieldrepair_plugin.shadow_comparison import Comparison
from fieldrepair_plugin.shadow_order import ORDER_VARIABLE, ShadowOrder
from fieldrepair_plugin.shadow_sampling import LoggedRequest, Sampler
from fieldrepair_service.case_book import CaseBook, TrialKind, open_case_book
from fieldrepair_service.errors import DecodeError, InputError, StoreError
from fieldrepair_service.field_log import FieldLog
from fieldrepair_service.protocols.mlflow import read_predictions
from fieldrepair_service.trial_reports import ShadowReport, read_report

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_REPORT_SECONDS = 2.0
_READ_ROWS = 5000
_WAITS_FOR_WORK = 0.5
_COLUMNS = ("request_id", "predicted_class", "confidence", "execution_time_ms")

Instances = npt.NDArray[np.generic]


class Shadow:
    """One shadow: a thread reads, another asks the candidate, and the caller's reports.

    Args:
        order: what to do.
        log: the field log.
        book: the case book.
    """

    def __init__(self, order: ShadowOrder, log: FieldLog, book: CaseBook) -> None:
        self._order, self._log, self._book = order, log, book
        self._trial = book.begin_trial(
            TrialKind.SHADOW, order.model_name, order.champion_version, order.candidate_version
        )
        self._columns = request_columns(order.candidate_model)
        self._champion, self._candidate, self._problem = _load(order)
        known = self._candidate or self._champion
        self._comparison = Comparison(
            read_report(ShadowReport, self._trial.report),
            known.handover.class_names if known else (),
            known.handover.input.model_dump(mode="json") if known else {},
        )
        self._sampler = Sampler(order.inputs_per_second, Random())  # noqa: S311 - nothing to guard
        self._waiting: queue.SimpleQueue[tuple[LoggedRequest, Instances]] = queue.SimpleQueue()
        self._waiting_inputs = 0
        self._lock = threading.Lock()

    def run(self, stop: threading.Event) -> None:
        """Go on until ``stop`` is set. Stores and a candidate that do not answer are tried again."""
        threads = [
            threading.Thread(target=work, args=(stop,), name=f"shadow-{work.__name__}", daemon=True)
            for work in (self._read, self._ask)
        ]
        for thread in threads:
            thread.start()
        while not stop.wait(_REPORT_SECONDS):
            self._report()
        for thread in threads:
            thread.join()
        self._report()

    # -- reading -------------------------------------------------------------------------------------------------

    def _read(self, stop: threading.Event) -> None:
        pause = Backoff(_LOOK_SECONDS, 60.0)
        cursor = None
        while not stop.is_set():
            try:
                # What was asked before the shadow began is not live any more.
                cursor = self._log.end() if cursor is None else cursor
                rows = self._log.read_after(
                    cursor,
                    limit=_READ_ROWS,
                    model_name=self._order.model_name,
                    model_version=self._order.champion_version,
                    columns=_COLUMNS,
                )
                self._take(requests_of(rows.to_table().to_pylist()))
                cursor = rows.cursor_after(cursor)
            except (StoreError, OSError) as error:  # OSError: a file that was vacuumed meanwhile
                wait = pause.failed()
                logger.warning("the field log is not read, again in %.0f s: %s", wait, error)
                stop.wait(wait)
                continue
            pause.succeeded()
            if len(rows) < _READ_ROWS:
                stop.wait(_LOOK_SECONDS)

    def _take(self, requests: Sequence[LoggedRequest]) -> None:
        """Draw some of them, and put those for which there is room into the queue."""
        self._comparison.saw(sum(len(request.rows) for request in requests))
        drawn, left_out = self._sampler.draw(requests, time.monotonic())
        for reason, inputs in left_out.items():
            self._comparison.drop(reason, inputs)
        chosen: list[LoggedRequest] = []
        for request in drawn:
            with self._lock:
                room = self._waiting_inputs + len(request.rows) <= self._order.queue_inputs
                self._waiting_inputs += len(request.rows) if room else 0
            if room:
                chosen.append(request)
            else:
                self._comparison.drop("queue_full", len(request.rows))
        try:
            keys = [key for request in chosen for key in request.keys]
            found = self._log.read_rows(keys, ("input", "dtype", "shape"))
        except (StoreError, OSError) as error:
            logger.warning("the inputs of %d requests cannot be read: %s", len(chosen), error)
            self._give_up(chosen, "input_gone")
            return
        at = 0
        for request in chosen:
            count = len(request.rows)
            part = found.take(slice(at, at + count))
            at += count
            try:
                self._waiting.put((request, part.inputs()))
            except InputError:
                self._give_up([request], "mixed_inputs")

    def _give_up(self, requests: Sequence[LoggedRequest], reason: str) -> None:
        inputs = sum(len(request.rows) for request in requests)
        self._comparison.drop(reason, inputs)
        self._done(inputs)

    def _done(self, inputs: int) -> None:
        with self._lock:
            self._waiting_inputs -= inputs

    # -- asking --------------------------------------------------------------------------------------------------

    def _ask(self, stop: threading.Event) -> None:
        with httpx.Client(timeout=self._order.request_seconds, trust_env=False) as client:
            while not stop.is_set():
                try:
                    request, instances = self._waiting.get(timeout=_WAITS_FOR_WORK)
                except queue.Empty:
                    continue
                self._repeat(client, request, instances)
                self._done(len(request.rows))

    def _repeat(self, client: httpx.Client, request: LoggedRequest, instances: Instances) -> None:
        body = request_body(instances, self._columns)
        began = time.perf_counter()
        try:
            answer = client.post(
                f"{self._order.candidate_url}/invocations",
                content=body,
                headers={"content-type": "application/json"},
            )
        except httpx.HTTPError as error:
            logger.info("the candidate does not answer: %r", error)
            self._comparison.drop("candidate_silent", len(request.rows))
            return
        took = (time.perf_counter() - began) * 1000
        if answer.status_code != 200:
            logger.info("the candidate answers %d: %s", answer.status_code, answer.text[:300])
            self._comparison.drop("candidate_failed", len(request.rows))
            return
        try:
            predictions = read_predictions(answer.content, len(request.rows))
        except DecodeError as error:
            logger.info("the candidate's answer cannot be read: %s", error)
            self._comparison.drop("candidate_answer_unreadable", len(request.rows))
            return
        self._comparison.answered(request, predictions, took)
        self._estimate(instances)

    def _estimate(self, instances: Instances) -> None:
        try:
            for version in (self._champion, self._candidate):
                if version is not None:
                    version.add(instances)
        except MonitoringError as error:
            if self._problem != str(error):
                logger.warning("no accuracy can be estimated: %s", error)
            self._problem = str(error)

    # -- reporting -----------------------------------------------------------------------------------------------

    def _report(self) -> None:
        champion = self._champion.estimate() if self._champion else None
        candidate = self._candidate.estimate() if self._candidate else None
        report = self._comparison.report(champion, candidate, self._problem)
        try:
            self._book.report_trial(self._trial.id, report.model_dump())
        except StoreError as error:
            logger.warning("the case book does not take the shadow's report: %s", error)


def requests_of(rows: Sequence[dict[str, object]]) -> list[LoggedRequest]:
    """Rows of the field log, in reading order, as the requests they came in."""
    requests: list[LoggedRequest] = []
    for request_id, group in groupby(rows, key=lambda row: str(row["request_id"])):
        members = list(group)
        requests.append(
            LoggedRequest(
                request_id=request_id,
                rows=tuple(cast(int, row["row"]) for row in members),
                classes=tuple(cast("int | None", row["predicted_class"]) for row in members),
                confidences=tuple(cast("float | None", row["confidence"]) for row in members),
                milliseconds=cast(float, members[0]["execution_time_ms"]),
            )
        )
    return requests


def _load(order: ShadowOrder) -> tuple[VersionAccuracy | None, VersionAccuracy | None, str]:
    """Champion and candidate for the estimates, or why there are none; a comparison is worth having without."""
    try:
        versions = [
            VersionAccuracy.load(order.model_name, version, order.cache_dir, order.device)
            for version in (order.champion_version, order.candidate_version)
        ]
    except MonitoringError as error:
        logger.warning("no accuracy can be estimated: %s", error)
        return None, None, str(error)
    return versions[0], versions[1], ""


def main() -> int:
    """Run until SIGTERM or SIGINT; the exit status."""
    import torch

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    order = ShadowOrder.model_validate_json(os.environ[ORDER_VARIABLE])
    torch.set_num_threads(1)
    with stopped_by_signals("stopping the shadow") as stop, open_case_book(order.case_book) as book:
        Shadow(order, FieldLog.open(order.field_log), book).run(stop)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
