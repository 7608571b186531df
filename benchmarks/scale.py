"""Choosing exemplars from a million field inputs: ``python -m benchmarks.scale --json FILE``.

The embeddings are made: groups of very different size and width around random centres, and a share of uniform noise.
Both recipes' steps from embeddings to exemplars are timed, each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import faiss
import numpy as np

from fieldrepair_plugin.coverage import cover
from fieldrepair_plugin.default_settings import DefaultSettings
from fieldrepair_plugin.exemplars import choose_exemplars
from fieldrepair_plugin.hybrid import HybridSettings
from fieldrepair_plugin.regions import find_regions
from fieldrepair_plugin.repairable import FloatArray

_GROUPS = 2000
_NOISE_SHARE = 0.02


@dataclass(frozen=True)
class ScaleRecord:
    """One measured choice."""

    recipe: str
    inputs: int
    dimensions: int
    budget: int
    exemplars: int
    regions: int | None
    noise: int | None
    seconds: float
    """Wall clock, from embeddings to exemplars."""
    cpu_seconds: float
    """Of all threads; on a busy machine it says more than the wall clock."""
    peak_memory_bytes: int
    """Of the process, embeddings and libraries included."""
    threads: int
    load: float
    """The machine's load average over the last minute, when the measurement ended."""


def made_embeddings(inputs: int, dimensions: int, seed: int) -> FloatArray:
    """``(inputs, dimensions)`` float32; see the module's docstring."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(_GROUPS, dimensions)).astype(np.float32)
    shares = random.pareto(1.5, size=_GROUPS) + 0.1
    group = random.choice(_GROUPS, size=inputs, p=shares / shares.sum())
    width = random.uniform(0.1, 0.6, size=_GROUPS).astype(np.float32)
    embeddings = random.standard_normal((inputs, dimensions), dtype=np.float32)
    embeddings *= width[group, None]
    embeddings += centres[group]
    noise = random.choice(inputs, size=int(inputs * _NOISE_SHARE), replace=False)
    embeddings[noise] = random.uniform(-3, 3, size=(len(noise), dimensions))
    return embeddings


def measure(recipe: str, inputs: int, dimensions: int, budget: int) -> ScaleRecord:
    """Choose exemplars from made embeddings."""
    embeddings = made_embeddings(inputs, dimensions, seed=0)
    unsmoothness = np.random.default_rng(1).random(inputs)
    started, cpu = time.perf_counter(), time.process_time()
    regions = noise = None
    if recipe == "paper":
        found = find_regions(embeddings, budget, HybridSettings())
        regions, noise = len(found.members), len(found.noise)
        exemplars, _ = choose_exemplars(found, embeddings, unsmoothness, budget)
    else:
        exemplars = cover(embeddings, np.arange(inputs), budget, DefaultSettings(), np.random.default_rng(0))
    return ScaleRecord(
        recipe,
        inputs,
        dimensions,
        budget,
        len(set(exemplars.tolist())),
        regions,
        noise,
        time.perf_counter() - started,
        time.process_time() - cpu,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        faiss.omp_get_max_threads(),
        os.getloadavg()[0],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--dimensions", type=int, default=128)
    parser.add_argument("--budget", type=int, default=1000)
    parser.add_argument("--recipe", default="paper,default", help="comma-separated")
    parser.add_argument("--json", type=Path, help="write one record per recipe")
    options = parser.parse_args(arguments)
    recipes: list[str] = options.recipe.split(",")
    if len(recipes) == 1:
        record = measure(recipes[0], options.inputs, options.dimensions, options.budget)
        text = json.dumps([asdict(record)], indent=1)
        print(text)
    else:
        shared = ["--inputs", options.inputs, "--dimensions", options.dimensions, "--budget", options.budget]
        records: list[object] = []
        for recipe in recipes:
            command = [sys.executable, "-m", "benchmarks.scale", "--recipe", recipe, *map(str, shared)]
            records += json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        text = json.dumps(records, indent=1)
        print(text)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
