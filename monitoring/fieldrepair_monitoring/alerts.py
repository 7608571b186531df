"""Posts what waits in the case book's outbox to a webhook: at least once, oldest first, with growing pauses."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

import httpx
from typing_extensions import Self

from fieldrepair_monitoring.alert_bodies import one_line, plain_body
from fieldrepair_monitoring.metrics import MonitorMetrics
from fieldrepair_service.case_book import DRIFT_EVENT_OPENED, CaseBook, Notification

logger = logging.getLogger(__name__)

LONGEST_PAUSE_S = 300.0


class Webhook:
    """One address that takes alerts as JSON. A context manager that closes its connections.

    Args:
        url: http or https address.
        token: sent as ``Authorization: Bearer``, if given.
        timeout_s: how long one attempt may take.
        body: makes the JSON of a message: :func:`plain_body` or :func:`slack_body`.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout_s: float = 10.0,
        body: Callable[[Notification], Mapping[str, object]] = plain_body,
    ) -> None:
        headers = {"User-Agent": "fieldrepair-monitor"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        self._url = url
        self._body = body
        self._client = httpx.Client(headers=headers, timeout=timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def post(self, notification: Notification) -> str | None:
        """Post one message. A drift event's id is its idempotency key, so a receiver can drop repetitions.

        Returns:
            None if the receiver took it (any 2xx), else what went wrong.
        """
        content = self._body(notification)
        try:
            answer = self._client.post(
                self._url, json=content, headers={"Idempotency-Key": idempotency_key(notification)}
            )
        except httpx.HTTPError as error:
            return f"{type(error).__name__}: {error}"
        if answer.is_success:
            return None
        return f"HTTP {answer.status_code}: {answer.text[:200]}"


def idempotency_key(notification: Notification) -> str:
    """The drift event's id; for messages of another kind, one that no event can have."""
    if notification.kind == DRIFT_EVENT_OPENED and notification.event_id is not None:
        return str(notification.event_id)
    return f"{notification.kind}-{notification.id}"


def deliver(
    book: CaseBook, webhook: Webhook, metrics: MonitorMetrics, *, clock: Callable[[], float] = time.time
) -> int:
    """Post every message that is due, and note in the case book what came of it.

    A message that fails is tried again after 2, 4, 8, ... seconds, at most 300, without holding up the others.
    Attempts are counted in the case book, so a restart neither forgets nor hurries them.

    Args:
        book: the case book.
        webhook: where to post.
        metrics: the monitor's.
        clock: gives the time in epoch seconds.

    Returns:
        How many were taken.

    Raises:
        StoreError: the case book does not answer. A message taken just before is then posted again.
    """
    taken = 0
    pending = book.pending_notifications()
    for notification in pending:
        if clock() < due(notification):
            continue
        error = webhook.post(notification)
        book.mark_notified(notification.id, error)
        metrics.notifications.labels("taken" if error is None else "failed").inc()
        if error is None:
            taken += 1
            logger.info("alert %s posted: %s", notification.id, one_line(notification))
        else:
            logger.warning(
                "alert %s could not be posted (attempt %d, will try again): %s",
                notification.id,
                notification.attempts + 1,
                error,
            )
    metrics.notifications_pending.set(len(pending) - taken)
    return taken


def due(notification: Notification) -> float:
    """When a message may be posted (again), in epoch seconds."""
    if notification.attempts == 0 or notification.last_attempt_ms is None:
        return 0.0
    pause = min(2.0 ** min(notification.attempts, 20), LONGEST_PAUSE_S)
    return notification.last_attempt_ms / 1000 + pause
