"""The honest report of a training repair: what was tried, how much of it was chance, and what the sealed part says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from scipy import stats

from fieldrepair_plugin.training_repair.findings import Finding
from fieldrepair_plugin.training_repair.search import SearchResult, origins


@dataclass(frozen=True)
class Arm:
    """One search, and what its best trial does on the sealed part."""

    result: SearchResult
    sealed: float | None
    """Accuracy of its best trial there; none if no trial finished an epoch."""


@dataclass(frozen=True)
class OverSeeds:
    """The given and the found training, each trained anew under the same fresh seeds; accuracy on the sealed part."""

    given: tuple[float, ...]
    found: tuple[float, ...]

    @property
    def p_value(self) -> float | None:
        """Wilcoxon's one-sided signed-rank test that the found training is better; none where nothing differs."""
        return signed_ranks(np.asarray(self.found) - np.asarray(self.given))


def signed_ranks(differences: npt.NDArray[np.float64]) -> float | None:
    """Wilcoxon's one-sided signed-rank test that differences lie above 0.

    Up to 12 differences are judged by all their signs (exact, ties and zeros included), more by the normal
    approximation.

    Returns:
        p; none where every difference is 0.
    """
    if not differences.any():
        return None
    if len(differences) == 1:  # its sign is all there is, and scipy asks for two
        return 0.5 if differences[0] > 0 else 1.0
    scipy = cast(Any, stats)  # typed in part only
    method = scipy.PermutationMethod(n_resamples=2**12) if len(differences) <= 12 else "approx"
    return float(scipy.wilcoxon(differences, alternative="greater", zero_method="pratt", method=method).pvalue)


@dataclass(frozen=True)
class RetrainReport:
    """Everything a person should know before believing a repair."""

    model: str
    method: str
    seed: int
    findings: tuple[Finding, ...]
    """Of the training as given, where it was examined."""
    before: float
    """Accuracy of the version on the sealed part."""
    inputs: int
    """Of the sealed part."""
    arm: Arm
    random_arm: Arm | None
    """The same budget spent on random draws; none where it was not asked for, or is the arm itself."""
    over_seeds: OverSeeds | None
    reasons: tuple[str, ...]
    """The acceptance test's."""
    accepted: bool
    version: str | None
    """The new version, if one was registered."""

    def lines(self) -> list[str]:
        """The report as people read it."""
        result = self.arm.result
        lines = [
            f"{self.model}: {self.before:.1%} of {self.inputs} sealed validation inputs",
            *(f"found: {each.problem.value}: {each.evidence}" for each in self.findings),
            *_arm_lines(self.arm),
        ]
        if self.random_arm is not None:
            lines += ["equal-budget random arm:", *(f"  {line}" for line in _arm_lines(self.random_arm))]
        best = result.best
        if best is not None:
            changes = best.trial.plan.difference(result.given.plan)
            lines.append("changed: " + (_changes(changes) or "nothing"))
        if self.over_seeds is not None:
            lines.append(_seeds_line(self.over_seeds))
        lines += [f"verdict: {reason}" for reason in self.reasons]
        if self.version is not None:
            lines.append(f"registered as version {self.version}, alias candidate")
        elif not self.accepted:
            lines.append("no repair found: the version stays as it is")
        return lines

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and strings."""
        seeds = self.over_seeds
        return {
            "model": self.model,
            "method": self.method,
            "seed": self.seed,
            "findings": [{"problem": each.problem.value, "evidence": each.evidence} for each in self.findings],
            "before": self.before,
            "inputs": self.inputs,
            "arm": _arm_json(self.arm),
            "random_arm": None if self.random_arm is None else _arm_json(self.random_arm),
            "over_seeds": None
            if seeds is None
            else {"given": list(seeds.given), "found": list(seeds.found), "p_value": seeds.p_value},
            "reasons": list(self.reasons),
            "accepted": self.accepted,
            "version": self.version,
        }

    def save(self, folder: Path) -> list[Path]:
        """Write ``report.json`` and ``report.txt``, and say where."""
        written = [folder / "report.json", folder / "report.txt"]
        written[0].write_text(json.dumps(self.to_json(), indent=2) + "\n", encoding="utf-8")
        written[1].write_text("\n".join(self.lines()) + "\n", encoding="utf-8")
        return written


def result_json(result: SearchResult) -> dict[str, Any]:
    """A search in plain numbers, every trial with its plan."""
    return {
        "method": result.method,
        "budget": result.budget,
        "spent": result.spent,
        "knobs": result.knobs,
        "trials_by_origin": origins(result.trials),
        "effectively_random": result.effectively_random,
        "best_trial": None if result.best is None else result.best.trial.number,
        "trials": [each.to_json() for each in result.trials],
    }


def search_lines(result: SearchResult) -> list[str]:
    """What a search did, in sentences."""
    by = origins(result.trials)
    lines = [
        f"{result.method}: {len(result.trials)} trials in {result.spent} of {result.budget} epochs: {by['given']} as "
        f"given, {by['random']} drawn at random, {by['model']} chosen by a model of earlier trials, {by['remedy']} by "
        "a rule"
    ]
    if result.effectively_random:
        lines.append(f"effectively random: too few trials for a model of {result.knobs} knobs")
    failed = [trial for trial in result.trials if trial.ended in ("broken", "impossible")]
    if failed:
        lines.append(f"{len(failed)} trials broke down (NaN, infinity) or could not be run")
    if result.best is not None:
        trial = result.best.trial
        lines.append(
            f"best by the inputs that choose: trial {trial.number}, {trial.score:.1%} after epoch {trial.best_epoch}; "
            f"as given: {result.given.score:.1%}"
        )
    return lines


def _arm_lines(arm: Arm) -> list[str]:
    lines = search_lines(arm.result)
    if arm.sealed is not None:
        lines.append(f"on the sealed inputs, looked at for this line only: {arm.sealed:.1%}")
    return lines


def _arm_json(arm: Arm) -> dict[str, Any]:
    return {**result_json(arm.result), "sealed": arm.sealed}


def _changes(changes: dict[str, tuple[object, object]]) -> str:
    return ", ".join(f"{name} {_short(there)} -> {_short(here)}" for name, (here, there) in changes.items())


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _seeds_line(seeds: OverSeeds) -> str:
    given, found = float(np.mean(seeds.given)), float(np.mean(seeds.found))
    p = seeds.p_value
    said = "no difference" if p is None else f"p = {p:.3f}"
    least = 0.5 ** len(seeds.given)
    hint = f"; {len(seeds.given)} seeds cannot show more than p = {least:.3f}" if least > 0.05 else ""
    return (
        f"trained anew under {len(seeds.given)} fresh seeds: {given:.1%} as given, {found:.1%} as found ({said}{hint})"
    )


def listed(findings: Sequence[Finding]) -> list[str]:
    """Findings as people read them: what, what shows it, what to do."""
    lines: list[str] = []
    for each in findings:
        when = "" if each.epoch is None else f" (after epoch {each.epoch})"
        lines += [f"  {each.problem.value}{when}", f"    seen:   {each.evidence}", f"    do:     {each.advice}"]
    return lines
