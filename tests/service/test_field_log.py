"""The field log: idempotent appends, cursors that survive compaction, bounded and ordered reads."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake import Schema as DeltaSchema

from fieldrepair_service import field_log_compaction, field_log_writer
from fieldrepair_service.errors import InputError, RowsNotFound, StoreError
from fieldrepair_service.field_log import FIELD_LOG_SCHEMA, Cursor, FieldLog, FieldRows
from fieldrepair_service.field_log_compaction import Run

DAY_MS = 86_400_000
START_MS = 1_760_000_000_000


def make_rows(
    writer: str,
    seqs: Sequence[int],
    *,
    per_request: int = 2,
    version: str = "1",
    start_ms: int = START_MS,
    step_ms: int = 10,
) -> pa.Table:
    """``per_request`` rows for every exchange in ``seqs``; input k of exchange s is [s, k]."""
    rows = [_row(writer, seq, row, start_ms + seq * step_ms, version) for seq in seqs for row in range(per_request)]
    return pa.Table.from_pylist(rows, schema=FIELD_LOG_SCHEMA)


def _row(writer: str, seq: int, row: int, timestamp_ms: int, version: str) -> dict[str, object]:
    return {
        "writer": writer,
        "seq": seq,
        "row": row,
        "request_id": f"{timestamp_ms:012x}-{writer}-{seq}",
        "client_request_id": None,
        "timestamp_ms": timestamp_ms,
        "date": datetime.fromtimestamp(timestamp_ms / 1000, timezone.utc).date().isoformat(),
        "model_name": "fashion",
        "model_version": version,
        "protocol": "mlflow",
        "status_code": 200,
        "execution_time_ms": 1.5,
        "sampling_fraction": 1.0,
        "input": np.array([seq, row], dtype="<f4").tobytes(),
        "dtype": "float32",
        "shape": [2],
        "scores": [0.25, 0.75],
        "predicted_class": 1,
        "confidence": 0.75,
    }


def positions(rows: FieldRows) -> list[tuple[str, int, int]]:
    table = rows.to_table()
    columns = (table.column(name).to_pylist() for name in ("writer", "seq", "row"))
    return list(zip(*columns, strict=True))


@pytest.fixture
def log(tmp_path: Path) -> FieldLog:
    return FieldLog.open(tmp_path / "field_log")


def test_rows_come_back_as_they_went_in(log: FieldLog) -> None:
    rows = make_rows("a", range(1, 4))
    assert log.append(rows, writer="a", last_seq=3)
    read = log.read_after({}, limit=100)
    assert read.to_table().equals(rows)
    assert read.to_table().schema == FIELD_LOG_SCHEMA
    assert log.count() == 6
    assert log.count(model_name="fashion", model_version="2") == 0


def test_an_append_is_written_once(log: FieldLog) -> None:
    rows = make_rows("a", [1, 2])
    assert log.append(rows, writer="a", last_seq=2)
    assert not log.append(rows, writer="a", last_seq=2)
    assert log.last_seq("a") == 2
    assert log.last_seq("b") is None
    # After a crash the batch may have grown: only what is new is written.
    assert log.append(make_rows("a", [1, 2, 3]), writer="a", last_seq=3)
    assert log.count() == 6


def test_a_second_handle_with_an_old_snapshot_writes_nothing_twice(tmp_path: Path) -> None:
    first, second = FieldLog.open(tmp_path / "log"), FieldLog.open(tmp_path / "log")
    assert first.append(make_rows("a", [1]), writer="a", last_seq=1)
    assert not second.append(make_rows("a", [1]), writer="a", last_seq=1)
    assert second.append(make_rows("b", [1]), writer="b", last_seq=1)
    assert first.count() == 4


def test_many_processes_may_open_and_append_at_once(tmp_path: Path) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_field_log import FieldLog, make_rows\n"
        "log = FieldLog.open(sys.argv[2])\n"
        "for seq in range(1, 4): log.append(make_rows(sys.argv[3], [seq]), writer=sys.argv[3], last_seq=seq)\n"
    )
    here, where = str(Path(__file__).parent), str(tmp_path / "log")
    children = [
        subprocess.Popen([sys.executable, "-c", program, here, where, writer], stderr=subprocess.PIPE, text=True)
        for writer in "ab"
    ]
    for child in children:
        _, complaint = child.communicate(timeout=60)
        assert child.returncode == 0, complaint
    assert sorted(positions(FieldLog.open(where).read_after({}, limit=100))) == [
        (writer, seq, row) for writer in "ab" for seq in (1, 2, 3) for row in (0, 1)
    ]


def test_a_cursor_walks_the_log_without_gaps_or_repeats(log: FieldLog) -> None:
    log.append(make_rows("a", range(5), per_request=3), writer="a", last_seq=4)
    log.append(make_rows("b", range(5), per_request=3), writer="b", last_seq=4)
    log.append(make_rows("a", range(5, 9), per_request=3), writer="a", last_seq=8)
    cursor: Cursor = {}
    seen: list[tuple[str, int, int]] = []
    while len(rows := log.read_after(cursor, limit=4)):
        assert len(rows) <= 4
        seen += positions(rows)
        cursor = rows.cursor_after(cursor)
        if len(seen) == 16:  # in the middle of a request, and in the middle of the walk
            log.compact()
            log.vacuum(timedelta(0))
    assert len(seen) == len(set(seen)) == 42
    for writer in "ab":
        own = [position for position in seen if position[0] == writer]
        assert own == sorted(own)
    assert cursor == {"a": (8, 2), "b": (4, 2)}
    # What comes later is read from there; lists, as JSON gives them back, serve as well.
    log.append(make_rows("b", [9]), writer="b", last_seq=9)
    assert positions(log.read_after({"a": [8, 2], "b": [4, 2]}, limit=9)) == [("b", 9, 0), ("b", 9, 1)]


def test_writers_are_merged_by_time(log: FieldLog) -> None:
    log.append(make_rows("late", [1, 2], per_request=1, start_ms=START_MS + 1000), writer="late", last_seq=2)
    log.append(make_rows("early", [1, 2], per_request=1), writer="early", last_seq=2)
    order = [position[0] for position in positions(log.read_after({}, limit=10))]
    assert order == ["early", "early", "late", "late"]


def test_a_writers_order_wins_over_its_clock(log: FieldLog) -> None:
    """A clock that is set back must not make a reader skip or repeat rows."""
    backwards = make_rows("a", range(6), per_request=1, step_ms=-1000)
    for seq in range(6):
        log.append(backwards.slice(seq, 1), writer="a", last_seq=seq)
    cursor: Cursor = {}
    seen: list[int] = []
    while len(rows := log.read_after(cursor, limit=1)):
        seen += rows.to_table().column("seq").to_pylist()
        cursor = rows.cursor_after(cursor)
    assert seen == list(range(6))


def test_reads_choose_model_and_version_and_columns(log: FieldLog) -> None:
    log.append(make_rows("a", [1, 2], version="1"), writer="a", last_seq=2)
    log.append(make_rows("a", [3, 4], version="2"), writer="a", last_seq=4)
    rows = log.read_after({}, limit=3, model_name="fashion", model_version="2", columns=["request_id"])
    assert positions(rows) == [("a", 3, 0), ("a", 3, 1), ("a", 4, 0)]
    assert "input" not in rows.to_table().column_names
    with pytest.raises(ValueError, match="no column nonsense"):
        log.read_after({}, limit=1, columns=["nonsense"])


def test_days_are_partitions(log: FieldLog, tmp_path: Path) -> None:
    log.append(make_rows("a", range(4), step_ms=DAY_MS, per_request=1), writer="a", last_seq=3)
    assert len(DeltaTable(tmp_path / "field_log").partitions()) == 4
    assert [p[1] for p in positions(log.read_after({"a": (1, 0)}, limit=10))] == [2, 3]


def test_rows_by_key_come_in_the_order_asked(log: FieldLog) -> None:
    for seq in (1, 2, 3):
        log.append(make_rows("a", [seq]), writer="a", last_seq=seq)
    keys = log.read_after({}, limit=10).keys
    asked = [keys[5], keys[0], keys[3]]
    assert log.read_rows(asked).keys == asked
    assert len(log.read_rows([])) == 0
    with pytest.raises(RowsNotFound, match=r"no 1 of 2 rows asked for: \(nowhere, 7\)"):
        log.read_rows([keys[0], ("nowhere", 7)])


def test_typed_access(log: FieldLog) -> None:
    log.append(make_rows("a", [1, 2]), writer="a", last_seq=2)
    rows = log.read_after({}, limit=10)
    np.testing.assert_array_equal(rows.inputs(), np.array([[1, 0], [1, 1], [2, 0], [2, 1]], dtype=np.float32))
    assert rows.inputs().dtype == np.float32
    assert rows.scores().shape == (4, 2)
    assert rows.predicted_classes().tolist() == [1, 1, 1, 1]
    assert rows.timestamps_ms.tolist() == [START_MS + 10] * 2 + [START_MS + 20] * 2
    assert rows.take([2, 0]).rows.tolist() == [0, 0]
    assert len(rows.take(slice(1, None))) == 3
    with pytest.raises(InputError, match=r"expected inputs of shape \(3,\), but row 0 .* has \(2,\)"):
        rows.inputs(shape=(3,))


def test_a_dtype_that_differs_is_named_or_converted() -> None:
    """A JSON client may write 0 for 0.0: then one request of a model comes as integers."""
    table = make_rows("a", [1, 2], per_request=1)
    index = table.column_names.index("input")
    mixed = table.set_column(
        index, "input", pa.array([table.column("input")[0].as_py(), np.array([7, 8], dtype="<i8").tobytes()])
    )
    index = table.column_names.index("dtype")
    rows = FieldRows(mixed.set_column(index, "dtype", pa.array(["float32", "int64"])))
    with pytest.raises(InputError, match=r"expected inputs of dtype float32, but row 1 .* has int64"):
        rows.inputs()
    np.testing.assert_array_equal(rows.inputs(dtype="float32"), np.array([[1, 0], [7, 8]], dtype=np.float32))


def test_a_missing_prediction_is_named(log: FieldLog) -> None:
    table = make_rows("a", [1])
    without = table.set_column(
        table.column_names.index("predicted_class"), "predicted_class", pa.array([1, None], pa.int32())
    )
    with pytest.raises(InputError, match="row 1"):
        FieldRows(without).predicted_classes()
    scores = table.set_column(
        table.column_names.index("scores"), "scores", pa.array([[1.0, 2.0], None], pa.list_(pa.float32()))
    )
    with pytest.raises(InputError, match=r"expected 2 scores per row, but row 1 .* has None"):
        FieldRows(scores).scores()
    with pytest.raises(InputError, match="got 0"):
        FieldRows(table.slice(0, 0)).inputs()


def test_another_table_is_refused(tmp_path: Path) -> None:
    DeltaTable.create(tmp_path / "other", schema=pa.schema([pa.field("a", pa.int64())]))
    with pytest.raises(StoreError, match="not a field log: it has no column writer"):
        FieldLog.open(tmp_path / "other")
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="field log at"):
        FieldLog.open(tmp_path / "file")


def test_a_file_that_is_gone_is_told(log: FieldLog, tmp_path: Path) -> None:
    log.append(make_rows("a", [1]), writer="a", last_seq=1)
    next((tmp_path / "field_log").glob("date=*/*.parquet")).unlink()
    with pytest.raises(StoreError, match="cannot be read"):
        log.read_after({}, limit=1)


def test_a_handle_that_opens_its_table_anew_loses_and_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def open_anew(uri: str, storage_options: dict[str, str] | None) -> DeltaTable:
        opened.append(uri)
        return DeltaTable(uri, storage_options=storage_options)

    monkeypatch.setattr(field_log_writer, "_VERSIONS_OF_ONE_TABLE", 3)
    monkeypatch.setattr(field_log_writer, "DeltaTable", open_anew)
    writing, reading = FieldLog.open(tmp_path), FieldLog.open(tmp_path, create=False)
    cursor: Cursor = {}
    seen: list[int] = []
    for seq in range(10):
        assert writing.append(make_rows("a", [seq]), writer="a", last_seq=seq)
        assert not writing.append(make_rows("a", [seq]), writer="a", last_seq=seq)
        rows = reading.read_after(cursor, limit=100)
        cursor = rows.cursor_after(cursor)
        seen += rows.to_table().column("seq").to_pylist()
    assert seen == [seq for seq in range(10) for _ in range(2)]
    assert len(opened) == 6  # after three versions each, by either handle


def test_concurrent_threads_share_one_handle(log: FieldLog) -> None:
    def write(writer: str) -> None:
        for seq in range(3):
            log.append(make_rows(writer, [seq]), writer=writer, last_seq=seq)
            log.read_after({}, limit=5)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, "abcd"))
    assert log.count() == 24


ADDED = ["headers", "trace_id", "columns"]


def without_later_columns(table: pa.Table) -> pa.Table:
    return table.drop_columns(ADDED)


def test_a_table_of_an_older_version_gets_its_new_columns_and_keeps_its_rows(tmp_path: Path) -> None:
    old = without_later_columns(make_rows("a", [1, 2]))
    DeltaTable.create(tmp_path / "log", schema=old.schema, partition_by=["date"])
    write_deltalake(
        DeltaTable(tmp_path / "log"),
        old,
        mode="append",
        commit_properties=CommitProperties(app_transactions=[Transaction("a", 2)]),
    )
    with ThreadPoolExecutor(4) as pool:  # several sidecars start on the new version at once
        logs = list(pool.map(FieldLog.open, [tmp_path / "log"] * 4))
    rows = logs[0].read_after({}, limit=10)
    assert rows.to_table().schema == FIELD_LOG_SCHEMA
    assert without_later_columns(rows.to_table()).equals(old)
    assert rows.to_table().column("headers").null_count == 4
    assert not logs[1].append(make_rows("a", [1, 2]), writer="a", last_seq=2)
    new = make_rows("a", [3]).to_pylist()
    new[0] |= {"headers": [("x-tenant", "red")], "trace_id": "1" * 32}
    assert logs[2].append(pa.Table.from_pylist(new, schema=FIELD_LOG_SCHEMA), writer="a", last_seq=3)
    logs[3].compact()
    table = logs[3].read_after({}, limit=10).to_table()
    assert table.column("headers").to_pylist() == [None] * 4 + [[("x-tenant", "red")], None]
    assert table.column("trace_id").to_pylist() == [None] * 4 + ["1" * 32, None]


def test_a_table_of_a_later_version_still_takes_rows(tmp_path: Path) -> None:
    FieldLog.open(tmp_path / "log")
    later = DeltaSchema.from_arrow(pa.schema([pa.field("of_the_future", pa.string())]))
    DeltaTable(tmp_path / "log").alter.add_columns(later.fields)
    log = FieldLog.open(tmp_path / "log")
    log.append(make_rows("a", [1]), writer="a", last_seq=1)
    future = make_rows("a", [2]).append_column("of_the_future", pa.array(["x", "y"]))
    write_deltalake(DeltaTable(tmp_path / "log"), future, mode="append")
    assert log.compact() == 1
    assert log.read_after({}, limit=9).to_table().equals(make_rows("a", [1, 2]))
    kept: pa.Table = DeltaTable(tmp_path / "log").to_pyarrow_table(columns=["of_the_future"])
    assert sorted(map(str, kept.column(0).to_pylist())) == ["None", "None", "x", "y"]


def test_merging_takes_bounded_memory(log: FieldLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many small files there are, and however well they compress."""
    monkeypatch.setattr(field_log_compaction, "MERGED_BYTES", 6 * make_rows("a", [1], per_request=40).nbytes)
    for seq in range(1, 22):
        log.append(make_rows("a", [seq], per_request=40), writer="a", last_seq=seq)
    cursor = log.read_after({}, limit=100).cursor_after({})
    rest = positions(log.read_after(cursor, limit=10_000))
    held: list[int] = []
    rows_of = field_log_writer.rows_of

    def watched(table: DeltaTable, run: Run) -> pa.Table:
        rows = pa.table(rows_of(table, run))
        held.append(rows.cast(FIELD_LOG_SCHEMA).nbytes)
        return rows

    monkeypatch.setattr(field_log_writer, "rows_of", watched)
    merged = log.compact()
    assert merged == len(held) > 4
    assert max(held) <= field_log_compaction.MERGED_BYTES
    assert positions(log.read_after(cursor, limit=10_000)) == rest
    assert log.count() == 21 * 40
    assert log.compact() <= 1  # what is as large as it may be stays as it is; the last few may become one
    assert log.compact() == 0


