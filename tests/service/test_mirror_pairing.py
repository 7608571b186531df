"""Events are read as KServe's logger writes them, and paired: in either order, for a while, in bounded memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldrepair_service.mirror.events import Event, EventRefused, check_mode, read_event
from fieldrepair_service.mirror.pairing import DUPLICATE, EXPIRED, NO_ROOM, STOPPED, Pairing

TRACEPARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def headers(kind: str | None = "request", **changes: str | None) -> list[tuple[bytes, bytes]]:
    """What KServe's logger sends, from its source: worker.go and the CloudEvents SDK's HTTP binding."""
    given: dict[str, str | None] = {
        "ce-specversion": "1.0",
        "ce-id": "9c2e4e5c-6f3c-4c7e-8f0e-1f4d5c1e2a3b",
        "ce-type": f"org.kubeflow.serving.inference.{kind}",
        "ce-source": "http://localhost:9081/",
        "ce-time": "2026-01-02T03:04:05.678901234Z",
        "ce-inferenceservicename": "digits",
        "ce-namespace": "default",
        "ce-component": "predictor",
        "ce-endpoint": "default",
        "ce-metadata": '{"X-Request-Id":["r-1"],"X-Tenant":["red","blue"]}',
        "content-type": "application/json",
        **{name.replace("_", "-"): value for name, value in changes.items()},
    }
    return [(name.encode(), value.encode()) for name, value in given.items() if value is not None]


def make(kind: str, number: int = 0, body: bytes = b"{}") -> Event:
    return read_event(headers(kind, ce_id=str(number)), body)


def test_an_event_is_read() -> None:
    event = read_event(headers(traceparent=TRACEPARENT.decode()), b"{}")
    assert (event.kind, event.id, event.inference_service) == (
        "request",
        "9c2e4e5c-6f3c-4c7e-8f0e-1f4d5c1e2a3b",
        "digits",
    )
    assert event.path == "/default/digits/default/predictor"
    assert event.time_ms == 1_767_323_045_678
    assert event.metadata == ((b"x-request-id", b"r-1"), (b"x-tenant", b"red"), (b"x-tenant", b"blue"))
    assert event.traceparent == TRACEPARENT
    answer = read_event(headers("response"), b"{}")
    assert answer.kind == "response"
    assert answer.key == event.key
    assert replace(event, kind="response", traceparent=b"") == answer


@pytest.mark.parametrize(
    ("change", "status", "reason"),
    [
        ({"ce_specversion": None}, 400, "no_event"),
        ({"ce_specversion": "0.3"}, 400, "no_event"),
        ({"ce_id": ""}, 400, "no_event"),
        ({"ce_source": None}, 400, "no_event"),
        ({"ce_type": "dev.knative.kafka.event"}, 400, "other_type"),
        ({"content_type": "application/cloudevents+json; charset=utf-8"}, 415, "structured"),
        ({"content_type": "application/cloudevents-batch+json"}, 415, "structured"),
    ],
)
def test_what_is_no_event_of_ours_is_refused(change: dict[str, str | None], status: int, reason: str) -> None:
    def come_in() -> None:
        check_mode(headers(**change))
        read_event(headers(**change), b"{}")

    with pytest.raises(EventRefused) as caught:
        come_in()
    assert (caught.value.status, caught.value.reason) == (status, reason)


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("2026-01-02T04:04:05.6+01:00", 1_767_323_045_600), ("2026-01-02T03:04:05Z", 1_767_323_045_000), ("now", 0),
     ("", 0), ("2026-13-02T03:04:05Z", 0), ("0001-01-01T00:00:00+23:59", 0)],
)  # fmt: skip
def test_times(text: str, milliseconds: int) -> None:
    assert read_event(headers(ce_time=text), b"").time_ms == milliseconds


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1}', '{"a": {"b": []}}', "null"])
def test_strange_metadata_is_none(text: str) -> None:
    assert read_event(headers(ce_metadata=text), b"").metadata == ()


def test_percent_encoded_attributes() -> None:
    event = read_event(headers(ce_inferenceservicename="dig%C3%BCts", ce_metadata="%7B%22A%22:[%22b%22]%7D"), b"")
    assert event.inference_service == "digüts"
    assert event.metadata == ((b"a", b"b"),)


@pytest.mark.parametrize("order", [("request", "response"), ("response", "request")])
def test_either_order(order: tuple[str, str]) -> None:
    pairing = Pairing(seconds=10, most_events=10, most_bytes=1 << 20)
    assert pairing.take(make(order[0]), 1.0) is None
    assert pairing.waiting == 1
    pair = pairing.take(make(order[1]), 3.5)
    assert pair is not None
    assert (pair.request.kind, pair.response.kind, pair.waited) == ("request", "response", 2.5)
    assert (pairing.waiting, pairing.waiting_bytes, pairing.pairs) == (0, 0, 1)


def test_the_same_id_of_another_component_is_another_request() -> None:
    pairing = Pairing(seconds=10, most_events=10, most_bytes=1 << 20)
    assert pairing.take(read_event(headers("request"), b""), 0) is None
    assert pairing.take(read_event(headers("response", ce_component="transformer"), b""), 0) is None
    assert pairing.waiting == 2


def test_expiry_room_duplicates_and_the_end_are_counted() -> None:
    pairing = Pairing(seconds=10, most_events=3, most_bytes=1 << 20)
    pairing.take(make("request", 0), 0)
    pairing.take(make("response", 1), 5)
    pairing.expire(10.5)
    assert pairing.unpaired["request", EXPIRED] == 1
    assert pairing.take(make("response", 0), 11) is None  # too late, so it waits by itself
    pairing.take(make("response", 0), 11)
    assert pairing.unpaired["response", DUPLICATE] == 1
    pairing.take(make("request", 2), 12)
    pairing.take(make("request", 3), 12)
    assert pairing.unpaired["response", NO_ROOM] == 1  # number 1, the oldest
    assert pairing.take(make("request", 0), 12) is not None
    pairing.take(make("request", 0), 13)  # delivered again after it was paired
    assert pairing.unpaired["request", DUPLICATE] == 1
    pairing.close()
    assert pairing.unpaired["request", STOPPED] == 2
    assert sum(pairing.taken.values()) == 2 * pairing.pairs + sum(pairing.unpaired.values()) + pairing.waiting == 8


def test_an_event_larger_than_all_room_is_given_up_at_once() -> None:
    pairing = Pairing(seconds=10, most_events=3, most_bytes=2000)
    pairing.take(make("request", 0), 0)
    pairing.take(make("request", 1, bytes(5000)), 0)
    assert (pairing.waiting, pairing.waiting_bytes) == (0, 0)
    assert pairing.unpaired["request", NO_ROOM] == 2


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["request", "response"]), st.integers(0, 5), st.integers(0, 300), st.floats(0, 3)),
        max_size=60,
    )
)
def test_every_event_is_accounted_for_and_memory_is_bounded(steps: list[tuple[str, int, int, float]]) -> None:
    pairing = Pairing(seconds=4, most_events=4, most_bytes=3000)
    now = 0.0
    for kind, number, size, pause in steps:
        now += pause
        pairing.take(make(kind, number, bytes(size)), now)
        assert pairing.waiting <= 4
        assert 0 <= pairing.waiting_bytes <= 3000
        assert sum(pairing.taken.values()) == 2 * pairing.pairs + sum(pairing.unpaired.values()) + pairing.waiting
    assert sum(pairing.taken.values()) == len(steps)
