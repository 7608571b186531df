"""What a finished repair leaves in its run: the verdict, pictures, the labels, the lineage, and the model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from fieldrepair_plugin.acceptance import Predictions, Verdict
from fieldrepair_plugin.artifacts import answer_captions, save_confusion, save_examples, save_labels
from fieldrepair_plugin.field_window import FieldLogWindow
from fieldrepair_plugin.label_evidence import LabelEvidence
from fieldrepair_plugin.lineage_record import LINEAGE_FILE, lineage_record
from fieldrepair_plugin.model_card import CARD_FILE, CardFacts, model_card
from fieldrepair_plugin.recipe import HybridSettings
from fieldrepair_plugin.repair_run import run_url
from fieldrepair_plugin.repair_task import RepairTask
from fieldrepair_plugin.repairable import Served
from fieldrepair_plugin.settings import WorkerSettings
from fieldrepair_plugin.training import RepairResult
from fieldrepair_service.case_book import CaseBook
from fieldrepair_service.input_text import in_one_line
from fieldrepair_service.inputs import ImageInput, InputSpec

_GRID_INPUTS = 16
_LONGEST_INPUT = 200
"""Characters of a table row or a text on the card."""


@dataclass(frozen=True)
class Finding:
    """A repair that was trained and judged."""

    task: RepairTask
    engine: HybridSettings
    window: FieldLogWindow
    result: RepairResult
    field: Predictions
    verdict: Verdict
    run_id: str

    def verdict_json(self) -> dict[str, object]:
        """The verdict with what it rests on, ready for JSON."""
        task = self.task
        return {
            **self.verdict.to_json(),
            "field_inputs": task.plan.field_inputs,
            "labels_for_repair": len(task.labels),
            "labels_for_acceptance": len(task.acceptance.y),
        }

    def answers(self) -> dict[str, object]:
        """What both models said about each input of the acceptance sample, so that people can see what changed."""
        return {
            "keys": [[request_id, row] for request_id, row in self.task.judged],
            "labels": self.field.labels.tolist(),
            "champion": self.field.champion.tolist(),
            "candidate": self.field.candidate.tolist(),
        }


def run_params(task: RepairTask, engine: HybridSettings, settings: WorkerSettings) -> dict[str, object]:
    """What the run says about the repair before it begins."""
    case = task.case
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


def save_report(folder: Path, finding: Finding, book: CaseBook) -> CardFacts:
    """Write everything into a folder.

    Args:
        folder: empty.
        finding: what was found.
        book: where labels, event and answers are.

    Returns:
        What the model card says.

    Raises:
        StoreError: the case book does not answer.
    """
    task, verdict = finding.task, finding.verdict
    names = task.handover.class_names
    _save_json(folder / "verdict.json", finding.verdict_json())
    _save_json(folder / "epochs.json", [asdict(record) for record in finding.result.epochs])
    for name, sample in (("field", verdict.field), ("reference", verdict.reference)):
        matrices = {f"{name}, before": sample.champion_confusion, f"{name}, after": sample.candidate_confusion}
        save_confusion(folder / f"confusion_{name}.png", matrices, names)
    examples, files = _save_changed(folder, finding)
    save_labels(folder / "labels.csv", book.tasks(task.case.id), names)
    task.plan.save(folder / "plan.json")
    task.selection.save(folder / "selection.npz")
    event, labels = book.event(task.case.event_id), LabelEvidence.of(book, task.case)
    _save_json(folder / LINEAGE_FILE, lineage_record(task.case, event, finding.window, labels, verdict))
    facts = CardFacts(
        case=task.case,
        event=event,
        window=finding.window,
        labels=labels,
        verdict=verdict,
        class_names=names,
        training=_training(finding),
        examples=examples,
        files=files,
        by_request=task.plan.by_request,
        run_id=finding.run_id,
        run_url=run_url(finding.run_id),
    )
    (folder / CARD_FILE).write_text(model_card(facts), encoding="utf-8")
    return facts


def _save_changed(folder: Path, finding: Finding) -> tuple[dict[str, tuple[int, list[str]]], list[str]]:
    """Acceptance inputs that were repaired, and those that were broken: in words, and as files."""
    field, task = finding.field, finding.task
    before, after = field.champion == field.labels, field.candidate == field.labels
    examples: dict[str, tuple[int, list[str]]] = {}
    files: list[str] = []
    for name, which in (("repaired", ~before & after), ("broken", before & ~after)):
        count = int(which.sum())
        chosen = np.flatnonzero(which)[:_GRID_INPUTS].astype(np.int64)
        names = task.handover.class_names
        captions = answer_captions(field.labels, field.champion, field.candidate, chosen, names)
        title = f"{name}: {count} of {len(field.labels)} acceptance inputs"
        path = save_examples(folder, name, task.acceptance.x[chosen], captions, task.handover.input, title)
        examples[name] = count, _with_words(captions, task.acceptance.x[chosen], task.handover.input)
        files.append(path.name)
    return examples, files


def _with_words(captions: list[str], inputs: Served, spec: InputSpec) -> list[str]:
    """Of table rows and texts, each caption with the input itself; pictures are in a file beside the card."""
    if isinstance(spec, ImageInput):
        return captions
    words = [in_one_line(spec, one) for one in inputs]
    return [
        f"{caption} ({line if len(line) <= _LONGEST_INPUT else line[:_LONGEST_INPUT] + '...'})"
        for caption, line in zip(captions, words, strict=True)
    ]


def _training(finding: Finding) -> Mapping[str, object]:
    task, result, engine = finding.task, finding.result, finding.engine
    return {
        "strategy": f"{task.selection.strategy}, recipe {engine.recipe}, --keep-reference {engine.keep_reference}",
        "field inputs without a label to learn from": len(task.plan.pool) - len(task.labels),
        "labels used": result.labels_used,
        "labels propagated to neighbours": result.propagated,
        "epochs": f"{len(result.epochs)}, kept number {result.kept_epoch}",
        "seed": task.plan.seed,
    }


def _save_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
