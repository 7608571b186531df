"""Select, ask and train in one go, at once or in rounds: for when somebody is there to answer."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from fieldrepair_plugin.exemplars import Oracle
from fieldrepair_plugin.progress import Progress, ProgressEvent, silent
from fieldrepair_plugin.recipe import HybridSettings
from fieldrepair_plugin.repairable import IntArray, RepairableModel, Served, TrainingSet
from fieldrepair_plugin.strategies.base import Labels, Strategy, known_indices
from fieldrepair_plugin.strategies.registry import DEFAULT, strategy_named
from fieldrepair_plugin.training import RepairResult, RoundRecord
from fieldrepair_service.errors import InputError


@dataclass(frozen=True, config=ConfigDict(extra="forbid", use_attribute_docstrings=True))
class RoundSettings:
    """How a budget is spent."""

    rounds: int = Field(default=1, ge=1)
    """Parts the budget is asked in. The model repaired by one part's labels chooses the next."""
    stop_agreement: float | None = Field(default=0.99, gt=0, le=1)
    """End when the models before and after a round agree on the pool by this much (Cohen's kappa, chance taken out);
    none asks everything. It needs no labels: Bloodgood and Vijay-Shanker, "A method for stopping active learning based
    on stabilizing predictions", CoNLL 2009, whose 0.99 this is."""


def repair(
    model: RepairableModel,
    reference: TrainingSet,
    field_pool: Served,
    oracle: Oracle,
    budget: int,
    settings: HybridSettings,
    *,
    strategy: str | Strategy = DEFAULT,
    rounds: RoundSettings | None = None,
    known: Labels | None = None,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
) -> RepairResult:
    """Repair a copy of a model by one of the strategies.

    Args:
        model: the model under repair; it is not changed.
        reference: its training data.
        field_pool: ``(n, *shape)`` field inputs in served form.
        oracle: answers pool indices with classes, or with ``NONE_OF_THESE``. Never asked more than ``budget`` in all,
            nor twice for one input, nor for a known one.
        budget: labels that may be asked for.
        settings: numbers and seed.
        strategy: a name out of :func:`~fieldrepair_plugin.strategies.strategy_names`, or a strategy.
        rounds: at once by default.
        known: labels of pool inputs that exist already.
        progress: told of each step.
        checkpoint: answers (``.answers.json``) and training (one file per round) are kept beside this path; called
            again with the same arguments, nobody is asked twice and training goes on exactly.

    Returns:
        The repaired copy; ``labels_left`` is what was not asked for because more did not help.

    Raises:
        InputError: for an unknown strategy, a budget the pool cannot spend, or answers that do not fit.
        TrainingError: if there is nothing to train, or training diverges.
    """
    own = strategy_named(strategy) if isinstance(strategy, str) else strategy
    plan, tell, known = rounds or RoundSettings(), progress or silent, dict(known or {})
    askable = len(field_pool) - len(known_indices(known, len(field_pool)))
    wanted = own.labels_wanted(budget, askable)
    answers = _Answers(oracle, None if checkpoint is None else checkpoint.with_suffix(".answers.json"))
    parts = _parts(wanted, min(plan.rounds, max(1, wanted)))
    labels, records, current = dict(known), list[RoundRecord](), model
    result: RepairResult | None = None
    before: IntArray | None = None
    for number, part in enumerate(parts, start=1):
        # A strategy that asks for nothing is still told the budget; none of it will be used.
        selection = own.select(
            current, reference, field_pool, part or budget, settings, known=labels, progress=progress
        )
        labels.update(answers.of(selection.exemplars))
        last = number == len(parts)
        if not last and not any(label >= 0 for label in labels.values()):
            records.append(RoundRecord(number, len(selection.exemplars), None))
            continue
        file = checkpoint if checkpoint is None or len(parts) == 1 else checkpoint.with_suffix(f".round-{number}.pt")
        result = own.train(
            model, reference, field_pool, selection, labels, settings, progress=progress, checkpoint=file
        )
        current = replace(model, module=result.module)
        after = _classes(current, field_pool, settings) if len(parts) > 1 else None
        agreement = None if before is None or after is None else kappa(before, after)
        records.append(RoundRecord(number, len(selection.exemplars), agreement))
        told = {} if agreement is None else {"agreement": agreement}
        tell(ProgressEvent("rounds", number, len(parts), told))
        if agreement is not None and plan.stop_agreement is not None and agreement >= plan.stop_agreement:
            break
        before = after
    if result is None:
        raise InputError("need at least 1 round of questions")  # pragma: no cover - there is always a last part
    asked = sum(record.asked for record in records)
    return replace(
        result,
        labels_used=asked,
        labels_known=len(known),
        labels_left=wanted - asked,
        rounds=tuple(records) if len(parts) > 1 else (),
    )


def kappa(first: IntArray, second: IntArray) -> float:
    """Cohen's kappa of two lists of classes: 1 for equal ones, 0 for no more agreement than by chance."""
    observed = float((first == second).mean())
    classes = np.union1d(first, second)
    expected = float(sum((first == each).mean() * (second == each).mean() for each in classes))
    return 1.0 if expected == 1.0 else (observed - expected) / (1.0 - expected)


class _Answers:
    """What was answered, kept on disk if there is a place for it, so that a continued repair asks nobody twice."""

    def __init__(self, oracle: Oracle, path: Path | None) -> None:
        self._oracle = oracle
        self._path = path
        self._given: dict[int, int] = {}
        if path is not None and path.exists():
            stored = cast("dict[str, int]", json.loads(path.read_text(encoding="utf-8")))
            self._given = {int(index): label for index, label in stored.items()}

    def of(self, exemplars: IntArray) -> dict[int, int]:
        new = np.array([index for index in exemplars.tolist() if index not in self._given], dtype=np.int64)
        if len(new):
            answers = np.asarray(self._oracle(new))
            if answers.shape != new.shape:
                raise InputError(f"asked the oracle for {len(new)} labels, got shape {np.shape(answers)}")
            self._given.update(zip(new.tolist(), (int(answer) for answer in answers), strict=True))
            self._save()
        return {int(index): self._given[int(index)] for index in exemplars}

    def _save(self) -> None:
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_name(f".{self._path.name}.part")
        with draft.open("w", encoding="utf-8") as stream:
            json.dump(self._given, stream)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(self._path)


def _parts(budget: int, rounds: int) -> list[int]:
    return [len(part) for part in np.array_split(np.arange(budget), rounds)]


def _classes(model: RepairableModel, pool: Served, settings: HybridSettings) -> IntArray:
    own = model.working_copy()
    logits, _ = own.logits_and_embeddings(own.pixels(pool, "field pool"), settings.inference_batch_size)
    return logits.argmax(axis=1).astype(np.int64)
