"""Lines about single requests: with their id, as text or JSON, and not too many."""

from __future__ import annotations

import json
import logging

import pytest

from fieldrepair_service.log_format import JsonFormatter
from fieldrepair_service.request_log import RequestLog, request_id_of

TRACE = b"4bf92f3577b34da6a3ce929d0e0e4736"


def test_a_request_is_known_by_the_best_id_it_has() -> None:
    traceparent = (b"traceparent", b"00-" + TRACE + b"-00f067aa0ba902b7-01")
    assert request_id_of([traceparent, (b"x-request-id", b"mine")]) == "mine"
    assert request_id_of([traceparent]) == TRACE.decode()
    made = request_id_of([(b"traceparent", b"nonsense")])
    assert made != request_id_of([])
    assert len(made) == 16


def test_a_json_line_has_everything_by_name(caplog: pytest.LogCaptureFixture) -> None:
    RequestLog().say("UpstreamTimeout", "abc", path='/x"\n', status=504, detail="y" * 1000)
    line = json.loads(JsonFormatter("sidecar").format(caplog.records[0]))
    assert line["event"] == "UpstreamTimeout"
    assert (line["request_id"], line["path"], line["status"], line["part"]) == ("abc", '/x"\n', 504, "sidecar")
    assert line["level"] == "warning"
    assert len(line["detail"]) == 200
    assert line["time"].endswith("+00:00")
    assert "\n" not in caplog.records[0].getMessage()  # nor does a text line end where a client wants it to


def test_an_exception_goes_into_its_line() -> None:
    try:
        raise ValueError("broken")  # noqa: TRY301
    except ValueError as error:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "told %d", (1,), (type(error), error, None))
    line = json.loads(JsonFormatter("sidecar").format(record))
    assert line["message"] == "told 1"
    assert "ValueError: broken" in line["exception"]


def test_too_many_lines_of_a_kind_are_left_out_and_counted(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [5.0]
    monkeypatch.setattr("fieldrepair_service.request_log.monotonic", lambda: now[0])
    log = RequestLog()
    for _ in range(25):
        log.say("UpstreamUnreachable", "x")
    log.say("RequestTimeout", "x")  # of another kind
    assert len(caplog.records) == 11
    assert log.suppressed == 15
    now[0] = 6.0
    log.say("UpstreamUnreachable", "x")
    assert "left_out_before=15" in caplog.records[-1].getMessage()
    assert log.suppressed == 15
