"""Mutated bodies for every decoder and for the mirror's sink: does one crash, hang, or eat the memory?

``python -m benchmarks.fuzz --bodies 1000000 --json FILE``. Each body is decoded in a child process with limits on its
memory; one that takes more than a few seconds of processor time ends the child, as one that crashes it does. The parent
notes which body that was and goes on behind it.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import resource
import signal
import struct
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from benchmarks.fuzz_bodies import TALKS, Make, event_headers, mutated
from fieldrepair_service import drops
from fieldrepair_service.errors import DecodeError
from fieldrepair_service.exchange import Exchange
from fieldrepair_service.mirror.events import EventRefused, check_mode, read_event
from fieldrepair_service.protocols import DECODERS, DecodedExchange
from fieldrepair_service.rows import to_rows

Target = Callable[[random.Random], str]
"""Makes a body and has it read; what came of it, in a word. Raises what must not be raised."""

_REPORT_EVERY = 1_000
_POSITION = struct.Struct("<q")


def decode(make: Make) -> Target:
    """A target: talks of a kind, mutated, through the decoder of their protocol, and on to rows."""

    def run(rng: random.Random) -> str:
        exchange = mutated(rng, make(rng))
        try:
            decoded = DECODERS[exchange.protocol].decode(exchange)
        except DecodeError as error:
            if error.reason not in drops.SHIPPER_REASONS:
                raise AssertionError(f"a reason that is none: {error.reason}") from error
            return error.reason
        check(exchange, decoded)
        return "decoded"

    return run


def check(exchange: Exchange, decoded: DecodedExchange) -> None:
    """The contract of decoders: arrays of one length that become that many rows, or are counted.

    Raises:
        AssertionError: if it is broken.
    """
    inputs, predictions = decoded.inputs, decoded.predictions
    count = len(inputs)
    scores, classes, confidence = predictions.scores, predictions.predicted_class, predictions.confidence
    kept = [
        inputs.ndim >= 1 and inputs.size > 0 and inputs.dtype.kind in "biuf",
        scores is None or (scores.dtype == np.float32 and scores.ndim == 2 and len(scores) == count),
        classes is None or (classes.dtype == np.int32 and classes.shape == (count,)),
        confidence is None or confidence.shape == (count,),
    ]
    if not all(kept):
        raise AssertionError(f"the decoder of {exchange.protocol} broke its contract: {kept}")
    rows, left_out = to_rows("w" * 32, 1, exchange, decoded)
    if len(rows) + left_out.total() != count:
        raise AssertionError(f"{count} instances became {len(rows)} rows and {left_out}")


def event(rng: random.Random) -> str:
    """A target: the mirror's reading of an event's header fields."""
    headers = event_headers(rng)
    try:
        check_mode(headers)
        read_event(headers, b"{}")
    except EventRefused as error:
        return error.reason
    return "taken"


def _crash(_: random.Random) -> str:
    os.kill(os.getpid(), signal.SIGSEGV)
    return ""


def _hang(_: random.Random) -> str:
    while True:
        pass


def _eat(_: random.Random) -> str:
    return str(len(bytearray(64 << 30)))


def _fill(_: random.Random) -> str:
    return str(len(b"x" * (512 << 20)))


def _raise(_: random.Random) -> str:
    raise KeyError("not a DecodeError")


TARGETS: dict[str, Target] = {**{name: decode(make) for name, make in TALKS.items()}, "cloudevent": event}
"""What is fuzzed unless told otherwise."""
SELF_TESTS: dict[str, Target] = {"crash": _crash, "hang": _hang, "eat": _eat, "fill": _fill, "raise": _raise}
"""Targets that do what must not happen, by which the fuzzer itself is tested."""


@dataclass
class Findings:
    """What came of all bodies. ``crashes``, ``hangs``, ``memory`` and ``wrong`` must be empty."""

    bodies: int = 0
    outcomes: dict[str, Counter[str]] = field(default_factory=dict[str, Counter[str]])
    crashes: list[dict[str, object]] = field(default_factory=list[dict[str, object]])
    hangs: list[dict[str, object]] = field(default_factory=list[dict[str, object]])
    memory: list[dict[str, object]] = field(default_factory=list[dict[str, object]])
    wrong: list[dict[str, object]] = field(default_factory=list[dict[str, object]])
    peak_rss_mb: int = 0

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not (self.crashes or self.hangs or self.memory or self.wrong)


@dataclass(frozen=True)
class Limits:
    """What one body may take."""

    cpu_seconds: float = 10.0
    memory_mb: int = 1024
    """Of memory in use, the process with its libraries included."""
    reserved_mb: int = 8192
    """Of address space. A page of a Parquet file may claim 2 GiB; its reader reserves that, and uses what is there."""


def fuzz(targets: dict[str, Target], *, bodies: int, seed: int, first: int, limits: Limits) -> Findings:
    """Run bodies ``first`` to ``first + bodies - 1``, turn by turn over the targets."""
    findings = Findings(outcomes={name: Counter() for name in targets})
    at, last = first, first + bodies
    position = mmap.mmap(-1, _POSITION.size)
    while at < last:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            _work(targets, at, last, seed, limits, position, writing)
        os.close(writing)
        with os.fdopen(reading, "r") as reports:
            for line in reports:
                _add(findings, json.loads(line))
        _, status = os.waitpid(child, 0)
        if status == 0:
            break
        (fatal,) = _POSITION.unpack_from(position)
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        found: dict[str, object] = {"body": fatal, "target": _name_of(targets, fatal), "status": status}
        (findings.hangs if number == signal.SIGPROF else findings.crashes).append(found)
        at = fatal + 1
    findings.bodies = bodies
    return findings


def _work(
    targets: dict[str, Target], at: int, last: int, seed: int, limits: Limits, position: mmap.mmap, writing: int
) -> None:
    """The child: decode, report, never come back."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process, in whatever library it is
    resource.setrlimit(resource.RLIMIT_AS, (limits.reserved_mb << 20, limits.reserved_mb << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    status = 1
    try:
        with os.fdopen(writing, "w") as reports:
            _decode_all(targets, range(at, last), seed, limits, position, reports)
        status = 0
    except BaseException:  # noqa: BLE001 - nothing may get past the end of a forked child
        traceback.print_exc()
    finally:
        os._exit(status)


def _decode_all(
    targets: dict[str, Target], numbers: range, seed: int, limits: Limits, position: mmap.mmap, reports: IO[str]
) -> None:
    names = list(targets)
    report: dict[str, list[dict[str, object]]] = {}
    outcomes: dict[str, Counter[str]] = {name: Counter() for name in names}
    for number in numbers:
        name = names[number % len(names)]
        _POSITION.pack_into(position, 0, number)
        signal.setitimer(signal.ITIMER_PROF, limits.cpu_seconds)
        try:
            outcome = targets[name](random.Random(seed * 1_000_000_007 + number))  # noqa: S311 - no secrets here
            outcomes[name][outcome] += 1
        except MemoryError:
            report.setdefault("memory", []).append({"body": number, "target": name})
        except Exception:  # noqa: BLE001 - that is what is looked for
            found: dict[str, object] = {"body": number, "target": name, "error": traceback.format_exc(limit=-3)}
            report.setdefault("wrong", []).append(found)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        if peak > limits.memory_mb:
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew, so that the next one shows
            report.setdefault("memory", []).append({"body": number, "target": name, "resident_mb": peak})
        if report or number % _REPORT_EVERY == 0 or number == numbers[-1]:
            signal.setitimer(signal.ITIMER_PROF, 0)
            reports.write(json.dumps({**report, "outcomes": outcomes, "peak_rss_mb": peak}) + "\n")
            reports.flush()
            report, outcomes = {}, {each: Counter() for each in names}


def _add(findings: Findings, report: dict[str, Any]) -> None:
    for name, outcomes in report["outcomes"].items():
        findings.outcomes[name].update(outcomes)
    findings.peak_rss_mb = max(findings.peak_rss_mb, report["peak_rss_mb"])
    findings.memory.extend(report.get("memory", []))
    findings.wrong.extend(report.get("wrong", []))


def _name_of(targets: dict[str, Target], number: int) -> str:
    return list(targets)[number % len(targets)]


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; 1 if anything was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("--bodies", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first body; to look at one again")
    parser.add_argument("--cpu-seconds", type=float, default=Limits.cpu_seconds)
    parser.add_argument("--memory-mb", type=int, default=Limits.memory_mb, help="that may be in use")
    parser.add_argument("--reserved-mb", type=int, default=Limits.reserved_mb, help="of address space")
    parser.add_argument("--target", choices=[*TARGETS, *SELF_TESTS], action="append")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    known = {**TARGETS, **SELF_TESTS}
    targets = {name: known[name] for name in given.target} if given.target else TARGETS
    began = time.monotonic()
    limits = Limits(given.cpu_seconds, given.memory_mb, given.reserved_mb)
    findings = fuzz(targets, bodies=given.bodies, seed=given.seed, first=given.first, limits=limits)
    result = {
        **vars(findings),
        "clean": findings.clean,
        "seconds": round(time.monotonic() - began, 1),
        "seed": given.seed,
        "limits": asdict(limits),
        "python": sys.version.split()[0],
    }
    text = json.dumps(result, indent=1)
    if given.json is not None:
        given.json.write_text(text + "\n")
    print(text)
    return 0 if findings.clean else 1


if __name__ == "__main__":
    raise SystemExit(main())
