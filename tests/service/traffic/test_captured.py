"""What of the traffic is captured, under the name of the version that answered."""

from __future__ import annotations

import http.client
import json
import platform
import struct
import threading
import time
from importlib import metadata
from pathlib import Path

import pytest

from fieldrepair_service import drops
from fieldrepair_service.exchange import UNKNOWN_MODEL
from fieldrepair_service.field_log import FieldLog
from fieldrepair_service.metrics import create_registry
from fieldrepair_service.shipping import Shipper
from fieldrepair_service.spool import SPOOLED, Spool, read_counters
from tests.service.traffic.conftest import ASKED, SCORES, RawUpstream, Seen, StartTraffic, Traffic, answer, eventually

# -- what is logged ----------------------------------------------------------------------------------------------


def test_a_scoring_exchange_is_captured_whole(traffic: Traffic) -> None:
    before = time.time_ns() // 1_000_000
    traffic.ask(headers={"Content-Type": "application/json; charset=utf-8", "X-Request-Id": "abc"})
    exchange = traffic.spooled(1)[0]
    assert before - 1 <= exchange.timestamp_ms <= time.time_ns() // 1_000_000
    assert exchange.client_request_id == "abc"
    assert (exchange.model_name, exchange.model_version, exchange.protocol) == ("fashion", "1", "mlflow")
    assert (exchange.status_code, exchange.sampling_fraction) == (200, 1.0)
    assert exchange.execution_time_ms > 0
    assert exchange.request_type == "application/json; charset=utf-8"
    assert exchange.answer_type == "application/json"
    assert (exchange.request_body, exchange.answer_body) == (ASKED, SCORES)


def test_only_scoring_is_captured(traffic: Traffic, upstream: RawUpstream) -> None:
    traffic.ask("GET", "/ping", None)
    traffic.ask("GET", "/invocations", None)
    traffic.ask("POST", "/v2/models", b"{}")
    assert traffic.capture.counts().accepted == 0
    upstream.script = lambda _: answer(b"no", b"400 Bad Request")
    traffic.ask()
    traffic.dropped(drops.UPSTREAM_ERROR_STATUS)
    assert traffic.capture.counts().accepted == 1
    assert traffic.stats.requests == {200: 3, 400: 1}


def test_sampling(start_traffic: StartTraffic, upstream: RawUpstream) -> None:
    traffic = start_traffic(upstream.url, sampling_fraction=0.5)
    for _ in range(60):
        assert traffic.ask()[2] == SCORES
    eventually(lambda: traffic.capture.counts().accepted == 60)
    left_out = traffic.capture.counts().dropped[drops.NOT_SAMPLED]
    assert 5 < left_out < 55
    exchanges = traffic.spooled(60 - left_out)
    assert {exchange.sampling_fraction for exchange in exchanges} == {0.5}
    assert len(exchanges) == 60 - left_out


def test_too_large_a_body_is_counted(start_traffic: StartTraffic, upstream: RawUpstream) -> None:
    traffic = start_traffic(upstream.url, max_logged_body=1000)
    assert traffic.ask(body=b" " * 1001)[2] == SCORES
    upstream.script = lambda _: answer(b" " * 1001)
    assert len(traffic.ask()[2]) == 1001
    traffic.dropped(drops.BODY_TOO_LARGE, 2)


def test_in_sync_mode_an_answer_is_on_disk_before_it_is_whole(
    start_traffic: StartTraffic, upstream: RawUpstream
) -> None:
    traffic = start_traffic(upstream.url, sync=True)
    connection = traffic.connect()
    for count in range(1, 21):
        connection.request("POST", "/invocations", ASKED, {"Content-Type": "application/json"})
        assert connection.getresponse().read() == SCORES
        assert read_counters(traffic.spool)[0][SPOOLED] == count
    connection.close()
    assert traffic.capture.counts().late_sync == 0


@pytest.mark.parametrize("sync", [False, True])
def test_requests_of_every_protocol_end_in_the_field_log(
    start_traffic: StartTraffic, upstream: RawUpstream, tmp_path: Path, sync: bool
) -> None:
    """With what their decoders need of path and headers, under the model they name where the upstream has no name."""
    traffic = start_traffic(None, sync=sync)
    traffic.name_upstream(upstream.url, UNKNOWN_MODEL, UNKNOWN_MODEL)
    v2_head = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}]}'
    v2_answer = (
        b'{"outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}]}'
    )
    asked, scores = struct.pack("<2f", 1.5, 2.5), struct.pack("<2f", 0.25, 0.75)
    length = b"Inference-Header-Content-Length: %d" % len(v2_answer)
    json_type = b"content-type: application/json"
    replies = {
        "/v2/models/digits/versions/7/infer": answer(v2_answer + scores, b"200 OK", length),
        "/predictions/digits/2.0": answer(b"[[0.25, 0.75]]", b"200 OK", json_type),
        "/invocations": answer(SCORES, b"200 OK", json_type),
    }
    upstream.script = lambda seen: replies[seen.line.split()[1]]
    as_json = {"Content-Type": "application/json"}
    traffic.ask(path="/invocations")
    traffic.ask(
        path="/v2/models/digits/versions/7/infer",
        body=v2_head + asked,
        headers={"Inference-Header-Content-Length": str(len(v2_head)), "Content-Type": "application/octet-stream"},
    )
    traffic.ask(path="/predictions/digits/2.0", body=b"[[1.5, 2.5]]", headers=as_json)
    exchanges = traffic.spooled(3)
    assert [each.protocol for each in exchanges] == ["mlflow", "open_inference", "torchserve"]
    assert [each.request_path for each in exchanges] == ["/invocations", *list(replies)[:2]]
    spool, log = Spool.attach(traffic.spool), FieldLog.open(tmp_path / "field_log")
    assert Shipper(spool, log).ship(10) == 3
    spool.close()
    rows = log.read_after({}, limit=10)
    assert rows.inputs().tolist() == [[1.5, 2.5]] * 3
    assert rows.scores().tolist() == [[0.25, 0.75]] * 3
    assert [(row["protocol"], row["model_name"], row["model_version"]) for row in rows.to_table().to_pylist()] == [
        ("mlflow", UNKNOWN_MODEL, UNKNOWN_MODEL),
        ("open_inference", "digits", "7"),
        ("torchserve", "digits", "2.0"),
    ]
    assert traffic.stats.undecoded == 0


