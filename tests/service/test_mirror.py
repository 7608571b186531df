"""The mirror as a process: KServe's events in, rows of the field log out, and every event accounted for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fieldrepair_service.field_log import FieldLog

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
_PROGRAM = "import sys; from fieldrepair_service.cli import main; raise SystemExit(main(sys.argv[1:]))"


class Mirror:
    def __init__(self, state: Path, *options: str) -> None:
        self.state = state
        ports = ["--events-port=0", "--control-port=0", "--control-auth=off", "--flush-seconds=0.1"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, "mirror", f"--state-dir={state}", *ports, *options],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        deadline = time.monotonic() + 60
        while not (state / "mirror.json").exists():
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        addresses = json.loads((state / "mirror.json").read_text())
        self.events = httpx.Client(base_url=addresses["events_url"], timeout=30)
        self.control = httpx.Client(base_url=addresses["control_url"], timeout=30)

    def send(self, kind: str, number: int, body: object, **changes: str) -> httpx.Response:
        headers = {
            "ce-specversion": "1.0",
            "ce-id": f"id-{number}",
            "ce-type": f"org.kubeflow.serving.inference.{kind}",
            "ce-source": "http://localhost:9081/",
            "ce-time": f"2026-01-02T03:04:05.{100 if kind == 'request' else 125}Z",
            "ce-inferenceservicename": "digits",
            "ce-namespace": "default",
            "ce-component": "predictor",
            "ce-endpoint": "default",
            "content-type": "application/json",
            **{name.replace("_", "-"): value for name, value in changes.items()},
        }
        return self.events.post("/", headers=headers, content=body if isinstance(body, bytes) else json.dumps(body))

    def metrics(self) -> dict[str, float]:
        """Samples by name and label values, in the order of the labels' names."""
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(self.control.get("/metrics").text):
            for sample in family.samples:
                found["".join([sample.name, *(f" {value}" for value in sample.labels.values())])] = sample.value
        return found

    def wait_for(self, name: str, value: float) -> dict[str, float]:
        deadline = time.monotonic() + 60
        while (found := self.metrics()).get(name) != value:
            assert time.monotonic() < deadline, found
            time.sleep(0.05)
        return found

    def stop(self) -> str:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        _, log = self.process.communicate(timeout=60)
        self.events.close()
        self.control.close()
        return log


@pytest.fixture
def start(tmp_path: Path) -> Generator[Any]:
    started: list[Mirror] = []

    def begin(*options: str) -> Mirror:
        started.append(Mirror(tmp_path / "state", *options))
        return started[-1]

    yield begin
    for mirror in started:
        mirror.stop()


REQUEST = {"instances": [[0.5, 1.5], [2.5, 3.5]]}
ANSWER = {"predictions": [[0.25, 0.75], [1.0, 0.0]]}
TENSORS = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [4.5, 5.5]}]}
TENSORS_ANSWER = {"model_version": "9", "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [0, 1]}]}


def test_events_become_rows_and_every_event_is_accounted_for(start: Any, tmp_path: Path) -> None:
    mirror: Mirror = start("--log-headers=X-Tenant", "--log-exclude=/default/other/*", "--max-logged-body=2000")
    assert mirror.control.get("/readyz").json() == {"status": "ready"}
    metadata = json.dumps({"X-Tenant": ["red"], "X-Request-Id": ["mine"], "Authorization": ["secret"]})
    traceparent = f"00-{TRACE}-00f067aa0ba902b7-01"
    assert mirror.send("request", 1, REQUEST, ce_metadata=metadata, traceparent=traceparent).status_code == 200
    mirror.send("response", 1, ANSWER)
    mirror.send("response", 2, TENSORS_ANSWER)
    mirror.send("request", 2, TENSORS)
    mirror.send("request", 3, REQUEST)  # was answered with an error, so no answer comes
    mirror.send("request", 4, REQUEST, ce_inferenceservicename="other")
    mirror.send("response", 4, ANSWER, ce_inferenceservicename="other")
    mirror.send("request", 5, {"strange": 1})
    mirror.send("response", 5, ANSWER)
    assert mirror.send("request", 6, bytes(3000)).status_code == 413
    refused = mirror.events.post(
        "/", json={"specversion": "1.0"}, headers={"content-type": "application/cloudevents+json"}
    )
    assert refused.status_code == 415
    assert "binary mode" in refused.json()["detail"]
    assert mirror.events.get("/").status_code == 405
    assert mirror.events.post("/", json={}).status_code == 400
    assert mirror.send("request", 7, {}, ce_type="other").status_code == 400

    found = mirror.wait_for("fieldrepair_exchanges_logged_total", 2)
    found = mirror.wait_for("fieldrepair_spool_exchanges", 0)
    assert found["fieldrepair_mirror_events_total request"] == 5
    assert found["fieldrepair_mirror_events_total response"] == 4
    assert found["fieldrepair_mirror_pairs_total"] == found["fieldrepair_exchanges_accepted_total"] == 4
    assert found["fieldrepair_mirror_events_waiting"] == 1
    assert found["fieldrepair_exchanges_dropped_total excluded"] == 1
    assert found["fieldrepair_exchanges_dropped_total malformed_request"] == 1
    assert found["fieldrepair_rows_logged_total"] == 3
    refusals = {name.split()[1]: count for name, count in found.items() if "events_refused_total " in name}
    assert refusals == {"structured": 1, "no_event": 1, "other_type": 1, "method": 1, "too_large": 1}

    rows = FieldLog.open(tmp_path / "state" / "field_log").read_after({}, limit=10).to_table().to_pylist()
    first, second, third = sorted(rows, key=lambda row: (row["model_version"], row["row"]), reverse=True)[::-1]
    assert (first["model_name"], first["model_version"], first["protocol"]) == ("digits", "9", "kserve")
    assert (first["client_request_id"], first["headers"], first["trace_id"]) == ("id-2", None, None)
    assert (second["client_request_id"], second["model_version"]) == ("mine", "unknown")
    assert second["headers"] == third["headers"] == [("x-tenant", "red")]
    assert second["trace_id"] == TRACE
    assert (second["timestamp_ms"], second["execution_time_ms"]) == (1_767_323_045_100, 25.0)
    assert (second["predicted_class"], third["predicted_class"]) == (1, 0)


def test_what_found_no_partner_is_counted_and_a_stop_loses_no_pair(start: Any, tmp_path: Path) -> None:
    mirror: Mirror = start("--pair-seconds=0.3", "--model-name=registered", "--model-version=4", "--durability=sync")
    mirror.send("request", 1, REQUEST)
    mirror.wait_for("fieldrepair_mirror_events_unpaired_total expired request", 1)
    mirror.send("response", 1, ANSWER)
    mirror.wait_for("fieldrepair_mirror_events_unpaired_total expired response", 1)
    assert mirror.control.get("/upstream").status_code == 404
    for number in range(2, 12):
        mirror.send("request", number, REQUEST)
        mirror.send("response", number, ANSWER)
    log = mirror.stop()
    assert mirror.process.returncode == 0, log
    streams = FieldLog.open(tmp_path / "state" / "field_log").streams()
    assert streams == [("registered", "4")]
    assert FieldLog.open(tmp_path / "state" / "field_log").count() == 20
