"""Plans a case: waits for enough field inputs, draws the acceptance sample, chooses what to label for the repair."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import numpy as np
from torch import nn

from fieldrepair_monitoring.handover import HandOver, load_handover, load_module
from fieldrepair_plugin.batch_norm import norm_layers
from fieldrepair_plugin.case_files import CaseFiles, Plan
from fieldrepair_plugin.embedding_map import ATTACHMENT, embedding_map
from fieldrepair_plugin.exemplars import Selection
from fieldrepair_plugin.field_pool import FieldPool, Key, count_inputs, gather, split
from fieldrepair_plugin.ground_truth import known_labels
from fieldrepair_plugin.progress import Progress
from fieldrepair_plugin.randomness import derive_seed
from fieldrepair_plugin.recipe import HybridSettings, Recipe
from fieldrepair_plugin.reference_examples import attach_examples
from fieldrepair_plugin.repair_run import prepare_run
from fieldrepair_plugin.repairable import RepairableModel, TrainingSet, compute_device
from fieldrepair_plugin.settings import WorkerSettings
from fieldrepair_plugin.strategies import strategy_named
from fieldrepair_service.case_book import Case, CaseBook, NewTask, Purpose
from fieldrepair_service.field_log import FieldLog

logger = logging.getLogger(__name__)


def repair_settings(settings: WorkerSettings, seed: int, recipe: Recipe) -> HybridSettings:
    """The engine's settings as the worker's say."""
    return HybridSettings(recipe=recipe, keep_reference=settings.keep_reference, seed=seed, epochs=settings.epochs)


def recipe_for(settings: WorkerSettings, module: nn.Module) -> Recipe:
    """The recipe to plan a repair by: the one that was set, or the one that suits the model."""
    if settings.recipe != "auto":
        return settings.recipe
    return "default" if norm_layers(module) else "paper"


def seed_of(case: Case, settings: WorkerSettings) -> int:
    """One seed per case and attempt, so that a plan can be made again and a retry draws anew."""
    return derive_seed(settings.repair_seed, "case", case.id, case.attempt) % 2**31


def budget_for(field_inputs: int, fraction: float, spent: int = 0) -> int:
    """Labels for repair: a share of a case's field inputs, less what earlier attempts spent, and at least 1."""
    return max(1, math.floor(fraction * field_inputs) - spent)


def waiting_note(log: FieldLog, case: Case, settings: WorkerSettings) -> str | None:
    """What the case waits for before it can be planned; None once enough field inputs are there."""
    least = settings.pool_minimum
    found = count_inputs(log, case.model_name, case.model_version, case.cursor_start, least)
    if found >= least:
        return None
    return f"waiting for {least - found} more field inputs ({found} of {least})"


