"""``python -m benchmarks.sidecar``: what the sidecar costs, beside nginx with ``mirror``, and what it loses.

Everything is measured in one run on one machine, in rounds that take turns, so that what else the machine does meets
all alike. Three ways to the same trivial model server: direct, through nginx that mirrors every request to a second
trivial server (nginx logs nothing by itself; somebody has to take the copy), and through the sidecar with full logging
of a JSON row of 784 values. Needs nginx and wrk (Debian has both).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.sidecar_faults import kills, soak
from benchmarks.sidecar_parts import Bench, MissingProgram

Result = dict[str, float | int]


def main(arguments: list[str] | None = None) -> int:
    """Measure; the exit status."""
    given = _parse(arguments)
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)  # before an hour of measuring, not after
    with tempfile.TemporaryDirectory(prefix="fieldrepair-bench-") as folder:
        try:
            bench = Bench(Path(folder))
        except MissingProgram as error:
            print(error, file=sys.stderr)
            return 1
        with bench:
            result: Result = {}
            if not given.only_faults:
                result.update(traffic(bench, given.rounds, given.seconds))
                if not given.no_mlflow:
                    result.update(mlflow(bench, given.rounds, given.seconds))
                result.update(bench.accounts())
        if given.soak:
            result.update(soak(Path(folder) / "soak", given.soak))
        if given.kills:
            for durability in ("sync", "async"):
                result.update(kills(Path(folder) / durability, given.kills, durability))
    table(result)
    if given.json is not None:
        # The ratios follow from the rest, but for the rounds they were taken in; they are for people.
        kept = {name: value for name, value in result.items() if not name.endswith("_ratio")}
        given.json.write_text(json.dumps(kept, indent=2) + "\n")
    return 0


def traffic(bench: Bench, rounds: int, seconds: float) -> Result:
    """p50 at one connection and throughput at 16, of the three ways."""
    ways = {"direct": bench.direct(), "nginx_mirror": bench.nginx_mirror(), "sidecar": bench.sidecar()}
    result: Result = {}
    p50 = _in_turns({name: lambda url=url: bench.wrk(url, 1, seconds).p50_us for name, url in ways.items()}, rounds)
    for name, values in p50.items():
        result[f"{name}_p50_us"] = round(statistics.median(values), 1)
    added = [(side - own) / (mirror - own) for own, mirror, side in zip(*p50.values(), strict=True)]
    result["added_p50_ratio"] = round(statistics.median(added), 3)
    rps = _in_turns({name: lambda url=url: bench.wrk(url, 16, seconds).rps for name, url in ways.items()}, rounds)
    for name, values in rps.items():
        result[f"{name}_rps"] = round(statistics.median(values), 1)
    ratios = [side / mirror for mirror, side in zip(rps["nginx_mirror"], rps["sidecar"], strict=True)]
    result["rps_ratio"] = round(statistics.median(ratios), 3)
    return result


def mlflow(bench: Bench, rounds: int, seconds: float) -> Result:
    """p50 at one connection in front of MLflow's scoring server with a small CNN: direct, by default, and asleep
    while it waits."""
    server = bench.mlflow()
    ways = {
        "mlflow_direct": server,
        "mlflow_sidecar": bench.mlflow_sidecar("mlflow-sidecar", server),
        "mlflow_asleep": bench.mlflow_sidecar("mlflow-asleep", server, "--busy-poll-ms=0"),
    }
    p50 = _in_turns({name: lambda url=url: bench.wrk(url, 1, seconds).p50_us for name, url in ways.items()}, rounds)
    result: Result = {f"{name}_p50_us": round(statistics.median(values), 1) for name, values in p50.items()}
    direct = p50.pop("mlflow_direct")
    for name, values in p50.items():
        ratios = [side / own for own, side in zip(direct, values, strict=True)]
        result[f"{name}_p50_ratio"] = round(statistics.median(ratios), 3)
    return result


def _in_turns(measures: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Each once per round, after one round that is thrown away."""
    values: dict[str, list[float]] = {name: [] for name in measures}
    for round_number in range(rounds + 1):
        for name, measure in measures.items():
            value = measure()
            if round_number:
                values[name].append(value)
    return values


def table(result: Result) -> None:
    """Print what was measured, and the bars it is held to."""
    bars = {
        "added_p50_ratio": "added p50, sidecar / nginx mirror: at most 0.6",
        "rps_ratio": "throughput at 16 connections, sidecar / nginx mirror: at least 1.0",
        "mlflow_sidecar_p50_ratio": "p50 in front of MLflow, sidecar / direct: at most 1.08",
        "mlflow_asleep_p50_ratio": "the same with --busy-poll-ms 0",
        "soak_memory_growth": "memory, last minute / second minute: at most 1.05",
        "soak_unaccounted": "exchanges neither logged nor counted as dropped: 0",
        "sync_lost": "answered requests lost by kills in sync mode: 0",
        "sync_twice": "rows logged twice: 0",
        "async_lost_beyond_window": "answered requests lost from before the window: 0",
        "async_twice": "rows logged twice: 0",
    }
    width = max(map(len, result), default=0)
    for name, value in result.items():
        print(f"{name:<{width}}  {value:>12,}  {bars.get(name, '')}".rstrip())


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sidecar", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--rounds", type=int, default=7, help="how often each way is measured")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each measurement takes")
    parser.add_argument(
        "--no-mlflow", action="store_true", help="leave out MLflow's scoring server, which is slow to start"
    )
    parser.add_argument(
        "--soak", type=float, default=0, metavar="SECONDS", help="load at half of the maximum for so long"
    )
    parser.add_argument(
        "--kills", type=int, default=0, metavar="N", help="kill -9 at N random moments under load, per mode"
    )
    parser.add_argument("--only-faults", action="store_true", help="only --soak and --kills")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