@pytest.mark.parametrize("damage", ["gone", "cut off", "overwritten"])
def test_merging_files_that_are_broken_is_an_error_of_the_store(damage: str, log: FieldLog, tmp_path: Path) -> None:
    for seq in range(1, 4):
        log.append(make_rows("a", [seq]), writer="a", last_seq=seq)
    broken = next((tmp_path / "field_log").glob("date=*/*.parquet"))
    content = broken.read_bytes()
    broken.unlink()
    if damage != "gone":
        broken.write_bytes(content[:500] if damage == "cut off" else content[:100] + bytes(200) + content[300:])
    with pytest.raises(StoreError, match="the field log cannot be read: "):
        log.compact()
    assert log.append(make_rows("a", [4]), writer="a", last_seq=4), "writing goes on"


def test_merging_loses_no_rows_that_lie_in_a_file_of_several_writers(log: FieldLog, tmp_path: Path) -> None:
    """Such a file is made by Delta's own OPTIMIZE; its rows of the writer lie between those of the small files."""
    for seq in (1, 3):
        log.append(make_rows("a", [seq]), writer="a", last_seq=seq)
    mixed = pa.concat_tables([make_rows("a", [2]), make_rows("b", [2])])
    write_deltalake(DeltaTable(tmp_path / "field_log"), mixed, mode="append")
    before = sorted(positions(log.read_after({}, limit=100)))
    log.compact()
    assert sorted(positions(log.read_after({}, limit=100))) == before
    assert log.count() == 8


