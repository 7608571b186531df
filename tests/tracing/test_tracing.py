"""When traces are on, and what becomes of spans."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from fieldrepair_service import tracing
from fieldrepair_service.errors import ConfigurationError
from fieldrepair_service.tracing import NO_TRACING, OpenTelemetry, SpanRef, open_sampler, open_tracing

if TYPE_CHECKING:
    from tests.tracing.conftest import Collector

SetVariables = Callable[..., None]


@pytest.mark.parametrize(
    ("variables", "endpoint", "on"),
    [
        ({}, None, False),
        ({}, "http://127.0.0.1:4318", True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, None, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, None, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, None, True),
        ({"OTEL_TRACES_EXPORTER": "console"}, None, True),
        ({"OTEL_TRACES_EXPORTER": "none"}, "http://127.0.0.1:4318", False),
        ({"OTEL_SDK_DISABLED": "true"}, "http://127.0.0.1:4318", False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, None, False),
    ],
)
def test_on_by_the_setting_or_by_opentelemetrys_variables(
    no_otel: SetVariables, variables: dict[str, str], endpoint: str | None, on: bool
) -> None:
    no_otel(**variables)
    opened = open_tracing("test", endpoint)
    opened.close()
    assert isinstance(opened, OpenTelemetry) == on
    assert (open_sampler(endpoint) is not None) == on


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "must be one of otlp, console, none, got 'zipkin'"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "by http/protobuf, got .*=grpc"),
    ],
)
def test_what_cannot_be_is_a_warning_where_the_environment_asks_and_an_error_where_we_are_asked(
    no_otel: SetVariables, caplog: pytest.LogCaptureFixture, variables: dict[str, str], says: str
) -> None:
    no_otel(**variables)
    assert open_tracing("test", None) is NO_TRACING
    assert "no traces: " in caplog.text
    with pytest.raises(ConfigurationError, match=says):
        open_tracing("test", "http://127.0.0.1:4318")


def test_a_missing_extra_and_a_wrong_address_are_named(no_otel: SetVariables, monkeypatch: pytest.MonkeyPatch) -> None:
    no_otel()
    with pytest.raises(ConfigurationError, match=r"expected the URL of a collector.*"):
        open_tracing("test", "collector:4318")
    monkeypatch.setattr(tracing, "_installed", lambda: False)
    with pytest.raises(ConfigurationError, match=r"pip install 'fieldrepair\[tracing\]'"):
        open_sampler("http://127.0.0.1:4318")


def test_spans_have_parents_links_given_ids_and_errors(collector: Collector) -> None:
    named = SpanRef.named("event-1")
    assert named == SpanRef.named("event-1") != SpanRef.named("event-2")
    opened = open_tracing("test", collector.url)
    with (
        opened.span("outer", number=1, nothing=None) as outer,
        opened.span("given", root=True, ids=named, link=outer.ref),
    ):
        pass
    with pytest.raises(ValueError, match="broken"), opened.span("child", parent=named), opened.span("grandchild"):
        raise ValueError("broken")
    opened.close()

    (outside,), (given,), (child,), (grandchild,) = map(collector.named, ("outer", "given", "child", "grandchild"))
    assert outside.service == "fieldrepair-test"
    assert outside.attributes == {"fieldrepair.number": 1}
    assert (given.trace_id, given.span_id, given.parent_id) == (f"{named.trace_id:032x}", f"{named.span_id:016x}", "")
    assert [link.span_id.hex() for link in given.span.links] == [outside.span_id]
    assert (child.trace_id, child.parent_id) == (given.trace_id, given.span_id)
    assert (grandchild.trace_id, grandchild.parent_id) == (given.trace_id, child.span_id)
    assert child.failed
    assert grandchild.failed
    assert [event.name for event in grandchild.span.events] == ["exception"]


def test_off_costs_nothing_and_answers_alike() -> None:
    with NO_TRACING.span("anything", parent=SpanRef(1, 2), number=1) as span:
        span.set(more=2)
        assert span.ref is None
    NO_TRACING.close()
