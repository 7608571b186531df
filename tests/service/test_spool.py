"""The spool: what goes in comes out, once; damage is told, set aside, and never in the way."""

from __future__ import annotations

import sqlite3
from contextlib import closing
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


# What version 1 wrote, as its own code did: one exchange waits, one was rejected before.
VERSION_1 = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE exchanges (seq INTEGER PRIMARY KEY AUTOINCREMENT, timestamp_ms, client_request_id, model_name,
  model_version, protocol, status_code, execution_time_ms, sampling_fraction, request_type, request_encoding,
  request_body, answer_type, answer_encoding, answer_body, checksum);
CREATE TABLE rejected (seq INTEGER PRIMARY KEY, reason TEXT NOT NULL, detail TEXT NOT NULL, timestamp_ms,
  client_request_id, model_name, model_version, protocol, status_code, execution_time_ms, sampling_fraction,
  request_type, request_encoding, request_body, answer_type, answer_encoding, answer_body, checksum);
INSERT INTO counters VALUES ('dropped', 2), ('spooled', 1);
INSERT INTO exchanges VALUES (1048577, 1760000000123, 'client-1', 'fashion', '3', 'mlflow', 200, 1.25, 1.0,
  'application/json', '', X'7B22696E70757473223A205B5B312E352C20322E305D5D7D', 'application/json', '',
  X'7B2270726564696374696F6E73223A205B5B302E32352C20302E37355D5D7D', 3089121237);
INSERT INTO meta VALUES ('writer', 'd677449e5dbe40ab9b43c0f84bb0828a');
DELETE FROM sqlite_sequence;
INSERT INTO sqlite_sequence VALUES ('exchanges', 1048577);
PRAGMA user_version=1;
"""


def test_a_spool_of_version_1_is_shipped_on(path: Path) -> None:
    raw = sqlite3.connect(path)
    raw.execute("PRAGMA journal_mode=WAL")
    raw.executescript(VERSION_1)
    raw.close()
    later = make_exchange(protocol="open_inference", request_path="/v2/models/m/infer", request_json_length="12")
    for _ in range(2):  # the second opening finds it upgraded
        spool = Spool.open(path)
        assert spool.writer == "d677449e5dbe40ab9b43c0f84bb0828a"
        assert spool.counters() == {SPOOLED: 1, "dropped": 2}
        spool.close()
    spool = Spool.open(path)
    spool.write([later], {})
    old, new = spool.read(-1, limit=10, max_bytes=1 << 20)
    assert old.exchange == make_exchange(client_request_id="client-1")
    assert old.seq == 1048577
    assert new.exchange == later
    assert new.seq > old.seq
    spool.settle(new.seq, {}, [(old.seq, "corrupt", ""), (new.seq, "corrupt", "")])
    raw = sqlite3.connect(path)
    kept = raw.execute("SELECT request_path, answer_body, checksum FROM rejected ORDER BY seq").fetchall()
    assert kept == [("", b'{"predictions": [[0.25, 0.75]]}', 3089121237), (later.request_path, *kept[1][1:])]
    assert kept[1][2] == later.checksum()
    raw.close()
    spool.close()
    assert not list(path.parent.glob("spool.db.damaged-*"))


@pytest.mark.parametrize("name", ["request_path", "request_json_length", "answer_json_length"])
def test_the_checksum_covers_what_version_2_added(name: str) -> None:
    changed = make_exchange(**{name: "1"})
    assert changed.checksum() != make_exchange().checksum()
    assert replace(changed, **{name: "2"}).checksum() != changed.checksum()  # type: ignore[arg-type]


@pytest.mark.parametrize("version", [1, 2])
def test_what_waits_in_an_older_spool_is_read_with_a_true_checksum(path: Path, version: int) -> None:
    gone = {1: ("request_path", "request_json_length", "answer_json_length"), 2: ()}[version]
    exchange = make_exchange() if version == 1 else make_exchange(request_path="/invocations")
    with closing(Spool.open(path)) as spool:
        spool.write([exchange], {})
    with closing(sqlite3.connect(path)) as connection:
        for table in ("exchanges", "rejected"):
            for column in (*gone, "headers", "trace_id", "redaction"):
                connection.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        connection.execute(f"PRAGMA user_version={version}")
        connection.commit()
    with closing(Spool.open(path)) as spool:
        assert [item.exchange for item in spool.read(-1, limit=9, max_bytes=1 << 20)] == [exchange]
        kept = make_exchange(headers='{"x-tenant": "a"}', trace_id="0" * 32, redaction="done")
        spool.write([kept], {})
        assert spool.read(-1, limit=9, max_bytes=1 << 20)[1].exchange == kept


@pytest.mark.parametrize("name", ["headers", "trace_id", "redaction"])
def test_every_field_is_under_the_checksum(name: str) -> None:
    assert make_exchange(**{name: "a"}).checksum() != make_exchange().checksum()
    assert make_exchange(headers="a", trace_id="b").checksum() != make_exchange(headers="b", trace_id="a").checksum()


def test_a_spool_is_for_its_owner_alone(path: Path) -> None:
    path.touch(0o644)
    path.chmod(0o644)
    with closing(Spool.open(path)) as spool:
        spool.write([make_exchange()], {})
        for each in path.parent.iterdir():
            assert each.stat().st_mode & 0o077 == 0, each
