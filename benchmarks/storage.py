"""What the stores take: bytes per field input in the field log, and per window, question and case in the case book.

    python -m benchmarks.storage --json build/benchmarks/storage.json

Field logs are written by the shipper's own code in commits of 1,000 requests, and measured as they are and merged. The
numbers do not depend on the machine, only on what is logged: noise is the worst case for compression, the digits are
real scans.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
from sklearn.datasets import load_digits

from fieldrepair_service.case_book import CaseBook, NewDriftEvent, NewTask, Purpose, WindowRecord, open_case_book
from fieldrepair_service.exchange import Exchange
from fieldrepair_service.field_log import FieldLog
from fieldrepair_service.inputs import ImageInput
from fieldrepair_service.protocols import DECODERS
from fieldrepair_service.rows import to_rows

Inputs = npt.NDArray[np.float32]
REQUESTS = 4_000
PER_COMMIT = 1_000


@dataclass(frozen=True)
class LogSize:
    """What one kind of input takes in the field log."""

    inputs: str
    rows: int
    json_bytes: float
    """Per row, as the client sent it."""
    raw_bytes: int
    """Per row, as numbers."""
    log_bytes: float
    """Per row on disk, in commits of 1,000 requests."""
    merged_bytes: float
    """Per row on disk, in merged files."""


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.storage", description=__doc__)
    parser.add_argument("--requests", type=int, default=REQUESTS, help="requests per kind of input, one row each")
    parser.add_argument("--json", type=Path, help="write the numbers here, too")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="fieldrepair-storage-") as scratch:
        logs = [
            log_size(name, make(given.requests), Path(scratch) / f"log-{index}")
            for index, (name, make) in enumerate(kinds().items())
        ]
        book = book_size(Path(scratch) / "book.db")
    for size in logs:
        print(
            f"{size.inputs:<28} JSON {size.json_bytes:>8.0f}   raw {size.raw_bytes:>6}   "
            f"field log {size.log_bytes:>8.0f}   merged {size.merged_bytes:>8.0f}   bytes per row"
        )
    for name, value in book.items():
        print(f"{name:<28} {value:>8.0f} bytes")
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps({"field_log": [asdict(each) for each in logs], "case_book": book}, indent=2))
    return 0


def kinds() -> dict[str, Callable[[int], Inputs]]:
    """Inputs of several kinds: (n, *shape) float32."""
    generator = np.random.default_rng(0)
    digits = (load_digits().images / 16).astype(np.float32)[:, None]

    def noise(*shape: int) -> Callable[[int], Inputs]:
        return lambda count: (generator.integers(0, 256, (count, *shape)) / 255).astype(np.float32)

    return {
        "table, 10 numbers": lambda count: generator.normal(size=(count, 10)).astype(np.float32),
        "digits, 1 x 8 x 8": lambda count: digits[np.arange(count) % len(digits)],
        "noise, 1 x 28 x 28": noise(1, 28, 28),
        "noise, 3 x 32 x 32": noise(3, 32, 32),
    }


def log_size(name: str, inputs: Inputs, folder: Path) -> LogSize:
    """Log ``inputs``, one request each, with ten scores, and see what the folder holds."""
    log = FieldLog.open(folder)
    scores = np.random.default_rng(1).dirichlet(np.ones(10), len(inputs)).astype(np.float32)
    sent = 0
    for start in range(0, len(inputs), PER_COMMIT):
        tables: list[pa.Table] = []
        for seq in range(start, min(start + PER_COMMIT, len(inputs))):
            body = orjson.dumps({"inputs": [inputs[seq]]}, option=orjson.OPT_SERIALIZE_NUMPY)
            sent += len(body)
            exchange = exchange_of(seq, body, orjson.dumps({"predictions": [scores[seq].tolist()]}))
            tables.append(pa.table(to_rows("storage", seq, exchange, DECODERS["mlflow"].decode(exchange))[0]))
        log.append(pa.concat_tables(tables), writer="storage", last_seq=start + len(tables))
    separate = log.size_bytes()
    log.compact()
    return LogSize(
        name,
        len(inputs),
        sent / len(inputs),
        inputs[0].nbytes,
        separate / len(inputs),
        log.size_bytes() / len(inputs),
    )


def exchange_of(seq: int, request: bytes, answer: bytes) -> Exchange:
    """A request of its own second."""
    return Exchange(
        timestamp_ms=1_700_000_000_000 + 1000 * seq,
        client_request_id=f"order-{seq}",
        model_name="digits",
        model_version="1",
        protocol="mlflow",
        status_code=200,
        execution_time_ms=1.5 + seq % 7,
        sampling_fraction=1.0,
        request_type="application/json",
        request_encoding="",
        request_body=request,
        answer_type="application/json",
        answer_encoding="",
        answer_body=answer,
        trace_id=f"{seq:032x}",
    )


def book_size(path: Path, windows: int = 2_000, cases: int = 20) -> dict[str, float]:
    """Bytes that windows and cases add to a case book on SQLite."""
    url = f"sqlite:///{path}"
    with open_case_book(url):
        pass
    empty = path.stat().st_size  # closed, so that nothing is in the write-ahead log
    with open_case_book(url) as book:
        record(book, 0, windows)
    with_windows = path.stat().st_size
    with open_case_book(url) as book:
        for case in range(cases):
            open_case(book, windows + case, f"{case + 2}")
    with_cases = path.stat().st_size
    return {
        "case book, empty": empty,
        "a window": (with_windows - empty) / windows,
        "a case of 125 questions": (with_cases - with_windows) / cases,
    }


def record(book: CaseBook, first: int, count: int) -> None:
    """Windows as the monitor records them, with the scores of two detectors."""
    scores = {
        name: {"statistic": 0.0123, "threshold": 0.02, "p_value": 0.4, "drifted": False} for name in ("mmd", "ks")
    }
    for index in range(first, first + count):
        window = WindowRecord(
            index, 1, 2, 100, "mmd", 0.0123, 0.02, 0.4, drifted=False, estimated_accuracy=0.9,
            scores={"detectors": scores}, cursor_start={"storage": (index, 0)},
        )  # fmt: skip
        book.record_windows("digits", "1", {"storage": (index + 1, 0)}, [window])


def open_case(book: CaseBook, index: int, version: str) -> None:
    """A case with its questions, all answered."""
    window = WindowRecord(index, 1, 2, 100, "mmd", 0.3, 0.01, 0.001, drifted=True, estimated_accuracy=0.3)
    event = NewDriftEvent(
        "digits", version, "mmd", 0.3, 0.001, 0.01, index, {}, 100, 0.3, 0.99,
        "mmd 0.3 > 0.01 in 2 of the last 3 windows", tuple("0123456789"),
        ImageInput(height=8, width=8).model_dump(mode="json"),
    )  # fmt: skip
    opened = book.record_windows("digits", version, {"storage": (index, 0)}, [window], event)
    if opened is None:
        raise RuntimeError(f"window {index} opened no event")
    tasks = [NewTask(f"{index:032x}", row, purpose=Purpose.REPAIR, rank=row, region=row) for row in range(125)]
    book.plan_case(opened.case_id, tasks, budget=25, acceptance_size=100, pool_cursor={}, note="waiting for labels")
    while (task := book.next_task(opened.case_id, "benchmark")) is not None:
        book.submit(task.id, 3, "benchmark")


if __name__ == "__main__":
    sys.exit(main())
