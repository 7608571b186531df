"""The redactor runs before anything is stored, in a process of its own, and what it fails at is never stored raw."""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fieldrepair_service import drops
from fieldrepair_service.capture import Capture, CaptureLimits
from fieldrepair_service.errors import ConfigurationError
from fieldrepair_service.exchange import Exchange
from fieldrepair_service.field_log import FieldLog
from fieldrepair_service.redaction import decode_redacted
from fieldrepair_service.redactor_process import RedactorProcess, check_redactor
from fieldrepair_service.shipping import Shipper
from fieldrepair_service.spool import SETTLED, Spool

SECRET = "4.242424"
REDACTORS = """
import os, sys, time
import numpy as np

def blank(exchange):
    print("printing does no harm")
    kind = exchange.headers.get("x-do", "")
    if kind == "raise":
        raise ValueError("secret of " + exchange.client_request_id)
    if kind == "die":
        os._exit(9)
    if kind == "hang":
        time.sleep(60)
    if kind == "away":
        return None
    if kind == "shorten":
        exchange.inputs = exchange.inputs[:1]
        return exchange
    exchange.inputs[:, 0] = 0
    exchange.client_request_id = None
    exchange.headers = {name: "x" for name in exchange.headers}
    return exchange
"""


@pytest.fixture
def redactor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[RedactorProcess]:
    """An installed package with a redactor named ``blank``."""
    site = tmp_path / "site"
    (site / "redactors_of_a_test-1.dist-info").mkdir(parents=True)
    (site / "redactors_of_a_test.py").write_text(REDACTORS)
    about = site / "redactors_of_a_test-1.dist-info"
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: redactors-of-a-test\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[fieldrepair.redactors]\nblank = redactors_of_a_test:blank\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")])))
    monkeypatch.syspath_prepend(str(site))
    started = RedactorProcess("blank", timeout=5)
    yield started
    started.close()


def exchange(do: str = "", **changes: object) -> Exchange:
    made = Exchange(
        timestamp_ms=1_760_000_000_000,
        client_request_id="person-7",
        model_name="digits",
        model_version="1",
        protocol="mlflow",
        status_code=200,
        execution_time_ms=1.0,
        sampling_fraction=1.0,
        request_type="application/json",
        request_encoding="",
        request_body=f'{{"inputs": [[{SECRET}, 1.5], [{SECRET}, 2.5]]}}'.encode(),
        answer_type="application/json",
        answer_encoding="",
        answer_body=b'{"predictions": [[0.25, 0.75], [1.0, 0.0]]}',
        request_path="/invocations",
        headers=json.dumps({"x-do": do}),
        trace_id="1" * 32,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def test_nothing_raw_is_stored_and_every_exchange_is_counted(redactor: RedactorProcess, tmp_path: Path) -> None:
    check_redactor("blank")
    capture = Capture(
        tmp_path / "spool.db", CaptureLimits(), sync=False, on_new_spool=lambda: None, prepare=redactor.redact
    )
    for kind in ("", "raise", "away", "shorten", ""):
        capture.offer(exchange(kind))
    capture.offer(exchange(request_body=f"{SECRET} oops".encode()))
    capture.offer(exchange("die"))
    capture.close()
    counts = capture.counts()
    assert (counts.accepted, counts.queued, counts.queued_bytes, counts.dropped.total()) == (7, 0, 0, 0)
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("spool.db*"))
    for secret in (SECRET.encode(), np.float32(SECRET).tobytes(), b"person-7", b"secret of"):
        assert secret not in stored

    spool = Spool.attach(tmp_path / "spool.db")
    log = FieldLog.open(tmp_path / "field_log")
    Shipper(spool, log).ship(100)
    counters = spool.counters()
    assert counters[SETTLED] == 7
    assert {name: count for name, count in counters.items() if name.startswith(drops.EXCHANGE_DROPPED)} == {
        drops.EXCHANGE_DROPPED + drops.REDACTED_AWAY: 1,
        drops.EXCHANGE_DROPPED + drops.REDACTOR_FAILED: 3,
        drops.EXCHANGE_DROPPED + drops.MALFORMED_REQUEST: 1,
    }
    assert counters[drops.EXCHANGES_LOGGED] == 2
    rows = log.read_after({}, limit=10)
    np.testing.assert_array_equal(rows.inputs()[:2], np.array([[0, 1.5], [0, 2.5]], dtype=np.float32))
    first = rows.to_table().to_pylist()[0]
    assert (first["client_request_id"], first["headers"], first["trace_id"]) == (None, [("x-do", "x")], "1" * 32)
    assert (first["model_name"], first["model_version"], first["protocol"]) == ("digits", "1", "mlflow")
    assert (first["predicted_class"], first["confidence"]) == (1, 0.75)


def test_a_redactor_that_takes_too_long_is_stopped(redactor: RedactorProcess) -> None:
    assert redactor.redact([exchange()])[0].redaction == "done"  # it is up
    hasty = RedactorProcess("blank", timeout=0.3)
    try:
        hasty.redact([exchange("away")])
        (left,) = hasty.redact([exchange("hang")])
    finally:
        hasty.close()
    assert left.redaction == drops.REDACTOR_FAILED
    assert (left.request_body, left.answer_body, left.headers, left.client_request_id, left.request_path) == (
        b"", b"", "", None, "",
    )  # fmt: skip


def test_a_redactor_that_is_not_installed_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="--redactor: there is no entry point 'nobody'"):
        check_redactor("nobody")


def test_a_redactor_that_does_not_load_stores_nothing(redactor: RedactorProcess) -> None:
    broken = RedactorProcess("nobody", timeout=1)
    try:
        assert [each.redaction for each in broken.redact([exchange(), exchange()])] == [drops.REDACTOR_FAILED] * 2
    finally:
        broken.close()


def test_names_of_columns_survive_redaction(redactor: RedactorProcess) -> None:
    body = b'{"dataframe_records": [{"name_code": 4.5, "age": 30.5}]}'
    table = exchange(request_body=body, answer_body=b'{"predictions": [[0.25, 0.75]]}')
    decoded = decode_redacted(redactor.redact([table])[0])
    assert decoded.columns == ("name_code", "age")
    assert decoded.inputs.tolist() == [[0.0, 30.5]]