class Planner:
    """Makes the plan of one case.

    Args:
        book: the case book.
        log: the field log.
        settings: the worker's.
    """

    def __init__(self, book: CaseBook, log: FieldLog, settings: WorkerSettings) -> None:
        self._book = book
        self._log = log
        self._settings = settings

    def plan(self, case: Case, progress: Progress) -> Case | None:
        """Choose the tasks of a case that has none, and store them all at once.

        The plan is on disk and in the MLflow run before the tasks are in the case book, so tasks never lack their
        plan. Stopped before that, the next start plans anew.

        Returns:
            The planned case; None if it still waits for field inputs.

        Raises:
            ModelVersionMissingError: the model version was deleted.
            RegistryError, StoreError: MLflow or a store does not answer.
            HandOverError, UnsupportedModelError: what was stored with the version cannot be used.
        """
        handover = load_handover(case.model_name, case.model_version, self._settings.handover_cache)
        pool = gather(
            self._log,
            case.model_name,
            case.model_version,
            handover.input,
            case.cursor_start,
            limit=self._settings.pool_maximum,
        )
        spent, fresh = self._without_earlier(case, pool)
        least = self._settings.pool_minimum
        if len(fresh) < least:
            note = (
                f"waiting for {least - len(fresh)} more field inputs that the model can take ({len(fresh)} of {least}; "
                f"{pool.skipped} others were passed over, {len(pool) - len(fresh)} belong to an earlier attempt)"
            )
            self._book.update_case(case.id, note=note)
            return None
        seed = seed_of(case, self._settings)
        # Before anything else looks at the pool: a random sample that only the acceptance test will ever see.
        parts = split([pool.keys[index][0] for index in fresh], self._settings.acceptance_size, seed)
        chosen = np.asarray(fresh, dtype=np.int64)
        adaptation, acceptance = chosen[parts.adaptation], chosen[parts.acceptance]
        plan = Plan(
            pool=[pool.keys[int(index)] for index in adaptation],
            acceptance=[pool.keys[int(index)] for index in acceptance],
            earlier=spent,
            field_inputs=len(pool),
            by_request=parts.by_request,
            seed=seed,
        )
        strategy = strategy_named(self._settings.repair_strategy)
        most = min(budget_for(len(pool), self._settings.label_fraction, len(spent)), len(plan.pool))
        budget = strategy.labels_wanted(most, len(plan.pool))
        model = RepairableModel(
            load_module(case.model_name, case.model_version).to(compute_device(self._settings.repair_device)),
            handover.input,
            handover.embedding_layer,
            handover.output,
        )
        selection = strategy.select(
            model,
            training_set(handover),
            pool.x[adaptation],
            most,
            repair_settings(self._settings, seed, recipe_for(self._settings, model.module)),
            progress=progress,
        )
        files = CaseFiles.of(self._settings.cases_dir, case)
        plan.save(files.plan)
        selection.save(files.selection)
        prepare_run(self._book, case, (files.plan, files.selection))
        self._book.attach(
            case.id, ATTACHMENT, "application/json", embedding_map(model, pool.x[adaptation], selection, seed=seed)
        )
        attach_examples(self._book, case.id, handover)
        tasks = self._with_known_labels(case, _tasks(plan, selection), seed)
        known = sum(task.known_label is not None for task in tasks)
        return self._book.plan_case(
            case.id,
            tasks,
            budget=budget,
            acceptance_size=len(plan.acceptance),
            pool_cursor=pool.cursor_end,
            note=f"waiting for {len(tasks) - known} labels: {budget} to repair, {len(plan.acceptance)} to "
            f"judge the repair, {known} known from ground truth; from {len(pool)} field inputs",
        )

    def _with_known_labels(self, case: Case, tasks: list[NewTask], seed: int) -> list[NewTask]:
        """The tasks with the labels that ground truth gives already, and of the others some for two people."""
        known = known_labels(self._book, self._log, [(task.request_id, task.row) for task in tasks], case.class_names)
        twice = (
            np.random.default_rng(derive_seed(seed, "double")).random(len(tasks)) < self._settings.double_label_share
        )
        return [
            replace(task, known_label=label)
            if (label := known.get((task.request_id, task.row))) is not None
            else replace(task, answers_wanted=2 if double else 1)
            for task, double in zip(tasks, twice, strict=True)
        ]

    def _without_earlier(self, case: Case, pool: FieldPool) -> tuple[list[Key], list[int]]:
        """What earlier attempts leave: their repair inputs with a label, and pool indices nobody was asked about.

        Acceptance inputs of an earlier attempt take no part at all: their labels have already judged a candidate.
        """
        if case.attempt == 1:
            return [], list(range(len(pool)))
        asked = {(task.request_id, task.row): task for task in self._book.tasks(case.id)}
        labelled = [key for key, task in asked.items() if task.purpose is Purpose.REPAIR and task.label is not None]
        return labelled, [index for index, key in enumerate(pool.keys) if key not in asked]


def training_set(handover: HandOver) -> TrainingSet:
    """What the version was trained on, of all its worlds."""
    return TrainingSet(handover.reference.train_x, handover.reference.train_y)


def _tasks(plan: Plan, selection: Selection) -> list[NewTask]:
    tasks = [
        NewTask(*plan.pool[int(index)], purpose=Purpose.REPAIR, rank=rank, region=rank)
        for rank, index in enumerate(selection.exemplars)
    ]
    return tasks + [
        NewTask(request, row, purpose=Purpose.ACCEPTANCE, rank=rank)
        for rank, (request, row) in enumerate(plan.acceptance)
    ]
