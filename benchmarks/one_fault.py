"""One fault under one seed: faulty and correct version measured, examined, and every search that is wanted run."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import nn

from benchmarks.fault_cases import Fault, Version
from benchmarks.fault_data import FaultData, fault_data
from benchmarks.fault_records import FaultRecord
from fieldrepair_plugin.randomness import derive_seed, own_global_state
from fieldrepair_plugin.training_repair.examination import examine
from fieldrepair_plugin.training_repair.search import search
from fieldrepair_plugin.training_repair.training_loop import Training
from fieldrepair_plugin.training_repair.transforms import Network

TRAININGS = 20
"""The budget, in trainings of the correct version."""


def run_fault(fault: Fault, strategies: Sequence[str], seed: int, trainings: int = TRAININGS) -> list[FaultRecord]:
    """Measure; the sealed part is looked at once by each of faulty, correct and repaired version.

    Args:
        fault: what is wrong.
        strategies: names of searches.
        seed: of weights, of all trainings, and of the searches.
        trainings: the budget, in trainings of the correct version.
    """
    faulty_data, fixed_data = fault_data(fault.faulty.data), fault_data(fault.fixed.data)
    faulty = _network(fault.faulty, faulty_data, seed)
    fixed = _network(fault.fixed, fixed_data, seed)
    before = _accuracy(_trained(fault.faulty, faulty, faulty_data, seed), faulty_data)
    correct = _accuracy(_trained(fault.fixed, fixed, fixed_data, seed), fixed_data)
    diagnosis = examine(faulty, faulty_data.trial, fault.faulty.plan, seed).names
    healthy = examine(fixed, fixed_data.trial, fault.fixed.plan, seed).names
    budget = trainings * fault.epochs
    records: list[FaultRecord] = []
    for name in strategies:
        started = time.perf_counter()
        found = search(
            name, faulty, faulty_data.trial, fault.faulty.plan, epochs=fault.epochs, budget=budget, seed=seed
        )
        seconds = time.perf_counter() - started
        after = before if found.best is None else _accuracy(found.best.module, faulty_data)
        records.append(
            FaultRecord(
                fault=fault.name,
                kind=fault.kind,
                larger=fault.larger,
                strategy=name,
                seed=seed,
                epochs=found.spent,
                budget=budget,
                faulty=before,
                repaired=after,
                fixed=correct,
                improvement_rate=(after - before) / (correct - before),
                diagnosis=list(diagnosis),
                injected=fault.injected,
                healthy_diagnosis=list(healthy),
                trials=len(found.trials),
                random_trials=found.count("random"),
                model_trials=found.count("model"),
                remedy_trials=found.count("remedy"),
                knobs=found.knobs,
                effectively_random=found.effectively_random,
                seconds=seconds,
            )
        )
    return records


def _network(version: Version, data: FaultData, seed: int) -> Network:
    with own_global_state(derive_seed(seed, "network"), torch.device("cpu")):
        return Network(version.network(), data.trial.train_x[:2])


def _trained(version: Version, network: Network, data: FaultData, seed: int) -> nn.Module:
    training = Training(network, data.trial, version.plan, derive_seed(seed, "version"), instruments=False)
    while len(training.done) < version.plan.epochs and not training.broken:
        training.epoch()
    return training.finished()


@torch.no_grad()
def _accuracy(module: nn.Module, data: FaultData) -> float:
    outputs = module.eval()(data.test_x)
    right = (outputs.argmax(dim=1) == data.test_y) & outputs.isfinite().all(dim=1)
    return float(right.double().mean())
