from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import pytest

from fieldrepair_monitoring.alert_bodies import slack_body
from fieldrepair_monitoring.alerts import Webhook, deliver, due
from fieldrepair_monitoring.metrics import MonitorMetrics
from fieldrepair_service.case_book import (
    CANDIDATE_WAITING,
    CaseBook,
    NewDriftEvent,
    Notification,
    WindowRecord,
    open_case_book,
)
from fieldrepair_service.errors import StoreUnavailable


class Receiver:
    """A real HTTP server that remembers what it got and answers what it is told to."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], dict[str, Any]]] = []
        self.answers: list[int] = []
        self.hold = threading.Event()
        self.hold.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append((dict(self.headers), json.loads(body)))
                receiver.hold.wait()
                self.send_response(receiver.answers.pop(0) if receiver.answers else 204)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self) -> None:
        self.hold.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def seconds(self) -> float:
        return self.now

    def milliseconds(self) -> int:
        return int(self.now * 1000)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def book(tmp_path: Path, clock: Clock) -> Iterator[CaseBook]:
    with open_case_book(f"sqlite:///{tmp_path}/book.db", clock=clock.milliseconds) as opened:
        yield opened


def raise_event(book: CaseBook, version: str = "1") -> int:
    event = book.record_windows(
        "digits",
        version,
        {"w": (9, 0)},
        [WindowRecord(0, 1, 2, 100, "mmd", 0.12, 0.01, 0.001, True, 0.61)],
        NewDriftEvent(
            model_name="digits",
            model_version=version,
            detector="mmd",
            statistic=0.12,
            p_value=0.001,
            threshold=0.01,
            window_index=0,
            cursor_start={},
            field_inputs_until_alert=100,
            estimated_accuracy=0.61,
            reference_accuracy=0.97,
            summary="MMD 0.1200 > 0.0100 in 2 of the last 3 windows",
            class_names=["a", "b"],
            input_spec={},
        ),
    )
    assert event is not None
    return event.id


@pytest.fixture
def metrics() -> MonitorMetrics:
    return MonitorMetrics()


@pytest.fixture
def post(book: CaseBook, receiver: Receiver, metrics: MonitorMetrics, clock: Clock) -> Iterator[Callable[[], int]]:
    """One round of deliveries; how many were taken."""
    with Webhook(receiver.url, timeout_s=0.5) as webhook:
        yield lambda: deliver(book, webhook, metrics, clock=clock.seconds)


def outcome(metrics: MonitorMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"fieldrepair_monitor_notifications_{name}", labels)


def test_an_event_is_posted_once_with_its_id_as_idempotency_key(
    book: CaseBook, receiver: Receiver, post: Callable[[], int], metrics: MonitorMetrics
) -> None:
    event_id = raise_event(book)
    assert post() == 1
    assert post() == 0
    [(headers, body)] = receiver.got
    assert headers["Idempotency-Key"] == str(event_id)
    assert headers["Content-Type"] == "application/json"
    assert "Authorization" not in headers
    assert body == {
        "kind": "drift_event_opened",
        "text": "fieldrepair: digits 1: MMD 0.1200 > 0.0100 in 2 of the last 3 windows",
        "notification_id": 1,
        "created_ms": 1_700_000_000_000,
        "event_id": event_id,
        "case_id": 1,
        "opened_case": True,
        "model_name": "digits",
        "model_version": "1",
        "detector": "mmd",
        "statistic": 0.12,
        "p_value": 0.001,
        "threshold": 0.01,
        "field_inputs_until_alert": 100,
        "estimated_accuracy": 0.61,
        "reference_accuracy": 0.97,
        "summary": "MMD 0.1200 > 0.0100 in 2 of the last 3 windows",
        "opened_ms": 1_700_000_000_000,
    }
    assert outcome(metrics, "total", outcome="taken") == 1
    assert outcome(metrics, "pending") == 0


def test_a_refused_alert_is_tried_again_after_growing_pauses(
    book: CaseBook, receiver: Receiver, post: Callable[[], int], clock: Clock, metrics: MonitorMetrics
) -> None:
    raise_event(book)
    receiver.answers = [500, 404, 302]
    pauses: list[float] = []
    while True:
        began = clock.now
        while len(receiver.got) == len(pauses):
            post()
            clock.now += 0.5
        pauses.append(clock.now - 0.5 - began)
        if not book.pending_notifications():
            break
    assert pauses == [0, 1.5, 3.5, 7.5], "2, 4 and 8 seconds, counted in steps of half a second"
    assert len({headers["Idempotency-Key"] for headers, _ in receiver.got}) == 1
    assert outcome(metrics, "total", outcome="failed") == 3
    assert outcome(metrics, "total", outcome="taken") == 1


def test_what_went_wrong_is_in_the_case_book(book: CaseBook, receiver: Receiver, post: Callable[[], int]) -> None:
    raise_event(book)
    receiver.answers = [503]
    post()
    [waiting] = book.pending_notifications()
    assert (waiting.attempts, waiting.last_error) == (1, "HTTP 503: ")
    assert due(waiting) == 1_700_000_002.0


def test_pauses_end_at_five_minutes_however_often_it_failed(book: CaseBook) -> None:
    raise_event(book)
    for _ in range(40):
        book.mark_notified(1, "no")
    assert due(book.pending_notifications()[0]) == 1_700_000_300.0


def test_one_alert_that_fails_does_not_hold_up_the_next(
    book: CaseBook, receiver: Receiver, post: Callable[[], int], metrics: MonitorMetrics
) -> None:
    raise_event(book)
    second = raise_event(book, "2")
    receiver.answers = [500]
    assert post() == 1
    assert receiver.got[-1][0]["Idempotency-Key"] == str(second)
    assert outcome(metrics, "pending") == 1


def test_a_receiver_that_does_not_answer_in_time_or_is_not_there(
    book: CaseBook, receiver: Receiver, post: Callable[[], int], metrics: MonitorMetrics, clock: Clock
) -> None:
    raise_event(book)
    receiver.hold.clear()
    assert post() == 0
    receiver.hold.set()
    assert str(book.pending_notifications()[0].last_error).startswith("ReadTimeout")
    clock.now += 10
    with Webhook("http://127.0.0.1:9/", timeout_s=0.5) as nobody:
        assert deliver(book, nobody, metrics, clock=clock.seconds) == 0
    assert str(book.pending_notifications()[0].last_error).startswith("ConnectError")
    clock.now += 10
    assert post() == 1


def test_a_crash_between_posting_and_noting_posts_again_rather_than_never(
    book: CaseBook, receiver: Receiver, post: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    raise_event(book)

    def unavailable(*_arguments: object) -> None:
        raise StoreUnavailable("gone")

    with monkeypatch.context() as patch:
        patch.setattr(CaseBook, "mark_notified", unavailable)
        with pytest.raises(StoreUnavailable):
            post()
    assert post() == 1
    assert [headers["Idempotency-Key"] for headers, _ in receiver.got] == ["1", "1"]


def test_a_token_is_sent_as_bearer(book: CaseBook, receiver: Receiver, metrics: MonitorMetrics, clock: Clock) -> None:
    raise_event(book)
    with Webhook(receiver.url, token="s3cret") as webhook:
        assert deliver(book, webhook, metrics, clock=clock.seconds) == 1
    assert receiver.got[0][0]["Authorization"] == "Bearer s3cret"


def test_slack_gets_a_message_it_can_show(
    book: CaseBook, receiver: Receiver, metrics: MonitorMetrics, clock: Clock
) -> None:
    raise_event(book)
    with Webhook(receiver.url, body=slack_body) as webhook:
        assert deliver(book, webhook, metrics, clock=clock.seconds) == 1
    [(headers, body)] = receiver.got
    assert headers["Content-Type"] == "application/json"
    assert set(body) == {"text", "blocks"}, "Slack refuses a message with fields it does not know"
    assert body["text"] == "fieldrepair: digits 1: MMD 0.1200 &gt; 0.0100 in 2 of the last 3 windows"
    header, said, facts, context = body["blocks"]
    assert header == {"type": "header", "text": {"type": "plain_text", "text": "The field has shifted"}}
    assert said["text"] == {"type": "mrkdwn", "text": "MMD 0.1200 &gt; 0.0100 in 2 of the last 3 windows"}
    assert [field["text"] for field in facts["fields"]] == [
        "*Model*\ndigits, version 1",
        "*Case*\n1",
        "*Estimated accuracy*\n61%",
        "*On the reference*\n97%",
    ]
    assert context["type"] == "context"


def test_slack_is_told_of_a_candidate_and_its_limits_are_kept() -> None:
    reason = "<!channel> better & " + "more " * 2000
    waiting = Notification(
        id=7,
        kind=CANDIDATE_WAITING,
        event_id=None,
        case_id=3,
        payload={"case_id": 3, "model_name": "a<b", "model_version": "1", "candidate_version": "2", "summary": reason},
        created_ms=0,
        attempts=0,
        last_attempt_ms=None,
        last_error=None,
        sent_ms=None,
    )
    header, said, facts, _ = cast("list[dict[str, Any]]", slack_body(waiting)["blocks"])
    assert header["text"]["text"] == "A repaired model waits for approval"
    assert said["text"]["text"].startswith("&lt;!channel&gt; better &amp; more"), "nobody is called by a reason"
    assert len(said["text"]["text"]) <= 3000
    assert facts["fields"][0]["text"] == "*Model*\na&lt;b, version 1"
    assert facts["fields"][-1]["text"] == "*Candidate*\nversion 2"
