"""The shipper: every exchange becomes rows exactly once, or is counted under one reason, whatever happens between."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Generator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fieldrepair_service import drops
from fieldrepair_service.errors import StoreError
from fieldrepair_service.exchange import Exchange
from fieldrepair_service.field_log import FieldLog
from fieldrepair_service.rows import RowBatch, request_id
from fieldrepair_service.shipping import Shipper
from fieldrepair_service.spool import SETTLED, SPOOLED, Spool

NOW_MS = 1_760_000_000_123


def make_exchange(inputs: Any, predictions: Any, **changes: Any) -> Exchange:
    exchange = Exchange(
        timestamp_ms=NOW_MS,
        client_request_id="client-1",
        model_name="fashion",
        model_version="3",
        protocol="mlflow",
        status_code=200,
        execution_time_ms=1.25,
        sampling_fraction=0.5,
        request_type="application/json",
        request_encoding="",
        request_body=json.dumps({"inputs": inputs}).encode(),
        answer_type="application/json",
        answer_encoding="",
        answer_body=json.dumps({"predictions": predictions}).encode(),
    )
    return replace(exchange, **changes)


GOOD = make_exchange([[0.5, 1.5], [2.5, 3.5]], [[0.25, 0.75], [0.9, 0.1]])


@pytest.fixture
def spool(tmp_path: Path) -> Generator[Spool]:
    opened = Spool.open(tmp_path / "spool.db")
    yield opened
    opened.close()


@pytest.fixture
def log(tmp_path: Path) -> FieldLog:
    return FieldLog.open(tmp_path / "field_log")


def test_an_exchange_becomes_rows(spool: Spool, log: FieldLog) -> None:
    spool.write([GOOD], {})
    seq = spool.read(-1, limit=1, max_bytes=1)[0].seq
    assert Shipper(spool, log).ship(10) == 1
    rows = log.read_after({}, limit=10)
    np.testing.assert_array_equal(rows.inputs(), np.array([[0.5, 1.5], [2.5, 3.5]], dtype=np.float32))
    np.testing.assert_array_equal(rows.scores(), np.array([[0.25, 0.75], [0.9, 0.1]], dtype=np.float32))
    assert rows.predicted_classes().tolist() == [1, 0]
    first = rows.to_table().to_pylist()[0]
    assert first["confidence"] == 0.75
    assert (first["writer"], first["seq"], first["row"]) == (spool.writer, seq, 0)
    assert first["request_id"] == request_id(NOW_MS, spool.writer, seq)
    assert first["date"] == datetime.fromtimestamp(NOW_MS / 1000, timezone.utc).date().isoformat()
    for name in ("client_request_id", "model_name", "model_version", "protocol", "status_code", "sampling_fraction"):
        assert first[name] == getattr(GOOD, name)
    assert Shipper(spool, log).ship(10) == 0
    assert spool.counters() == {
        SPOOLED: 1,
        SETTLED: 1,
        drops.EXCHANGES_LOGGED: 1,
        drops.ROWS_DECODED: 2,
        drops.ROWS_LOGGED: 2,
    }


def test_request_ids_sort_by_time_and_are_32_digits() -> None:
    ids = [request_id(ms, "0123456789abcdef", seq) for ms, seq in [(1, 5), (2, 1), (NOW_MS, 1 << 40), (NOW_MS + 1, 0)]]
    assert ids == sorted(ids)
    assert {len(each) for each in ids} == {32}


class DiesAfterAppending(FieldLog):
    """A field log in whose process the power goes out right after the commit."""

    def append(self, *args: Any, **options: Any) -> bool:
        super().append(*args, **options)
        raise StoreError("the power went out")


def test_a_crash_between_append_and_settle_writes_nothing_twice(spool: Spool, tmp_path: Path) -> None:
    spool.write([GOOD, GOOD], {})
    with pytest.raises(StoreError, match="power"):
        Shipper(spool, DiesAfterAppending.open(tmp_path / "field_log")).ship(10)
    assert spool.waiting() == 2
    spool.write([GOOD], {})  # more came in before the next shipper was there
    log = FieldLog.open(tmp_path / "field_log")
    assert log.count() == 4
    Shipper(spool, log).ship(10)
    assert log.count() == 6
    keys = log.read_after({}, limit=100).keys
    assert len(set(keys)) == len(keys) == 6
    counters = spool.counters()
    assert counters[drops.ROWS_LOGGED] == 6
    assert counters[SETTLED] == counters[drops.EXCHANGES_LOGGED] == 3


def test_every_exchange_is_counted_once(spool: Spool, log: FieldLog) -> None:
    exchanges = [
        GOOD,
        make_exchange([[float("nan"), 1.0], [2.0, 3.0], [4.0, float("inf")]], [[0.5, 0.5]] * 3),
        make_exchange([[float("nan")]], [1]),
        make_exchange([[1.0], [2.0]], [[float("nan"), 1.0], [0.5, 0.5]]),
        make_exchange([[1.0]], [1, 2]),
        make_exchange([], []),
        make_exchange([[1.0]], [1], protocol="of the future"),
        make_exchange([[1.0]], [1], request_body=b"oops"),
    ]
    spool.write(exchanges, {})
    shipper = Shipper(spool, log)
    while shipper.ship(3):
        pass
    counters = spool.counters()
    assert counters == {
        SPOOLED: 8,
        SETTLED: 8,
        drops.EXCHANGES_LOGGED: 3,
        drops.EXCHANGE_DROPPED + drops.NOT_FINITE: 1,
        drops.EXCHANGE_DROPPED + drops.OUTPUTS_MISMATCH: 1,
        drops.EXCHANGE_DROPPED + drops.EMPTY: 1,
        drops.EXCHANGE_DROPPED + drops.UNKNOWN_PROTOCOL: 1,
        drops.EXCHANGE_DROPPED + drops.MALFORMED_REQUEST: 1,
        drops.ROWS_DECODED: 8,
        drops.ROWS_LOGGED: 4,
        drops.ROW_DROPPED + drops.NOT_FINITE: 3,
        drops.ROW_DROPPED + drops.SCORES_NOT_FINITE: 1,
    }
    # An instance keeps its place in the request when its neighbours are left out.
    assert log.read_after({}, limit=10).rows.tolist() == [0, 1, 1, 1]


def test_a_corrupt_row_is_set_aside_and_the_rest_goes_on(spool: Spool, log: FieldLog, tmp_path: Path) -> None:
    spool.write([GOOD, GOOD, GOOD], {})
    raw = sqlite3.connect(tmp_path / "spool.db")
    raw.execute("UPDATE exchanges SET request_body = X'00' WHERE seq = (SELECT MIN(seq) + 1 FROM exchanges)")
    raw.commit()
    Shipper(spool, log).ship(10)
    assert log.count() == 4
    assert spool.counters()[drops.EXCHANGE_DROPPED + drops.CORRUPT] == 1
    assert raw.execute("SELECT reason, request_body FROM rejected").fetchall() == [("corrupt", b"\0")]
    raw.close()


class _Killed(BaseException):
    """Stands for a crash of the interpreter: nothing handles it."""


def test_an_exchange_that_kills_the_decoder_is_set_aside(
    spool: Spool, log: FieldLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = make_exchange([[6.0]], [66])
    spool.write([GOOD, bomb, GOOD], {})
    decode = Shipper._add  # pyright: ignore[reportPrivateUsage]

    def explode(self: Shipper, seq: int, exchange: Exchange, rows: RowBatch) -> Any:
        if exchange == bomb:
            raise _Killed
        return decode(self, seq, exchange, rows)

    monkeypatch.setattr(Shipper, "_add", explode)
    with pytest.raises(_Killed):
        Shipper(spool, log).ship(10)
    for _ in range(2):
        with pytest.raises(_Killed):
            Shipper(spool, log).ship(10, careful=True)
    assert Shipper(spool, log).ship(10, careful=True) == 3
    counters = spool.counters()
    assert counters[drops.EXCHANGE_DROPPED + drops.DECODER_CRASHED] == 1
    assert counters[drops.EXCHANGES_LOGGED] == 2
    assert log.count() == 4


def test_a_store_that_is_away_costs_nothing(spool: Spool, tmp_path: Path) -> None:
    spool.write([GOOD], {})
    log = FieldLog.open(tmp_path / "field_log")
    (tmp_path / "field_log").rename(tmp_path / "away")
    (tmp_path / "field_log").write_text("")
    with pytest.raises(StoreError):
        Shipper(spool, log).ship(10)
    assert spool.waiting() == 1
    assert SETTLED not in spool.counters()
    (tmp_path / "field_log").unlink()
    (tmp_path / "away").rename(tmp_path / "field_log")
    assert Shipper(spool, log).ship(10) == 1
    assert log.count() == 2
