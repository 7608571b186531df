"""The accuracy that labels show, beside the one estimated without them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import cast

import numpy as np

from fieldrepair_monitoring.metrics import MonitorMetrics
from fieldrepair_service.case_book import OPEN_STATES, Case, CaseBook, Purpose
from fieldrepair_service.errors import RowsNotFound
from fieldrepair_service.field_log import FieldLog

logger = logging.getLogger(__name__)


class LabelledAccuracy:
    """Measures the served version on the acceptance samples of cases at work.

    These are drawn at random from the field inputs since the shift began, so the share of right answers among them is
    an unbiased measure; the inputs that a repair chooses are not. A case is measured again when it has more labels.

    Args:
        log: the field log.
        book: the case book.
        metrics: where to show it.
    """

    def __init__(self, log: FieldLog, book: CaseBook, metrics: MonitorMetrics) -> None:
        self._log = log
        self._book = book
        self._metrics = metrics
        self._measured: dict[int, int] = {}

    def refresh(self, model_name: str | None = None) -> None:
        """Measure every case at work that has new labels, and note the result with its drift event.

        Args:
            model_name: only cases of this model.

        Raises:
            StoreError: field log or case book does not answer.
        """
        at_work = [case for state in sorted(OPEN_STATES) for case in self._book.cases(state)]
        self._measured = {case.id: self._measured.get(case.id, 0) for case in at_work}
        for case in at_work:
            if model_name in (None, case.model_name):
                self._measure(case)

    def _measure(self, case: Case) -> None:
        labels = self._book.labels(case.id, Purpose.ACCEPTANCE)
        if len(labels) == self._measured[case.id]:
            return
        self._measured[case.id] = len(labels)
        keys = [(request_id, row) for request_id, row, _ in labels]
        try:
            rows = self._log.read_rows(keys, columns=["predicted_class"])
        except RowsNotFound as error:
            logger.info("case %d: its labelled accuracy is not known: %s", case.id, error)
            return
        answers: list[int | None] = rows.to_table().column("predicted_class").to_pylist()
        # A model server that answers with classes only, in a form nobody understands, leaves no predicted class.
        right = [answer == label for answer, (_, _, label) in zip(answers, labels, strict=True) if answer is not None]
        if not right:
            return
        accuracy = float(np.mean(right))
        names = (case.model_name, case.model_version)
        self._metrics.labelled_accuracy.labels(*names).set(accuracy)
        self._metrics.labelled_inputs.labels(*names).set(len(right))
        event = self._book.event(case.event_id)
        if event.explanation is not None:
            known = cast("Mapping[str, object]", event.explanation.get("accuracy") or {})
            told = {**known, "labelled": accuracy, "labelled_count": len(right)}
            self._book.explain_event(event.id, {**event.explanation, "accuracy": told})
