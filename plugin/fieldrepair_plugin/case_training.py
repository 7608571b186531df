"""Works a case whose labels are in: train, judge, and register the candidate or say why there is none."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from torch import nn

from fieldrepair_monitoring.handover import HandOver, ServedModel, load_handover, load_module
from fieldrepair_plugin.acceptance import Predictions, Verdict, judge
from fieldrepair_plugin.artifacts import answer_captions, save_confusion, save_examples, save_labels
from fieldrepair_plugin.case_files import CaseFiles, Plan
from fieldrepair_plugin.case_planning import repair_settings, training_set
from fieldrepair_plugin.case_progress import CaseProgress
from fieldrepair_plugin.exemplars import Selection
from fieldrepair_plugin.field_pool import Key, read_inputs
from fieldrepair_plugin.recipe import HybridSettings
from fieldrepair_plugin.registration import Candidate, Labelled, find_registered, register_candidate, set_candidate
from fieldrepair_plugin.repair_run import RepairRun, fetch_plan, repair_run
from fieldrepair_plugin.repairable import IntArray, RepairableModel, Served
from fieldrepair_plugin.settings import WorkerSettings
from fieldrepair_plugin.strategies import strategy_named
from fieldrepair_plugin.training import RepairResult
from fieldrepair_service.case_book import Case, CaseBook, CaseState, Purpose
from fieldrepair_service.errors import InputError
from fieldrepair_service.field_log import FieldLog

logger = logging.getLogger(__name__)

_GRID_INPUTS = 16


@dataclass(frozen=True)
class _Task:
    """Everything the repair of one case starts from."""

    case: Case
    handover: HandOver
    champion: nn.Module
    plan: Plan
    selection: Selection
    pool: Served
    """The adaptation pool, and after it what people labelled for repair in earlier attempts."""
    labels: dict[int, int]
    """Pool index -> class."""
    acceptance: Labelled
    judged: list[Key]
    """(request_id, row) of the acceptance sample, in its order."""

    @property
    def repair(self) -> Labelled:
        """What people labelled for the repair."""
        indices = np.asarray(sorted(self.labels), dtype=np.int64)
        return Labelled(self.pool[indices], np.asarray([self.labels[int(at)] for at in indices], dtype=np.int64))


class Trainer:
    """Takes a case from ``training`` to ``accepted`` or ``rejected``.

    Args:
        book: the case book.
        log: the field log.
        settings: the worker's.
    """

    def __init__(self, book: CaseBook, log: FieldLog, settings: WorkerSettings) -> None:
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
        engine = replace(repair_settings(self._settings, task.plan.seed), recipe=task.selection.recipe)
        with repair_run(self._book, case, self._params(task, engine)) as run:
            run.log_field_data(
                task.pool,
                task.repair,
                field_log_uri=self._settings.field_log_uri,
                start=case.cursor_start,
                end=case.pool_cursor or {},
            )
            repairable = RepairableModel(
                task.champion, task.handover.input, task.handover.embedding_layer, task.handover.output
            )
            with progress.also(run.log_epoch):
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
            repaired = result.module
            field, reference = self._predict(task, repaired)
            verdict = judge(
                field,
                reference,
                task.handover.class_names,
                margin=self._settings.margin,
                alpha=self._settings.alpha,
            )
            self._book.update_case(
                case.id, acceptance={**_verdict_json(verdict, task), "answers": _answers(field, task)}
            )
            run.log_verdict(verdict, result)
            run.log_files(self._report(task, field, verdict, result))
            return self._decide(task, repaired, verdict, run)

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

    def _load(self, case: Case) -> _Task:
        name, version = case.model_name, case.model_version
        handover = load_handover(name, version, self._settings.handover_cache)
        champion = load_module(name, version).to(self._settings.repair_device)
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
        return _Task(
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

    def _predict(self, task: _Task, repaired: nn.Module) -> tuple[Predictions, Predictions]:
        """Both models on the acceptance sample, and on the validation inputs of every world the champion knows."""
        reference = task.handover.reference
        device = self._settings.repair_device
        before = ServedModel(task.champion, task.handover, device=device)
        after = ServedModel(repaired, task.handover, device=device)

        def answers(x: Served, y: IntArray) -> Predictions:
            return Predictions(_classes(before, x), _classes(after, x), y)

        return answers(task.acceptance.x, task.acceptance.y), answers(reference.val_x, reference.val_y)

    def _decide(self, task: _Task, repaired: nn.Module, verdict: Verdict, run: RepairRun) -> Case:
        case = task.case
        if not verdict.accepted:
            return self._book.transition(
                case.id, CaseState.REJECTED, "no repair found: " + "; ".join(verdict.reasons), actor="worker"
            )
        candidate = Candidate(
            module=repaired,
            parent=task.handover,
            case=case,
            event=self._book.event(case.event_id),
            repair=task.repair,
            acceptance=task.acceptance,
            pool=task.pool,
            verdict=verdict,
            budget=case.budget or 0,
            seed=task.plan.seed,
        )
        logger.info("case %d: accepted (run %s)", case.id, run.run_id)
        return self._accept(case, register_candidate(candidate))

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

    def _params(self, task: _Task, engine: HybridSettings) -> dict[str, object]:
        settings, case = self._settings, task.case
        return {
            "model_name": case.model_name,
            "model_version": case.model_version,
            "case": case.id,
            "event": case.event_id,
            "attempt": case.attempt,
            "budget": case.budget,
            "field_inputs": task.plan.field_inputs,
            "pool": len(task.plan.pool),
            "acceptance_size": case.acceptance_size,
            "split_by_request": task.plan.by_request,
            "label_fraction": settings.label_fraction,
            "strategy": task.selection.strategy,
            "margin": settings.margin,
            "alpha": settings.alpha,
            **asdict(engine),
        }

    def _report(self, task: _Task, field: Predictions, verdict: Verdict, result: RepairResult) -> Path:
        """The files that go into the run, in a folder."""
        files = CaseFiles.of(self._settings.cases_dir, task.case)
        folder, names, spec = files.report, task.handover.class_names, task.handover.input
        verdict_file = json.dumps(_verdict_json(verdict, task), indent=2)
        (folder / "verdict.json").write_text(verdict_file + "\n", encoding="utf-8")
        epochs = [asdict(record) for record in result.epochs]
        (folder / "epochs.json").write_text(json.dumps(epochs, indent=2) + "\n", encoding="utf-8")
        for name, sample in (("field", verdict.field), ("reference", verdict.reference)):
            matrices = {f"{name}, before": sample.champion_confusion, f"{name}, after": sample.candidate_confusion}
            save_confusion(folder / f"confusion_{name}.png", matrices, names)
        before, after = field.champion == field.labels, field.candidate == field.labels
        for name, which in (("repaired", ~before & after), ("broken", before & ~after)):
            chosen = np.flatnonzero(which)[:_GRID_INPUTS].astype(np.int64)
            captions = answer_captions(field.labels, field.champion, field.candidate, chosen, names)
            title = f"{name}: {int(which.sum())} of {len(field.labels)} acceptance inputs"
            save_examples(folder, name, task.acceptance.x[chosen], captions, spec, title)
        save_labels(folder / "labels.csv", self._book.tasks(task.case.id), names)
        task.plan.save(folder / "plan.json")
        task.selection.save(folder / "selection.npz")
        return folder


def with_earlier(selection: Selection, pool: int, earlier: int) -> Selection:
    """The selection with ``earlier`` more inputs after the pool, which people labelled in an earlier attempt.

    They are known, and each speaks for itself only. Their unsmoothness is the highest there is: they learn from their
    label, never from the model's own answer.
    """
    added = np.arange(pool, pool + earlier, dtype=np.int64)
    return replace(
        selection,
        known=np.concatenate([selection.known, added]),
        known_regions=[
            *(selection.known_regions or [selection.known[at : at + 1] for at in range(len(selection.known))]),
            *(added[at : at + 1] for at in range(earlier)),
        ],
        unsmoothness=np.concatenate([selection.unsmoothness, np.ones(earlier)]),
    )


def _classes(model: ServedModel, x: Served) -> IntArray:
    return model.scores(x).argmax(axis=1).astype(np.int64)


def _answers(field: Predictions, task: _Task) -> dict[str, object]:
    """What both models said about each input of the acceptance sample, so that people can see what changed."""
    return {
        "keys": [[request_id, row] for request_id, row in task.judged],
        "labels": field.labels.tolist(),
        "champion": field.champion.tolist(),
        "candidate": field.candidate.tolist(),
    }


def _verdict_json(verdict: Verdict, task: _Task) -> dict[str, object]:
    return {
        **verdict.to_json(),
        "field_inputs": task.plan.field_inputs,
        "labels_for_repair": len(task.labels),
        "labels_for_acceptance": len(task.acceptance.y),
    }