def test_requests_in_no_known_protocol_are_passed_on_and_counted(traffic: Traffic, upstream: RawUpstream) -> None:
    for method, path in (("POST", "/v2/models/digits/generate"), ("GET", "/v2/models/digits/infer"), ("GET", "/ping")):
        status, _, body = traffic.ask(method, path, None)
        assert (status, body) == (200, SCORES)
    traffic.ask()
    registry = create_registry(traffic.stats, traffic.capture, traffic.upstreams, traffic.spool, lambda: 1)
    assert registry.get_sample_value("fieldrepair_undecoded_requests_total") == 3
    assert len(traffic.spooled(1)) == 1
    assert traffic.capture.counts().accepted == 1


# -- the swap ----------------------------------------------------------------------------------------------------


def test_a_swap_under_load_fails_nobody_and_is_logged_truly(start_traffic: StartTraffic) -> None:
    servers = {str(version): RawUpstream() for version in range(1, 4)}
    for version, server in servers.items():
        server.script = lambda _, version=version: answer(json.dumps({"predictions": [int(version)]}).encode())
        server.start()
    traffic = start_traffic(servers["1"].url)
    stop = threading.Event()
    failures: list[object] = []
    answers: list[bytes] = []

    def ask(connection: http.client.HTTPConnection) -> None:
        try:
            connection.request("POST", "/invocations", ASKED, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answers.append(response.read())
            if response.status != 200:
                failures.append((response.status, answers[-1]))
        except (OSError, http.client.HTTPException) as error:
            failures.append(error)

    def hammer() -> None:
        connection = traffic.connect()
        while not stop.is_set():
            ask(connection)
        connection.close()

    threads = [threading.Thread(target=hammer) for _ in range(4)]
    for thread in threads:
        thread.start()
    for swap in range(12):
        eventually(lambda swap=swap: len(answers) > 40 * (swap + 1))
        version = str(swap % 3 + 1)
        traffic.switch(servers[version].url, version)
    stop.set()
    for thread in threads:
        thread.join(30)
    assert not failures
    eventually(lambda: not traffic.upstreams.draining)
    exchanges = traffic.spooled(len(answers))
    assert len(exchanges) == len(answers)
    assert {json.loads(exchange.answer_body)["predictions"][0] for exchange in exchanges} == {1, 2, 3}
    for exchange in exchanges:
        assert json.loads(exchange.answer_body)["predictions"] == [int(exchange.model_version)]
    for server in servers.values():
        server.close()


def test_a_request_in_flight_finishes_where_it_is(start_traffic: StartTraffic, upstream: RawUpstream) -> None:
    go_on, asked = threading.Event(), threading.Event()

    def script(_: Seen) -> bytes | None:
        asked.set()
        return answer(b"from the old one") if go_on.wait(30) else None

    upstream.script = script
    newer = RawUpstream(script=lambda _: answer(b"from the new one"))
    newer.start()
    traffic = start_traffic(upstream.url)
    replies: list[bytes] = []
    waiting = threading.Thread(target=lambda: replies.append(traffic.ask(path="/x")[2]))
    waiting.start()
    assert asked.wait(30)
    traffic.switch(newer.url, "2")
    assert traffic.ask(path="/x")[2] == b"from the new one"
    assert [(old.model_version, old.in_flight) for old in traffic.upstreams.draining] == [("1", 1)]
    go_on.set()
    waiting.join(30)
    assert replies == [b"from the old one"]
    eventually(lambda: not traffic.upstreams.draining)
    newer.close()


def test_flushes_are_timed_and_the_table_has_a_version(traffic: Traffic, tmp_path: Path) -> None:
    registry = create_registry(traffic.stats, traffic.capture, traffic.upstreams, traffic.spool, lambda: 1)
    log = FieldLog.open(tmp_path / "field_log")
    assert registry.get_sample_value("fieldrepair_field_log_version") is None  # nothing is known of it yet
    for round_ in range(1, 3):
        traffic.ask()
        eventually(lambda round_=round_: read_counters(traffic.spool)[0].get(SPOOLED, 0) == round_)
        spool = Spool.attach(traffic.spool)
        assert Shipper(spool, log).ship(10) == 1  # another shipper goes on where the last one stopped
        spool.close()
        assert registry.get_sample_value("fieldrepair_flush_seconds_count") == round_
        assert registry.get_sample_value("fieldrepair_field_log_version") == log.version
    assert (registry.get_sample_value("fieldrepair_flush_seconds_sum") or 0) > 0
    assert (registry.get_sample_value("fieldrepair_spool_commit_seconds_count") or 0) >= 2
    labels = {"version": metadata.version("fieldrepair"), "python_version": platform.python_version()}
    assert registry.get_sample_value("fieldrepair_build_info", labels) == 1