def test_merging_gives_way_where_rows_have_left_meanwhile(
    log: FieldLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seq in range(1, 4):
        log.append(make_rows("a", [seq]), writer="a", last_seq=seq)
    other = FieldLog.open(tmp_path / "field_log")
    day_after = datetime.fromtimestamp(START_MS / 1000, timezone.utc).date() + timedelta(days=1)
    pieces = field_log_writer.pieces_of

    def retention_comes_first(table: DeltaTable, run: Run) -> Iterator[Run]:
        for piece in pieces(table, run):
            assert other.delete_before(day_after) == 6
            yield piece

    monkeypatch.setattr(field_log_writer, "pieces_of", retention_comes_first)
    assert log.compact() == 0
    assert log.count() == 0


def test_batches_are_bounded_and_chosen(log: FieldLog) -> None:
    log.append(make_rows("a", range(1, 6)), writer="a", last_seq=5)
    log.append(make_rows("b", range(1, 6), version="2", start_ms=START_MS + DAY_MS), writer="b", last_seq=5)
    assert [piece.num_rows for piece in log.batches(batch_rows=4)] == [4, 4, 2, 4, 4, 2]
    assert sum(piece.num_rows for piece in log.batches(model_version="2", columns=["seq"])) == 10
    chosen = list(log.batches(since_ms=START_MS + 50, until_ms=START_MS + DAY_MS + 20, columns=["writer", "seq"]))
    assert [tuple(row.values()) for piece in chosen for row in piece.to_pylist()] == [("a", 5)] * 2 + [("b", 1)] * 2
    assert log.size_bytes() > 0
    assert log.version >= 2


def test_one_process_claims_a_round(tmp_path: Path) -> None:
    logs = [FieldLog.open(tmp_path / "log") for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(FieldLog.claim, logs, ["maintenance"] * 4, [7] * 4)) == 1
    assert not logs[0].claim("maintenance", 7)
    assert logs[0].claim("maintenance", 8)
    assert logs[0].count() == 0


def test_old_days_leave_the_log_and_cursors_stay_valid(log: FieldLog, tmp_path: Path) -> None:
    for day in range(3):
        seqs = range(10 * day, 10 * day + 3)
        log.append(make_rows("a", seqs, start_ms=START_MS + day * DAY_MS), writer="a", last_seq=seqs[-1])
    first = log.read_after({}, limit=2)
    cursor = first.cursor_after({})
    reader = FieldLog.open(tmp_path / "field_log")
    oldest = datetime.fromtimestamp(START_MS / 1000, timezone.utc).date()
    assert log.delete_before(oldest + timedelta(days=1)) == 6
    assert log.vacuum(timedelta(0)) == 1
    assert not any((tmp_path / "field_log" / f"date={oldest}").glob("*.parquet"))
    rest = reader.read_after(cursor, limit=100)
    assert [position[1] for position in positions(rest)] == [10, 10, 11, 11, 12, 12, 20, 20, 21, 21, 22, 22]
    assert log.last_seq("a") == 22
    assert not log.append(make_rows("a", [0, 1]), writer="a", last_seq=1)  # what is gone does not come back


def test_rows_between_two_positions_are_those_that_a_reader_took(log: FieldLog) -> None:
    for writer in "ab":
        log.append(make_rows(writer, range(1, 8)), writer=writer, last_seq=7)
    start = log.read_after({}, limit=5).cursor_after({})
    taken = log.read_after(start, limit=9)
    end = taken.cursor_after(start)
    log.compact()
    assert positions(log.read_between(start, end)) == positions(taken)
    assert len(log.read_between(start, end, model_version="9")) == 0
    assert log.read_between(start, end, columns=["dtype"]).to_table().column("dtype").null_count == 0
    assert len(log.read_between(start, start)) == 0
    assert len(log.read_between({}, {})) == 0
