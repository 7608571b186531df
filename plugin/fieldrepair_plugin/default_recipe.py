"""Our recipe for HybridRepair: few labels on what the field consists of, and a slow teacher for all the rest.

Given a model M, its training data, a pool U of field inputs and a budget of B labels:

1. adapt       M's batch norms are measured on U, so that embeddings tell field inputs apart     -> batch_norm.py
2. cover       U in B clusters; a person labels the input nearest each centre                    -> coverage.py
3. statistics  M answers the labels under several: the field's, both worlds', the old one's. Mixed ones are taken
               unless others are clearly better                                                -> statistics_choice.py
4. the field   what it did to light and noise, how it is turned, how often its classes come: half of the replayed
               training inputs are shown as it would show them     -> field_look.py, field_pose.py, class_shares.py
               (3 and 4 together: field_findings.py)
5. train       each step on replayed training inputs, labelled field inputs, and unlabelled ones, these in strong
               views, towards what a teacher says of a weak view              -> default_training.py, views.py
6. teacher     the average of the weights over time, halfway back to M's                         -> teacher.py
7. keep        the average, on the way back to M's weights; the batch norms measured on the worlds that are to be
               kept. How far, and which: what the user chose by ``keep_reference``                    -> kept_worlds.py

Steps 1 and 2 (:func:`select_default`) and 3-7 (:func:`train_default`) are two calls: people answer hours later.
Models without batch norm are repaired alike, without what concerns batch norm. Every number is in default_settings.py,
and docs/benchmarks.md has the ablation.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from fieldrepair_plugin.batch_norm import measure_statistics
from fieldrepair_plugin.checkpoint import Checkpoint, fingerprint_of
from fieldrepair_plugin.coverage import cover
from fieldrepair_plugin.default_settings import DefaultSettings
from fieldrepair_plugin.default_training import DefaultTraining
from fieldrepair_plugin.errors import TrainingError
from fieldrepair_plugin.exemplars import NONE_OF_THESE, Selection, check_budget, outside_classes, propagate
from fieldrepair_plugin.field_findings import FieldFindings
from fieldrepair_plugin.kept_worlds import keep_worlds
from fieldrepair_plugin.passes import RepairData
from fieldrepair_plugin.progress import Progress, ProgressEvent, silent
from fieldrepair_plugin.randomness import derive_seed, generator_for
from fieldrepair_plugin.recipe import HybridSettings
from fieldrepair_plugin.repairable import RepairableModel, Served, TrainingSet
from fieldrepair_plugin.training import RepairResult
from fieldrepair_plugin.unsmoothness import normalised_entropy
from fieldrepair_service.errors import InputError

log = logging.getLogger(__name__)

DEFAULTS = DefaultSettings()


def select_default(
    model: RepairableModel,
    reference: TrainingSet,
    pool: Served,
    budget: int,
    settings: HybridSettings,
    progress: Progress | None = None,
    known: Mapping[int, int] | None = None,
    own: DefaultSettings = DEFAULTS,
) -> Selection:
    """Steps 1 and 2: choose the field inputs to ask a person about. Reads no field label but the known ones.

    Args:
        model: the model under repair; it is not changed.
        reference: the model's training data.
        pool: ``(n, *shape)`` field inputs in served form; the acceptance sample must not be among them.
        budget: labels to ask for, 1..n less the known.
        settings: seed and inference batch size.
        progress: told of each step.
        known: pool index -> class of labels that exist already; nobody is asked about these.
        own: this recipe's numbers.

    Returns:
        Exactly ``budget`` exemplars, each speaking for itself only, the one of the largest cluster first. Unsmoothness
        is here the normalised entropy of the adapted model's answer.

    Raises:
        InputError: for a budget the pool cannot spend, or data the model cannot take.
    """
    tell, known = progress or silent, known or {}
    with_label = np.array(sorted(known), dtype=np.int64)
    check_budget(budget, len(pool) - len(with_label))
    model = model.working_copy()
    field = model.pixels(pool, "field pool")
    training = model.pixels(reference.x, "training data")

    # 1. Adapt: under the training world's statistics all inputs of a darker field look alike.
    if own.adapt_before_selection:
        layers = measure_statistics(model, field, training, 0.0, 256, generator_for(settings.seed, "adapt"))
        tell(ProgressEvent("batch norm", 1, 1, {"layers": float(layers)}))
    logits, embeddings = model.logits_and_embeddings(
        field, settings.inference_batch_size, lambda done, total: tell(ProgressEvent("scores", done, total))
    )
    if not np.isfinite(logits).all():
        raise InputError("field pool: expected finite answers of the model, got NaN or infinity")

    # 2. Cover: with few labels, what is typical of a part of the field teaches more than what is uncertain.
    open_ = np.setdiff1d(np.arange(len(pool), dtype=np.int64), with_label)
    random = np.random.default_rng(derive_seed(settings.seed, "cover"))
    exemplars = cover(embeddings, open_, budget, own, random)
    unsure = np.asarray(normalised_entropy(torch.from_numpy(logits).double().softmax(dim=1)), dtype=np.float64)
    tell(ProgressEvent("exemplars", 1, 1, {"exemplars": float(budget), "covered": float(budget)}))
    regions = [exemplars[at : at + 1] for at in range(budget)]
    return Selection(exemplars, regions, unsure, 1.0, known=with_label, recipe="default")


def train_default(
    model: RepairableModel,
    reference: TrainingSet,
    pool: Served,
    selection: Selection,
    labels: Mapping[int, int],
    settings: HybridSettings,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
    own: DefaultSettings = DEFAULTS,
) -> RepairResult:
    """Steps 3-7: repair a copy of the model.

    Args:
        model: the model under repair; it is not changed.
        reference: the model's training data.
        pool: the pool that was selected from.
        selection: what was asked. Its regions are followed, whoever chose them.
        labels: pool index of an exemplar or a known input -> class, or ``NONE_OF_THESE``.
        settings: ``keep_reference``, ``epochs``, ``momentum``, ``weight_decay``, ``seed``; other numbers are ``own``.
        progress: told of each step and epoch.
        checkpoint: file written after each epoch; an existing one of the very same repair is continued from, exactly.
        own: this recipe's numbers.

    Returns:
        The repaired copy in eval mode; the last epoch is always the one kept. An epoch's ``total_unsmoothness`` is the
        teacher's normalised entropy on one weak view, scaled to the pool; ``selected_unlabelled`` counts views.

    Raises:
        InputError: for no labels, labels of other inputs or unknown classes, or data the model cannot take.
        TrainingError: if there is nothing to train, or training diverges.
    """
    if not any(parameter.requires_grad for parameter in model.module.parameters()):
        raise TrainingError("the model has nothing to train: no parameter requires a gradient")
    if len(selection.unsmoothness) != len(pool):
        raise InputError(
            f"the selection is of a pool of {len(selection.unsmoothness)} inputs, this one has {len(pool)}"
        )
    tell = progress or silent
    model = model.working_copy()
    data = RepairData.gather(model, reference, pool, *propagate(selection, labels))
    answered_outside, outside = outside_classes(selection, labels)
    answered = sorted(index for index, label in labels.items() if label != NONE_OF_THESE)
    findings = FieldFindings.of(model, data, torch.tensor(answered), settings, own)
    training = DefaultTraining(model, data, torch.from_numpy(outside), findings, settings, own)
    identity = (settings, own, training.precision.bfloat16)
    fingerprint = fingerprint_of(identity, labels, selection, data.images, data.classes, model.module.state_dict())
    if checkpoint is not None and (saved := Checkpoint.load(checkpoint, fingerprint)) is not None:
        training.restore(saved)
        log.info("continuing the repair after epoch %d of %d", len(training.records), settings.epochs)
    for epoch in range(len(training.records) + 1, settings.epochs + 1):
        record = training.epoch(epoch, tell)
        if checkpoint is not None:
            training.snapshot(fingerprint).save(checkpoint)
        metrics = {name: float(value) for name, value in vars(record).items()}
        tell(ProgressEvent("training", epoch, settings.epochs, metrics))
    keep_worlds(model, data, training.teacher, findings, settings, own)
    known = sum(int(index) in labels for index in selection.known)
    classed = sum(label != NONE_OF_THESE for label in labels.values())
    return RepairResult(
        model.module.to(memory_format=torch.contiguous_format).eval(),
        training.records,
        kept_epoch=settings.epochs,
        labels_used=len(labels) - known,
        propagated=len(data.labelled) - classed,
        labels_known=known,
        outside=tuple(int(index) for index in answered_outside),
        strategy=selection.strategy,
        recipe="default",
    )
