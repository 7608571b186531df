"""The spool: what goes in comes out, once; damage is told, set aside, and never in the way."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from fieldrepair_service.errors import SpoolError
from fieldrepair_service.exchange import Exchange
from fieldrepair_service.spool import SETTLED, SPOOLED, Spool, read_counters


def make_exchange(**changes: object) -> Exchange:
    exchange = Exchange(
        timestamp_ms=1_760_000_000_123,
        client_request_id=None,
        model_name="fashion",
        model_version="3",
        protocol="mlflow",
        status_code=200,
        execution_time_ms=1.25,
        sampling_fraction=1.0,
        request_type="application/json",
        request_encoding="",
        request_body=b'{"inputs": [[1.5, 2.0]]}',
        answer_type="application/json",
        answer_encoding="",
        answer_body=b'{"predictions": [[0.25, 0.75]]}',
    )
    return replace(exchange, **changes)  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool.db"


def test_exchanges_come_out_as_they_went_in(path: Path) -> None:
    exchanges = [make_exchange(client_request_id="ä", answer_body=bytes([at])) for at in range(3)]
    spool = Spool.open(path)
    spool.write(exchanges, {"dropped": 2})
    items = spool.read(-1, limit=10, max_bytes=1 << 20)
    assert [item.exchange for item in items] == exchanges
    assert [item.seq for item in items] == sorted(item.seq for item in items)
    assert spool.waiting() == 3
    spool.settle(items[1].seq, {"logged": 2})
    assert [item.seq for item in spool.read(-1, limit=10, max_bytes=1 << 20)] == [items[2].seq]
    assert spool.counters() == {SPOOLED: 3, SETTLED: 2, "dropped": 2, "logged": 2}
    spool.close()
    counters, size = read_counters(path)
    assert counters[SPOOLED] == 3
    assert size > 0


def test_a_read_is_bounded_by_bytes_but_never_empty(path: Path) -> None:
    spool = Spool.open(path)
    spool.write([make_exchange(request_body=bytes(1000)) for _ in range(5)], {})
    assert len(spool.read(-1, limit=10, max_bytes=1)) == 1
    assert len(spool.read(-1, limit=10, max_bytes=2500)) == 2
    assert len(spool.read(-1, limit=3, max_bytes=1 << 20)) == 3
    spool.close()


def test_numbers_are_never_used_twice(path: Path) -> None:
    """Also when a power cut took the last commits back after the field log had settled their numbers."""
    last = -1
    for _ in range(3):
        spool = Spool.open(path)
        spool.write([make_exchange()], {})
        seq = spool.read(-1, limit=1, max_bytes=1)[0].seq
        assert seq > last + 1_000_000 or last == -1
        last = seq
        spool.settle(seq, {})
        spool.close()


def test_the_writer_id_stays_with_the_file(path: Path, tmp_path: Path) -> None:
    first = Spool.open(path)
    first.close()
    again = Spool.open(path)
    shipper = Spool.attach(path)
    other = Spool.open(tmp_path / "other.db")
    assert first.writer == again.writer == shipper.writer != other.writer
    for spool in (again, shipper, other):
        spool.close()


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("request_body", b"something else", "checksum is"),
        ("answer_body", None, "answer_body is a NoneType"),
        ("timestamp_ms", "yesterday", "timestamp_ms is a str"),
        ("model_version", "4", "checksum is"),
    ],
)
def test_a_corrupt_row_is_told_and_is_in_nobodys_way(path: Path, column: str, value: object, problem: str) -> None:
    spool = Spool.open(path)
    spool.write([make_exchange(), make_exchange(), make_exchange()], {})
    seqs = [item.seq for item in spool.read(-1, limit=3, max_bytes=1 << 20)]
    raw = sqlite3.connect(path)
    raw.execute(f"UPDATE exchanges SET {column} = ? WHERE seq = ?", (value, seqs[1]))
    raw.commit()
    good, bad, fine = spool.read(-1, limit=3, max_bytes=1 << 20)
    assert good.exchange == fine.exchange == make_exchange()
    assert bad.exchange is None
    assert bad.problem.startswith(problem)
    spool.settle(fine.seq, {}, [(bad.seq, "corrupt", bad.problem)])
    assert raw.execute("SELECT seq, reason, model_name FROM rejected").fetchall() == [(bad.seq, "corrupt", "fashion")]
    raw.close()
    spool.close()


def test_text_that_is_no_text_is_told(path: Path) -> None:
    spool = Spool.open(path)
    spool.write([make_exchange()], {})
    raw = sqlite3.connect(path)
    raw.execute("UPDATE exchanges SET model_name = CAST(X'FFFE' AS TEXT)")
    raw.commit()
    raw.close()
    assert spool.read(-1, limit=1, max_bytes=1)[0].exchange is None
    spool.close()


@pytest.mark.parametrize("damage", ["not a database at all" * 100, "", "SQLite format 3\0" + "x" * 4096])
def test_a_damaged_file_is_kept_aside_and_a_new_one_begins(
    path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_text(damage)
    spool = Spool.open(path)
    spool.write([make_exchange()], {})
    assert spool.waiting() == 1
    spool.close()
    aside = list(path.parent.glob("spool.db.damaged-*"))
    if damage:  # an empty file is an empty database
        assert len(aside) == 1
        assert aside[0].read_text() == damage
        assert "is damaged" in caplog.text


def test_damage_in_the_middle_is_found_by_a_check(path: Path) -> None:
    spool = Spool.open(path)
    spool.write([make_exchange(request_body=bytes([at]) * 3000) for at in range(60)], {})
    writer = spool.writer
    spool.close()
    content = bytearray(path.read_bytes())
    content[8 * 4096 : 40 * 4096] = b"\xff" * (32 * 4096)
    path.write_bytes(content)
    spool = Spool.open(path, check=True)
    assert spool.writer != writer
    spool.close()
    assert list(path.parent.glob("spool.db.damaged-*"))


def test_a_failed_write_leaves_nothing_behind(path: Path) -> None:
    spool = Spool.open(path)
    with pytest.raises(sqlite3.Error):
        spool.write([make_exchange(), make_exchange(request_type=object())], {"dropped": 1})
    assert spool.waiting() == 0
    assert spool.counters() == {}
    spool.write([make_exchange()], {})
    assert spool.waiting() == 1
    spool.close()


def test_a_place_that_cannot_be_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolError, match="cannot be opened"):
        Spool.open(tmp_path / "file" / "spool.db")
    with pytest.raises(SpoolError, match="cannot be read"):
        Spool.attach(tmp_path / "nowhere.db")
    assert read_counters(tmp_path / "nowhere.db") == ({}, 0)


def test_only_the_latest_rejected_are_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fieldrepair_service.spool._REJECTED_KEPT", 2)
    spool = Spool.open(path)
    spool.write([make_exchange() for _ in range(4)], {})
    seqs = [item.seq for item in spool.read(-1, limit=4, max_bytes=1 << 20)]
    spool.settle(seqs[-1], {}, [(seq, "corrupt", "") for seq in seqs])
    raw = sqlite3.connect(path)
    assert [row[0] for row in raw.execute("SELECT seq FROM rejected ORDER BY seq")] == seqs[2:]
    raw.close()
    spool.close()
