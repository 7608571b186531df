"""Works a case whose labels are in: train, judge, and register the candidate or say why there is none."""

from __future__ import annotations

import logging
import shutil
from typing import cast

import numpy as np
from torch import nn

from fieldrepair_monitoring.handover import load_handover, load_module
from fieldrepair_monitoring.served_model import ServedModel
from fieldrepair_plugin.acceptance import Predictions, judge
from fieldrepair_plugin.case_files import CaseFiles, Plan
from fieldrepair_plugin.case_planning import repair_settings, training_set
from fieldrepair_plugin.case_progress import CaseProgress
from fieldrepair_plugin.case_report import Finding, run_params, save_report
from fieldrepair_plugin.exemplars import Selection
from fieldrepair_plugin.field_pool import Key, read_inputs
from fieldrepair_plugin.field_window import FieldLogWindow
from fieldrepair_plugin.model_card import DESCRIPTION_LIMIT, CardFacts, model_card
from fieldrepair_plugin.recipe import Recipe
from fieldrepair_plugin.registration import Candidate, Labelled, find_registered, register_candidate, set_candidate
from fieldrepair_plugin.repair_run import fetch_plan, repair_run
from fieldrepair_plugin.repair_task import RepairTask, with_earlier
from fieldrepair_plugin.repairable import IntArray, RepairableModel, Served, compute_device
from fieldrepair_plugin.settings import WorkerSettings
from fieldrepair_plugin.strategies import strategy_named
from fieldrepair_plugin.training_repair import SEARCH_REPORT
from fieldrepair_service.case_book import Case, CaseBook, CaseState, Purpose
from fieldrepair_service.errors import InputError
from fieldrepair_service.field_log import FieldLog
from fieldrepair_service.tracing import NO_TRACING, Tracing

logger = logging.getLogger(__name__)


