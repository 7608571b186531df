"""``fieldrepair log``: what tail, stats and export say about a log with known rows, and how others read the table."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pa_parquet
import pytest
from PIL import Image

from fieldrepair_service import drops
from fieldrepair_service.case_book import Case, CaseBook, NewTask
from fieldrepair_service.case_book.task_records import NewGroundTruth
from fieldrepair_service.errors import ConfigurationError, InputError
from fieldrepair_service.field_log import FIELD_LOG_SCHEMA, FieldLog
from fieldrepair_service.log_command.export import export
from fieldrepair_service.log_command.labels import Labels
from fieldrepair_service.log_command.settings import ExportOptions, StatsOptions, TailOptions, moment_ms
from fieldrepair_service.log_command.stats import as_text, gather
from fieldrepair_service.log_command.tail import tail
from fieldrepair_service.spool import SETTLED, SPOOLED, Spool

DAY_MS = 86_400_000
START_MS = 1_760_000_000_000  # 2025-10-09T08:53:20Z


def image(number: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.full((2, 3), number / 255, dtype=np.float32)


def rows(count: int, *, writer: str = "w", first: int = 0, **changes: Any) -> pa.Table:
    """Row k: at START + k hours, an image of k, class k % 2, request r<k>; the version changes at row 30."""
    return pa.Table.from_pylist(
        [
            {
                "writer": writer,
                "seq": k,
                "row": 0,
                "request_id": f"r{k}",
                "client_request_id": f"c{k}",
                "timestamp_ms": START_MS + k * 3_600_000,
                "date": datetime.fromtimestamp((START_MS + k * 3_600_000) / 1000, timezone.utc).date().isoformat(),
                "model_name": "digits",
                "model_version": "1" if k < 30 else "2",
                "protocol": "mlflow",
                "status_code": 200,
                "execution_time_ms": 1.5,
                "sampling_fraction": 1.0,
                "input": image(k).tobytes(),
                "dtype": "float32",
                "shape": [2, 3],
                "scores": [0.25, 0.75],
                "predicted_class": k % 2,
                "confidence": 0.75,
                "headers": [("x-tenant", "red")],
                **changes,
            }
            for k in range(first, first + count)
        ],
        schema=FIELD_LOG_SCHEMA,
    )


@pytest.fixture
def log(tmp_path: Path) -> FieldLog:
    opened = FieldLog.open(tmp_path / "state" / "field_log")
    opened.append(rows(20), writer="w", last_seq=19)
    opened.append(rows(20, first=20), writer="w", last_seq=39)
    return opened


def command(state: Path, *options: str) -> subprocess.CompletedProcess[str]:
    program = "import sys; from fieldrepair_service.cli import main; raise SystemExit(main(sys.argv[1:]))"
    arguments = [sys.executable, "-c", program, "log", f"--state-dir={state}", *options]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=60)


def test_tail_shows_the_newest_rows(log: FieldLog, tmp_path: Path) -> None:
    out = io.StringIO()
    tail(log, TailOptions(lines=3), out)
    lines = out.getvalue().splitlines()
    assert [line.split()[-1] for line in lines] == ["r37:0", "r38:0", "r39:0"]
    assert lines[-1].startswith("2025-10-10 23:53:20.000  digits/2")
    assert "class 1" in lines[-1]
    out = io.StringIO()
    tail(log, TailOptions(lines=2, json_lines=True, model_version="1"), out)
    parsed = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [row["request_id"] for row in parsed] == ["r28", "r29"]
    assert parsed[0]["headers"] == {"x-tenant": "red"}
    assert "input" not in parsed[0]


def test_tail_follows_without_gaps_or_repeats(log: FieldLog, tmp_path: Path) -> None:
    class Enough(Exception):  # noqa: N818
        pass

    more = iter([rows(2, first=40), rows(1, writer="other", first=5), None, rows(1, first=42)])

    def sleep(_: float) -> None:
        table = next(more, "end")
        if isinstance(table, str):
            raise Enough
        if table is not None:
            writer: str = table.column("writer")[0].as_py()
            last: int = table.column("seq").to_pylist()[-1]
            FieldLog.open(tmp_path / "state" / "field_log").append(table, writer=writer, last_seq=last)

    out = io.StringIO()
    with pytest.raises(Enough):
        tail(log, TailOptions(lines=1, follow=True), out, sleep=sleep)
    assert [line.split()[-1] for line in out.getvalue().splitlines()] == ["r39:0", "r40:0", "r41:0", "r5:0", "r42:0"]


def test_stats_count_everything(log: FieldLog, tmp_path: Path) -> None:
    spool_path = tmp_path / "state" / "spool.db"
    spool = Spool.open(spool_path)
    spool.write([], {drops.EXCHANGE_DROPPED + drops.QUEUE_FULL: 3, drops.ROW_DROPPED + drops.NOT_FINITE: 2, SPOOLED: 9})
    spool.settle(0, {SETTLED: 0})
    spool.close()
    stats = gather(log, StatsOptions(), spool_path)
    assert stats.rows == 40
    assert stats.by_day == {"2025-10-09": 16, "2025-10-10": 24}
    assert stats.by_model == {"digits/1": 30, "digits/2": 10}
    assert stats.by_class == {"digits/1": {"0": 15, "1": 15}, "digits/2": {"0": 5, "1": 5}}
    assert (stats.first, stats.last) == ("2025-10-09T08:53:20.000+00:00", "2025-10-10T23:53:20.000+00:00")
    assert stats.dropped == {"exchanges: queue_full": 3, "rows: not_finite": 2}
    assert stats.waiting == 9
    assert stats.table_version == log.version
    assert "digits/2    10" in as_text(stats)
    none = gather(log, StatsOptions(model_version="7"), tmp_path / "none.db")
    assert (none.rows, none.first, none.dropped) == (0, None, None)
    assert "no spool here" in as_text(none)
    some = gather(log, StatsOptions(since="2025-10-10", until="2025-10-10T12:00:00+02:00"), spool_path)
    assert some.by_day == {"2025-10-10": 10}


def test_moments() -> None:
    now = datetime(2026, 1, 2, tzinfo=timezone.utc)
    assert moment_ms("since", "1d", now) == moment_ms("since", "2026-01-01", now) == 1_767_225_600_000
    assert moment_ms("since", "2026-01-01T01:00:00+01:00", now) == moment_ms("since", "2026-01-01T00:00:00Z", now)
    assert moment_ms("since", None, now) is None
    for wrong in ("yesterday", "", "d", "2026-13-01"):
        with pytest.raises(ConfigurationError, match="--since: expected a date"):
            moment_ms("since", wrong, now)


@pytest.fixture
def labels(sqlite_book: CaseBook, open_case: Callable[..., Case]) -> Labels:
    case = open_case(sqlite_book, model_name="digits", model_version="2")
    sqlite_book.plan_case(case.id, [NewTask("r31", 0, "repair", rank=0, region=0)], 1, 0, {"w": (39, 0)}, "waiting")
    task = sqlite_book.tasks(case.id)[0]
    sqlite_book.submit(task.id, 1, labeller="ann")
    sqlite_book.receive_ground_truth(
        [NewGroundTruth("c31", 0, "wrong"), NewGroundTruth("c32", 0, "seven")], source="returns"
    )
    return Labels(sqlite_book)


def test_export_to_parquet_with_labels(log: FieldLog, labels: Labels, tmp_path: Path) -> None:
    to = tmp_path / "out" / "rows.parquet"
    assert export(log, labels, ExportOptions(to=to, model_version="2"), None) == 10
    table = pa_parquet.read_table(to)
    assert table.column("request_id").to_pylist() == [f"r{k}" for k in range(30, 40)]
    assert table.column("label").to_pylist() == [None, "dog", "seven", *[None] * 7]
    assert table.column("label_source").to_pylist() == [None, "case 1", "returns", *[None] * 7]
    np.testing.assert_array_equal(np.frombuffer(table.column("input")[0].as_py(), "<f4").reshape(2, 3), image(30))
    with pytest.raises(ConfigurationError, match="is there already"):
        export(log, labels, ExportOptions(to=to))
    assert [path.name for path in to.parent.iterdir()] == ["rows.parquet"]


def test_export_to_arrays(log: FieldLog, labels: Labels, tmp_path: Path) -> None:
    assert export(log, labels, ExportOptions(to=tmp_path / "a.npz", format="npz")) == 40
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["inputs"], np.stack([image(k) for k in range(40)]))
        assert arrays["inputs"].dtype == np.float32
        np.testing.assert_array_equal(arrays["scores"], [[0.25, 0.75]] * 40)
        assert arrays["predicted_class"].tolist() == [k % 2 for k in range(40)]
        assert arrays["request_id"].tolist() == [f"r{k}" for k in range(40)]
        assert arrays["label"][31:33].tolist() == ["dog", "seven"]
        assert arrays["label"][0] == ""
    log.append(rows(1, first=50, input=bytes(8), dtype="int64", shape=[1]), writer="w", last_seq=50)
    with pytest.raises(InputError, match="expected inputs of dtype float32, but request r50 has int64"):
        export(log, labels, ExportOptions(to=tmp_path / "b.npz", format="npz"))
    with pytest.raises(InputError, match="expected inputs of shape"):
        export(log, labels, ExportOptions(to=tmp_path / "b.npz", format="npz", dtype="float32"))
    assert [path.name for path in tmp_path.glob("*.npz")] == ["a.npz"]
    assert not list(tmp_path.glob(".*"))


def test_export_to_images(log: FieldLog, labels: Labels, tmp_path: Path) -> None:
    assert (
        export(log, labels, ExportOptions(to=tmp_path / "pictures", format="images", since="2025-10-10T20:00:00")) == 4
    )
    with (tmp_path / "pictures" / "rows.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [line["request_id"] for line in lines] == ["r36", "r37", "r38", "r39"]
    with Image.open(tmp_path / "pictures" / lines[-1]["file"]) as picture:
        assert picture.size == (3, 2)
        assert picture.getpixel((0, 0)) == 39
    assert json.loads(lines[0]["scores"]) == [0.25, 0.75]
    log.append(rows(1, first=50, shape=[6]), writer="w", last_seq=50)
    with pytest.raises(InputError, match=r"shape \(6,\) does not look like an image; say how it is one"):
        export(log, labels, ExportOptions(to=tmp_path / "more", format="images"))
    assert not (tmp_path / "more").exists()


def test_memory_does_not_grow_with_the_log(tmp_path: Path) -> None:
    """A log of 96 MB goes through a process that may take 60 MB more than it needs for one of 3 MB."""
    log = FieldLog.open(tmp_path / "state" / "field_log")
    big = rows(100, input=np.random.default_rng(0).bytes(24 * 1024), shape=[6144])
    for at in range(40):
        table = big.set_column(1, FIELD_LOG_SCHEMA.field("seq"), pa.array(range(at * 100, at * 100 + 100), pa.int64()))
        log.append(table, writer="w", last_seq=at * 100 + 99)
    log.compact()
    program = (
        "import sys, resource; from pathlib import Path\n"
        "from fieldrepair_service.lean import keep_pandas_out; keep_pandas_out()\n"
        "from fieldrepair_service.field_log import FieldLog\n"
        "from fieldrepair_service.log_command.export import export\n"
        "from fieldrepair_service.log_command.labels import Labels\n"
        "from fieldrepair_service.log_command.settings import ExportOptions\n"
        "log = FieldLog.open(sys.argv[1], create=False)\n"
        "done = export(log, Labels(None), ExportOptions(to=Path(sys.argv[2]), format=sys.argv[3], until=sys.argv[4]))\n"
        "print(done, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)\n"
    )

    def peak(name: str, until: str) -> tuple[int, int]:
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / "state" / "field_log"), str(tmp_path / name), "npz", until],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        count, megabytes = map(int, done.stdout.split())
        return count, megabytes

    few, small = peak("few.npz", "2025-10-09T09:00:00")
    all_rows, large = peak("all.npz", "2030-01-01")
    assert (few, all_rows) == (40, 4000)
    assert large < small + 60


def test_the_command(log: FieldLog, tmp_path: Path) -> None:
    state = tmp_path / "state"
    shown = command(state, "stats", "--as-json")
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["rows"] == 40
    assert command(state, "tail", "--lines=1").stdout.split()[-1] == "r39:0"
    done = command(state, "export", f"--to={tmp_path / 'x.parquet'}", "--model-version=2")
    assert (done.returncode, done.stderr) == (0, f"10 rows are in {tmp_path / 'x.parquet'}\n")
    assert not (state / "case_book.db").exists()
    wrong = command(tmp_path / "none", "stats")
    assert wrong.returncode == 1
    assert "there is no field log at" in wrong.stderr
    assert not (tmp_path / "none" / "field_log").exists()


def test_duckdb_and_pandas_read_the_table(log: FieldLog, tmp_path: Path) -> None:
    """As docs/field-log.md shows it. In a process of its own: pandas stays out of this one."""
    page = (Path(__file__).parents[2] / "docs" / "field-log.md").read_text()
    for tool in ("duckdb", "pandas"):
        example = page.split(f"```python {tool}\n")[1].split("```")[0]
        program = f"field_log = {str(tmp_path / 'state' / 'field_log')!r}\n{example}"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert "30" in done.stdout
        assert "10" in done.stdout
