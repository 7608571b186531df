"""How well a training that went wrong is diagnosed and repaired: ``python -m benchmarks.training_faults --json FILE``.

Every fault has a correct version. For each fault, seed and search: the faulty training is searched from with a budget
of 20 trainings, trials are chosen by a validation part, and the best one is measured on a sealed test part, beside the
faulty and the correct version. Records that the file has already are not measured again, so an interrupted run can be
repeated. Faults on data that is not on this machine are named and left out (``FIELDREPAIR_DATA``, docs/benchmarks.md).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import torch

from benchmarks.fault_cases import faults
from benchmarks.fault_data import available
from benchmarks.fault_records import FaultRecord, read_fault_records, write_fault_records
from benchmarks.fault_report import draw_rates, summary, write_page
from benchmarks.one_fault import TRAININGS, run_fault
from fieldrepair_service.errors import InputError

STRATEGIES = ("random", "autotrainer", "bohb", "gp", "guided")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; see the module's docstring."""
    options = _options(arguments)
    known = {fault.name: fault for fault in faults()}
    names = options.faults.split(",") if options.faults else list(known)
    if unknown := sorted(set(names) - set(known)):
        raise InputError(f"expected faults out of {', '.join(known)}; got {', '.join(unknown)}")
    absent = [name for name in names if not (available(known[name].faulty.data) and available(known[name].fixed.data))]
    if absent:
        print(f"left out, their data is not here (FIELDREPAIR_DATA): {', '.join(absent)}")
    records = read_fault_records(options.json) if options.json else []
    have = {record.key for record in records}
    order = {name: at for at, name in enumerate(known)}
    jobs: list[tuple[str, list[str], int]] = []
    for seed in map(
        int, options.seed.split(",")
    ):  # seed by seed, so that a run that is cut short is a whole smaller one
        for name in [each for each in names if each not in absent]:
            missing = [each for each in options.strategy.split(",") if (name, each, seed) not in have]
            if missing and not options.report:
                jobs.append((name, missing, seed))
    # Processes of their own, fresh: each computes on one thread.
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        running = [pool.submit(_job, *job, options.trainings) for job in jobs]
        for done, future in enumerate(as_completed(running), start=1):
            measured = future.result()
            records = sorted(
                [*records, *measured], key=lambda each: (order.get(each.fault, 0), each.strategy, each.seed)
            )
            if options.json:
                write_fault_records(options.json, records)
            said = ", ".join(f"{each.strategy} {each.improvement_rate:.2f}" for each in measured)
            print(f"{done}/{len(jobs)} {measured[0].fault}, seed {measured[0].seed}: {said}", flush=True)
    print(summary(records))
    if options.plot:
        draw_rates(records, options.plot)
    if options.page:
        write_page(records, options.page, options.plot)
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_faults", description=__doc__)
    parser.add_argument("--faults", default="", help="comma-separated; default: all there is data for")
    parser.add_argument("--strategy", default=",".join(STRATEGIES), help="comma-separated; also: hebo, if installed")
    parser.add_argument("--seed", default="0,1,2,3,4", help="comma-separated")
    parser.add_argument("--trainings", type=int, default=TRAININGS, help="budget, in trainings of the correct version")
    parser.add_argument("--report", action="store_true", help="measure nothing: table, plot and page of what there is")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--json", type=Path, help="read records from here, and write one per search")
    parser.add_argument("--plot", type=Path, help="draw the rates into this file")
    parser.add_argument("--page", type=Path, help="rewrite the measured part of this page")
    return parser.parse_args(arguments)


def _one_thread() -> None:
    torch.set_num_threads(1)


def _job(name: str, strategies: list[str], seed: int, trainings: int) -> list[FaultRecord]:
    fault = next(each for each in faults() if each.name == name)
    return run_fault(fault, strategies, seed, trainings)


if __name__ == "__main__":
    sys.exit(main())
