"""What the extra [sidecar] is enough for: the way of an exchange into the field log, without its readers' libraries."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pa_parquet

from fieldrepair_service.field_log import FieldLog

# Run in a process of its own, in which the libraries of readers and consoles cannot be imported.
SHIP = """
import sys
from datetime import timedelta

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("pyarrow", "pandas", "sqlalchemy", "alembic", "psycopg", "PIL", "torch", "mlflow"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())

import orjson
import fieldrepair_service.shipper
from fieldrepair_service.exchange import Exchange
from fieldrepair_service.field_log_writer import FieldLogWriter
from fieldrepair_service.protocols import DECODERS
from fieldrepair_service.rows import RowBatch

folder, parquet = sys.argv[1], open(sys.argv[2], "rb").read()
bodies = [
    ("application/json", orjson.dumps({"inputs": [[1.5, 2.0]]})),
    ("text/csv", b"a,b\\n1.5,2\\n"),
    ("application/vnd.apache.parquet", parquet),
]
log = FieldLogWriter.open(folder)
for seq, (kind, body) in enumerate(bodies, start=1):
    exchange = Exchange(
        timestamp_ms=1_700_000_000_000 + seq, client_request_id=None, model_name="m", model_version="1",
        protocol="mlflow", status_code=200, execution_time_ms=1.0, sampling_fraction=1.0,
        request_type=kind, request_encoding="", request_body=body,
        answer_type="application/json", answer_encoding="", answer_body=b'{"predictions": [[0.25, 0.75]]}',
        request_path="/invocations", headers='{"x-tenant": "a"}',
    )
    batch = RowBatch("w" * 32)
    assert batch.add(seq, exchange, DECODERS["mlflow"].decode(exchange)) == (1, {})
    assert log.append(batch.to_arrow(), writer="w" * 32, last_seq=seq)
    assert not log.append(batch.to_arrow(), writer="w" * 32, last_seq=seq)
assert log.compact("w" * 32) == 1
assert log.claim("task", 1) and not log.claim("task", 1)
assert log.vacuum(timedelta(0)) == 3
assert log.last_seq("w" * 32) == 3 and log.size_bytes() > 0 and log.version > 3
"""


def test_exchanges_become_rows_without_the_readers_libraries(tmp_path: Path) -> None:
    pa_parquet.write_table(pa.table({"a": [1.5], "b": [2]}), tmp_path / "body.parquet")
    command = [sys.executable, "-c", SHIP, tmp_path / "log", tmp_path / "body.parquet"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = FieldLog.open(tmp_path / "log", create=False).read_after({}, limit=9)
    np.testing.assert_array_equal(rows.inputs(dtype="float32"), [[1.5, 2]] * 3)
    assert rows.columns() == [None, ["a", "b"], ["a", "b"]]
    assert rows.table.column("headers").to_pylist() == [[("x-tenant", "a")]] * 3
    np.testing.assert_array_equal(rows.scores(), [[0.25, 0.75]] * 3)
