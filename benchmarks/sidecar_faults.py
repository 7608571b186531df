"""Whether the sidecar loses anything or grows: under load for long, and when it is killed at any moment."""

from __future__ import annotations

import http.client
import json
import random
import statistics
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.sidecar_parts import SidecarChild, trivial_server, wrk
from fieldrepair_service.field_log import FieldLog
from fieldrepair_service.field_rows import Cursor

_CLIENTS = 8
_CONNECTIONS = 16
# What async may lose: 50 ms of gathering, and the commit that a kill can meet.
_WINDOW_SECONDS = 0.05 + 0.2


def soak(folder: Path, seconds: float) -> dict[str, float | int]:
    """Load at half of the maximum: memory must not grow, and every exchange must be accounted for."""
    model = trivial_server(folder)
    sidecar = SidecarChild(folder, model.url)
    try:
        most = wrk(folder, sidecar.url, _CONNECTIONS, 5).rps
        sidecar.settle()
        before = sidecar.numbers()["exchanges_accepted_total"]
        samples: list[tuple[float, int]] = []
        over = threading.Event()

        def watch() -> None:
            began = time.monotonic()
            while not over.wait(1):
                samples.append((time.monotonic() - began, sidecar.memory()))

        watcher = threading.Thread(target=watch)
        watcher.start()
        load = wrk(folder, sidecar.url, _CONNECTIONS, seconds, pause_ms=1000 * _CONNECTIONS / (most / 2))
        over.set()
        watcher.join()
        numbers = sidecar.settle()
    finally:
        sidecar.stop()
        model.stop()
    minute = min(60.0, seconds / 5)
    second = statistics.median(size for at, size in samples if minute <= at < 2 * minute)
    last = statistics.median(size for at, size in samples if at >= samples[-1][0] - minute)
    accepted, logged = numbers["exchanges_accepted_total"], numbers["exchanges_logged_total"]
    return {
        "soak_seconds": round(load.seconds),
        "soak_max_rps": round(most),
        "soak_rps": round(load.rps),
        "soak_requests": int(accepted - before),
        "soak_memory_second_minute_mib": round(second / 2**20, 1),
        "soak_memory_last_minute_mib": round(last / 2**20, 1),
        "soak_memory_growth": round(last / second, 4),
        "soak_rows_logged": int(numbers["rows_logged_total"]),
        "soak_rows_dropped": int(numbers["exchanges_dropped_total"]),
        "soak_unaccounted": int(accepted - logged - numbers["exchanges_dropped_total"]),
    }


@dataclass
class _Clients:
    """Clients that each ask about numbers nobody else asks about, and remember when they were answered."""

    port: int
    first: int
    answered: dict[int, float] = field(default_factory=dict[int, float])

    def run(self) -> int:
        """Ask until the sidecar is gone; the first number that was not asked about."""
        threads = [threading.Thread(target=self._ask, args=(self.first + k,)) for k in range(_CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return max(self.answered, default=self.first) + 2 * _CLIENTS

    def _ask(self, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with suppress(OSError, http.client.HTTPException):
            while True:
                body = json.dumps({"inputs": [[number] + [0.5] * 20]})
                connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                response.read()
                if response.status == 200:
                    self.answered[number] = time.monotonic()
                number += _CLIENTS
        connection.close()


def kills(folder: Path, count: int, durability: str) -> dict[str, float | int]:
    """``kill -9`` at random moments under load, each time starting again on what the last one left."""
    model = trivial_server(folder)
    chance = random.Random(count)  # noqa: S311 - moments, no secrets
    options = [f"--durability={durability}", "--flush-seconds=0.2"]
    answered: dict[int, float] = {}
    ages: dict[int, float] = {}
    number = 0
    try:
        for round_number in range(count):
            sidecar = SidecarChild(folder, model.url, *options, name=f"sidecar-{round_number}")
            clients = _Clients(sidecar.port, number)
            killer = threading.Timer(chance.uniform(0.05, 3.0), sidecar.process.kill)
            killer.start()
            number = clients.run()
            sidecar.process.wait()
            killed = max(clients.answered.values(), default=0.0)
            answered.update(clients.answered)
            ages.update({each: killed - at for each, at in clients.answered.items()})
        last = SidecarChild(folder, model.url, *options, name="sidecar-last")
        try:
            last.settle()
        finally:
            last.stop()
        log = _logged(last.field_log)
    finally:
        model.stop()
    lost = set(answered) - set(log)
    oldest = max((ages[each] for each in lost), default=0.0)
    result = {
        "kills": count,
        "answered": len(answered),
        "lost": len(lost),
        "twice": len(log) - len(set(log)),
    }
    if durability == "async":
        result["lost_beyond_window"] = sum(ages[each] > _WINDOW_SECONDS for each in lost)
        result["oldest_lost_ms"] = round(1000 * oldest)
    return {f"{durability}_{name}": value for name, value in result.items()}


def _logged(field_log: Path) -> list[int]:
    """Which numbers are in the field log, repetitions included."""
    log = FieldLog.open(field_log)
    numbers: list[int] = []
    cursor: Cursor = {}
    while True:
        rows = log.read_after(cursor, limit=50_000)
        if not len(rows):
            return numbers
        numbers += [int(each[0]) for each in rows.inputs()]
        cursor = rows.cursor_after(cursor)