class Trainer:
    """Takes a case from ``training`` to ``accepted`` or ``rejected``.

    Args:
        book: the case book.
        log: the field log.
        settings: the worker's.
        tracing: makes a span each for training, judging and registering.
    """

    def __init__(self, book: CaseBook, log: FieldLog, settings: WorkerSettings, tracing: Tracing = NO_TRACING) -> None:
        self._tracing = tracing
        self._book = book
        self._log = log
        self._settings = settings

    def work(self, case: Case, progress: CaseProgress) -> Case:
        """Train, judge, decide.

        Stopped anywhere, it can simply be called again: training goes on from its checkpoint, and a version that was
        registered before the case book knew is found and used.

        Args:
            case: in state training.
            progress: told of each step; what it raises ends the work.

        Returns:
            The case in its new state.

        Raises:
            ModelVersionMissingError: the version under repair was deleted.
            RegistryError, StoreError: MLflow or a store does not answer; call again.
            Exception: what training raises.
        """
        registered = find_registered(case)
        if registered is not None:
            return self._accept(case, registered)
        enough, why = self._enough_labels(case)
        if not enough:
            return self._book.transition(case.id, CaseState.REJECTED, why, actor="worker")
        task = self._load(case)
        # By the recipe that chose the questions, whatever the setting says now: people have answered these.
        engine = repair_settings(self._settings, task.plan.seed, cast(Recipe, task.selection.recipe))
        window = FieldLogWindow.of(
            self._log,
            self._settings.field_log_uri,
            case.model_name,
            case.model_version,
            case.cursor_start,
            case.pool_cursor or {},
        )
        with repair_run(self._book, case, run_params(task, engine, self._settings)) as run:
            run.log_field_data(task.pool, task.repair, window)
            repairable = RepairableModel(
                task.champion, task.handover.input, task.handover.embedding_layer, task.handover.output
            )
            with progress.also(run.log_epoch), self._tracing.span("train", run_id=run.run_id):
                result = strategy_named(task.selection.strategy).train(
                    repairable,
                    training_set(task.handover),
                    task.pool,
                    task.selection,
                    task.labels,
                    engine,
                    progress=progress,
                    checkpoint=CaseFiles.of(self._settings.cases_dir, case).checkpoint,
                )
            run.log_missing_epochs(result)
            with self._tracing.span("judge") as span:
                field, reference = self._predict(task, result.module)
                verdict = judge(
                    field,
                    reference,
                    task.handover.class_names,
                    margin=self._settings.margin,
                    alpha=self._settings.alpha,
                )
                span.set(accepted=verdict.accepted, reasons=verdict.reasons)
            finding = Finding(task, engine, window, result, field, verdict, run.run_id)
            self._book.update_case(case.id, acceptance={**finding.verdict_json(), "answers": finding.answers()})
            run.log_verdict(verdict, result)
            files = CaseFiles.of(self._settings.cases_dir, case)
            folder = files.report
            facts = save_report(folder, finding, self._book)
            if (search := files.checkpoint / SEARCH_REPORT).exists():
                shutil.copyfile(search, folder / SEARCH_REPORT)
            run.log_files(folder)
            return self._decide(finding, facts)

    def _enough_labels(self, case: Case) -> tuple[bool, str]:
        repair = case.budget == 0 or self._book.labels(case.id, Purpose.REPAIR)
        judged = self._book.labels(case.id, Purpose.ACCEPTANCE, attempt=case.attempt)
        least = self._settings.acceptance_minimum
        if not repair:
            return False, f"none of the {case.budget} inputs for the repair was labelled, all were skipped"
        if len(judged) < least:
            return False, (
                f"only {len(judged)} of {case.acceptance_size} acceptance inputs were labelled, the others were "
                f"skipped; need at least {least} to judge a repair"
            )
        return True, ""

    def _load(self, case: Case) -> RepairTask:
        name, version = case.model_name, case.model_version
        handover = load_handover(name, version, self._settings.handover_cache)
        champion = load_module(name, version).to(compute_device(self._settings.repair_device))
        files = CaseFiles.of(self._settings.cases_dir, case)
        fetch_plan(case, (files.plan, files.selection))
        plan, selection = Plan.load(files.plan), Selection.load(files.selection)
        places = {key: at for at, key in enumerate([*plan.pool, *plan.earlier])}
        labels: dict[int, int] = {}
        for request_id, row, label in self._book.labels(case.id, Purpose.REPAIR):
            place = places.get((request_id, row))
            if place is not None:
                labels[place] = label
        judged: list[tuple[Key, int]] = [
            ((request_id, row), label)
            for request_id, row, label in self._book.labels(case.id, Purpose.ACCEPTANCE, attempt=case.attempt)
        ]
        leaked = set(places) & {key for key, _ in judged}
        if leaked:
            raise InputError(f"{len(leaked)} acceptance inputs are also in the pool, for example {min(leaked)}")
        return RepairTask(
            case=case,
            handover=handover,
            champion=champion,
            plan=plan,
            selection=with_earlier(selection, len(plan.pool), len(plan.earlier)),
            pool=read_inputs(self._log, [*plan.pool, *plan.earlier], handover.input),
            labels=labels,
            acceptance=Labelled(
                read_inputs(self._log, [key for key, _ in judged], handover.input),
                np.asarray([label for _, label in judged], dtype=np.int64),
            ),
            judged=[key for key, _ in judged],
        )

    def _predict(self, task: RepairTask, repaired: nn.Module) -> tuple[Predictions, Predictions]:
        """Both models on the acceptance sample, and on the validation inputs of every world the champion knows."""
        reference = task.handover.reference
        device = compute_device(self._settings.repair_device)
        before = ServedModel(task.champion, task.handover, device=device)
        after = ServedModel(repaired, task.handover, device=device)

        def answers(x: Served, y: IntArray) -> Predictions:
            return Predictions(_classes(before, x), _classes(after, x), y)

        return answers(task.acceptance.x, task.acceptance.y), answers(reference.val_x, reference.val_y)

    def _decide(self, finding: Finding, facts: CardFacts) -> Case:
        task, verdict = finding.task, finding.verdict
        case = task.case
        if not verdict.accepted:
            return self._book.transition(
                case.id, CaseState.REJECTED, "no repair found: " + "; ".join(verdict.reasons), actor="worker"
            )
        candidate = Candidate(
            module=finding.result.module,
            parent=task.handover,
            case=case,
            event=facts.event,
            repair=task.repair,
            acceptance=task.acceptance,
            pool=task.pool,
            verdict=verdict,
            budget=case.budget or 0,
            seed=task.plan.seed,
            description=model_card(facts, limit=DESCRIPTION_LIMIT),
        )
        logger.info("case %d: accepted (run %s)", case.id, finding.run_id)
        with self._tracing.span("register") as span:
            version = register_candidate(candidate)
            span.set(candidate_version=version)
        return self._accept(case, version)

    def _accept(self, case: Case, version: str) -> Case:
        set_candidate(case.model_name, version)
        self._book.update_case(case.id, candidate_version=version)
        return self._book.transition(
            case.id,
            CaseState.ACCEPTED,
            f"version {version} is better in the field and no worse on the reference",
            actor="worker",
            note=f"waiting for approval: move alias champion of {case.model_name} to version {version}",
        )


def _classes(model: ServedModel, x: Served) -> IntArray:
    return model.scores(x).argmax(axis=1).astype(np.int64)
