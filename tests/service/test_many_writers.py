"""Several shippers write one table at once, locally and on S3: each exchange is there once, whatever the upkeep does.

S3 is moto's server here: a stand-in, not Amazon's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

import boto3
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from fieldrepair_service.drops import EXCHANGES_LOGGED
from fieldrepair_service.exchange import Exchange
from fieldrepair_service.field_log import FIELD_LOG_SCHEMA, Cursor, FieldLog
from fieldrepair_service.field_log_maintenance import TASK, Maintenance, Upkeep
from fieldrepair_service.spool import SETTLED, Spool, read_counters
from tests.servers import running_s3, s3_environment

NOW_MS = 1_790_000_000_000


@pytest.fixture(scope="module")
def s3_server() -> Generator[str]:
    """URL of moto's S3 on 127.0.0.1."""
    with running_s3() as url:
        yield url


@pytest.fixture
def s3_table(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket's URI; the environment names the server, as a deployment's does."""
    for name, value in s3_environment(s3_server).items():
        monkeypatch.setenv(name, value)
    bucket = f"bucket-{time.monotonic_ns()}"
    boto3.client("s3", region_name="us-east-1").create_bucket(Bucket=bucket)
    return f"s3://{bucket}/log"


def fill(path: Path, name: str, count: int) -> None:
    """A spool with ``count`` exchanges of two rows each, asked for by client ``name-<k>``."""
    spool = Spool.open(path)
    answer = json.dumps({"predictions": [[0.25, 0.75]] * 2}).encode()
    spool.write(
        [
            Exchange(
                NOW_MS + k, f"{name}-{k}", "digits", "1", "mlflow", 200, 1.0, 1.0, "application/json", "",
                json.dumps({"inputs": [[k, 0.5], [k, 1.5]]}).encode(), "application/json", "", answer,
            )
            for k in range(count)
        ],
        {},
    )  # fmt: skip
    spool.close()


def ship(spools: Sequence[Path], where: str) -> None:
    """A shipper process for each spool, all at once: small commits, merged often. Until every spool is empty."""
    options = [f"--field-log={where}", "--flush-seconds=0.01", "--flush-exchanges=6", "--compact-every=4"]
    shippers = [
        subprocess.Popen(
            [sys.executable, "-m", "fieldrepair_service.shipper", f"--spool={spool}", *options, "--vacuum-hours=1"],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for spool in spools
    ]
    try:
        deadline = time.monotonic() + 120
        while any(Spool.attach(spool).waiting() for spool in spools):
            assert time.monotonic() < deadline
            assert all(each.poll() is None for each in shippers)
            time.sleep(0.1)
    finally:
        logs = [each.communicate(timeout=60)[1].decode() for each in shippers]
    assert [each.returncode for each in shippers] == [0] * len(shippers), logs


def clients(log: FieldLog) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for piece in log.batches(columns=["client_request_id", "row"]):
        found += zip(piece.column("client_request_id").to_pylist(), piece.column("row").to_pylist(), strict=True)
    return sorted(found)


def check_exactly_once(folder: Path, where: str, writers: str, count: int) -> None:
    spools = [folder / f"{writer}.db" for writer in writers]
    for writer, spool in zip(writers, spools, strict=True):
        fill(spool, writer, count)
    ship(spools, where)
    expected = sorted((f"{writer}-{k}", row) for writer in writers for k in range(count) for row in (0, 1))
    log = FieldLog.open(where, create=False)
    assert clients(log) == expected
    for spool in spools:
        counters, _ = read_counters(spool)
        assert counters[SETTLED] == counters[EXCHANGES_LOGGED] == count
    # They did merge files, under each other's appends: without it there would be one for each commit.
    assert len(DeltaTable(where).file_uris()) < len(writers) * count // 6
    # A reader half way through stays where it is while the table is merged and swept.
    reader = FieldLog.open(where)
    first = reader.read_after({}, limit=count)
    cursor: Cursor = first.cursor_after({})
    log.compact()
    assert log.vacuum(timedelta(0)) > 0
    rest = reader.read_after(cursor, limit=10_000)
    assert clients(log) == expected
    assert len({*first.keys, *rest.keys}) == len(first) + len(rest) == len(expected)


def test_three_shippers_write_one_local_table(tmp_path: Path) -> None:
    check_exactly_once(tmp_path, str(tmp_path / "log"), "abc", 60)


def test_two_shippers_write_one_table_on_s3(tmp_path: Path, s3_table: str) -> None:
    check_exactly_once(tmp_path, s3_table, "ab", 36)
    log = FieldLog.open(s3_table)
    assert log.claim(TASK, 2**30)
    assert not FieldLog.open(s3_table).claim(TASK, 2**30)
    assert log.delete_before(datetime.fromtimestamp(NOW_MS / 1000, timezone.utc).date() + timedelta(days=1)) == 144
    assert log.count() == 0


def day_rows(day_ms: int, seq: int, writer: str = "w") -> pa.Table:
    row = {
        "writer": writer, "seq": seq, "row": 0, "request_id": f"{writer}{seq}", "timestamp_ms": day_ms,
        "date": datetime.fromtimestamp(day_ms / 1000, timezone.utc).date().isoformat(), "model_name": "m",
        "model_version": "1", "protocol": "mlflow", "status_code": 200, "execution_time_ms": 1.0,
        "sampling_fraction": 1.0, "input": b"\0\0\0\0", "dtype": "float32", "shape": [1],
    }  # fmt: skip
    return pa.Table.from_pylist([row], schema=FIELD_LOG_SCHEMA)


def test_retention_is_done_once_a_day_by_one_writer(tmp_path: Path) -> None:
    day = 86_400_000
    log = FieldLog.open(tmp_path / "log")
    for at in range(5):
        log.append(day_rows(NOW_MS + at * day, at), writer="w", last_seq=at)
    now = (NOW_MS + 4 * day) / 1000
    clock = [now]
    writers = [
        Maintenance(FieldLog.open(tmp_path / "log"), Upkeep(0, retention_days=2), "w", lambda: clock[0])
        for _ in range(3)
    ]
    version = log.version
    for writer in writers:
        writer.look()
    assert log.count() == 3  # the day itself and the two before
    assert log.version - version <= 4  # one claim, one delete, one vacuum of two commits
    for writer in writers:
        writer.look()
    clock[0] += 86_400
    log.append(day_rows(NOW_MS + 5 * day, 9), writer="w", last_seq=9)
    for writer in reversed(writers):
        writer.look()
    assert log.count() == 3
    keeper = Maintenance(FieldLog.open(tmp_path / "log"), Upkeep(0), "w", lambda: now + 900 * 86_400)
    keeper.look()
    assert log.count() == 3  # 0 days: for ever
