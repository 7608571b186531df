"""What is logged: routes by pattern, a fair sample, kept headers, and trace ids."""

from __future__ import annotations

import json
import random

import pytest

from fieldrepair_service.drops import EXCLUDED, NOT_SAMPLED
from fieldrepair_service.logging_policy import LoggingPolicy, header_names, trace_id_of

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize(
    ("include", "exclude", "path", "reason"),
    [
        ((), (), b"/invocations", None),
        (("/v2/models/digits/*",), (), b"/v2/models/digits/versions/3/infer", None),
        (("/v2/models/digits/*",), (), b"/v2/models/digits2/infer", EXCLUDED),
        (("/invocations", "/v2/*"), (), b"/invocations", None),
        (("/v2/*",), ("*/shadow/*",), b"/v2/models/shadow/infer", EXCLUDED),
        ((), ("/predictions/test-?",), b"/predictions/test-1", EXCLUDED),
        ((), ("/predictions/test-?",), b"/predictions/test-10", None),
        ((), ("/predictions/a.b",), b"/predictions/axb", None),
        ((), ("*",), b"/\xff", EXCLUDED),
    ],
)
def test_routes(include: tuple[str, ...], exclude: tuple[str, ...], path: bytes, reason: str | None) -> None:
    assert LoggingPolicy(include=include, exclude=exclude).left_out(path) == reason


def test_the_sample_is_as_large_as_asked() -> None:
    random.seed(0)
    policy = LoggingPolicy(sampling_fraction=0.25)
    reasons = [policy.left_out(b"/invocations") for _ in range(4000)]
    assert set(reasons) == {None, NOT_SAMPLED}
    assert 900 < reasons.count(None) < 1100
    assert LoggingPolicy(sampling_fraction=0.25, exclude=("*",)).left_out(b"/invocations") == EXCLUDED


def test_kept_headers() -> None:
    headers = [
        (b"x-tenant", b"red"),
        (b"authorization", b"secret"),
        (b"x-tenant", b"bl\xfce"),
        (b"x-long", b"a" * 2000),
    ]
    policy = LoggingPolicy(kept_headers=header_names(["X-Tenant", " x-long ", "x-none", ""]))
    assert json.loads(policy.kept(headers)) == {"x-tenant": "red, blüe", "x-long": "a" * 1000}
    assert policy.kept([(b"authorization", b"secret")]) == ""
    assert LoggingPolicy().kept(headers) == ""


@pytest.mark.parametrize(
    ("header", "trace_id"),
    [
        (f"00-{TRACE}-00f067aa0ba902b7-01", TRACE),
        (f" 00-{TRACE}-00f067aa0ba902b7-01 ", TRACE),
        (f"01-{TRACE}-00f067aa0ba902b7-01-more", TRACE),
        (f"ff-{TRACE}-00f067aa0ba902b7-01", ""),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", ""),
        (f"00-{TRACE}-{'0' * 16}-01", ""),
        (f"00-{TRACE.upper()}-00f067aa0ba902b7-01", ""),
        ("", ""),
        ("00-zz", ""),
    ],
)
def test_trace_ids(header: str, trace_id: str) -> None:
    assert trace_id_of(header.encode()) == trace_id
