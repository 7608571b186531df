"""Our recipe for HybridRepair: few labels on what the field consists of, and a slow teacher for all the rest.

Given a model M, its training data, a pool U of field inputs and a budget of B labels:

1. adapt       M's batch norms are measured on U, so that embeddings tell field inputs apart     -> batch_norm.py
2. cover       U in B clusters; a person labels the input nearest each centre                    -> coverage.py
3. statistics  M answers the labels under several: the field's, both worlds', the old one's. Mixed ones are taken
               unless others are clearly better                                                -> statistics_choice.py
4. train       each step on replayed training inputs, labelled field inputs, and unlabelled ones, these in strong
               views, towards what a teacher says of a weak view                                 -> views.py
5. teacher     the average of the weights over time, halfway back to M's                         -> teacher.py
6. keep        the average, on the way back to M's weights; the batch norms measured on the worlds that are to be
               kept. How far, and which: what the user chose by ``keep_reference``               -> default_settings.py

Steps 1 and 2 (:func:`select_default`) and 3-6 (:func:`train_default`) are two calls: people answer hours later.
Models without batch norm are repaired alike, without what concerns batch norm. docs/benchmarks.md has the ablation.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fieldrepair_plugin.batch_norm import measure_statistics, norm_layers
from fieldrepair_plugin.checkpoint import Checkpoint, fingerprint_of
from fieldrepair_plugin.coverage import cover
from fieldrepair_plugin.default_settings import DefaultSettings
from fieldrepair_plugin.errors import TrainingError
from fieldrepair_plugin.exemplars import NONE_OF_THESE, Selection, check_budget, outside_classes, propagate
from fieldrepair_plugin.passes import RepairData
from fieldrepair_plugin.precision import Precision
from fieldrepair_plugin.progress import Progress, ProgressEvent, silent
from fieldrepair_plugin.randomness import derive_seed, generator_for, own_global_state
from fieldrepair_plugin.recipe import HybridSettings
from fieldrepair_plugin.repairable import RepairableModel, Served, TrainingSet, blocks
from fieldrepair_plugin.statistics_choice import StatisticsChoice, answered_right
from fieldrepair_plugin.teacher import Teacher, between
from fieldrepair_plugin.training import EpochRecord, RepairResult
from fieldrepair_plugin.unsmoothness import normalised_entropy
from fieldrepair_plugin.views import Views
from fieldrepair_service.errors import InputError

log = logging.getLogger(__name__)

DEFAULTS = DefaultSettings()
_MIXED = 0.5
"""Share of the reference in mixed statistics: what is taken where labels do not say better."""
_CHECKED = 4000
"""Training inputs that tell how much of the reference was lost."""
_ONE_SIDED = 1.645
"""Standard errors of a one-sided 95 % bound."""


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
    """Steps 3-6: repair a copy of the model.

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
    training = _Training(model, data, torch.tensor(answered), torch.from_numpy(outside), settings, own)
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
    training.finish()
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


class _Training:
    """Steps 3-6, and what changes from epoch to epoch; it can leave for a checkpoint and come back."""

    def __init__(
        self,
        model: RepairableModel,
        data: RepairData,
        answered: Tensor,
        outside: Tensor,
        settings: HybridSettings,
        own: DefaultSettings,
    ) -> None:
        self.model, self.data, self.settings, self.own = model, data, settings, own
        normed = len(norm_layers(model.module)) > 0
        self.keeping, self.field_reads_better_mixed = own.keeping(settings.keep_reference), False
        self.training, self.field = data.images[: data.first], data.field
        self.choice: StatisticsChoice | None = None
        if normed and own.labels_choose_statistics:
            self._choose_statistics(answered + data.first)
        self.views = Views.of(model, self.training, data.classes[: data.first], settings)
        unlabelled = data.classes[data.first :] < 0
        unlabelled[outside] = False  # of a class that the model lacks, every answer of its is wrong
        self.unlabelled = torch.nonzero(unlabelled).flatten() + data.first
        batch = own.unlabelled_batch if len(self.unlabelled) > 0 else 0
        self.unlabelled_batch = max(2, batch) if batch else 0
        passes = math.ceil(len(self.unlabelled) / max(1, self.unlabelled_batch))
        self.steps = min(max(passes, own.steps_least), own.steps_most)
        self.champion = {name: value.detach().clone() for name, value in model.module.state_dict().items()}
        self.teacher = Teacher(model, model.module, own.average, own.teacher_weight)
        self.precision = Precision.of(model, own.bfloat16)
        self.learning_rate = own.learning_rate if normed else own.learning_rate_without_batch_norm
        self.optimizer = torch.optim.SGD(
            [parameter for parameter in model.module.parameters() if parameter.requires_grad],
            lr=self.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=settings.momentum > 0,
        )
        self.records: list[EpochRecord] = []
        self.right_before: Tensor | None = None

    def epoch(self, epoch: int, tell: Progress) -> EpochRecord:
        """Steps 4 and 5: one pass over the unlabelled inputs, with as much of the rest beside it."""
        started, own, steps, generator = (
            time.monotonic(),
            self.own,
            self.steps,
            generator_for(self.settings.seed, "default epoch", epoch),
        )
        queues = [
            list(blocks(_shuffled(items, steps * size, generator), size)) if size else [items[:0]] * steps
            for items, size in (
                (torch.arange(self.data.first), own.replay_batch),
                (self.data.labelled, own.labelled_batch),
                (self.unlabelled, self.unlabelled_batch),
            )
        ]
        supervised = consistency = counted = unsure = 0.0
        self.model.module.train()
        with own_global_state(derive_seed(self.settings.seed, "dropout", epoch), self.model.device):
            for step, (replayed, labelled, unlabelled) in enumerate(zip(*queues, strict=True)):
                self._set_learning_rate((epoch - 1) * steps + step)
                loss, lesson, count, entropy = self._step(replayed, labelled, unlabelled, generator)
                supervised, consistency = supervised + loss, consistency + lesson
                counted, unsure = counted + count, unsure + entropy
                tell(ProgressEvent("default training", step + 1, steps, {"epoch": float(epoch)}))
        self.model.module.eval()
        if not math.isfinite(supervised + consistency):
            raise TrainingError(f"training diverged in epoch {epoch}; try a smaller learning rate")
        record = EpochRecord(
            epoch,
            supervised / steps,
            consistency / steps,
            unsure / steps * len(self.field),
            round(counted),
            steps * own.replay_batch,
            time.monotonic() - started,
        )
        self.records.append(record)
        return record

    def _step(
        self, replayed: Tensor, labelled: Tensor, unlabelled: Tensor, generator: torch.Generator
    ) -> tuple[float, float, float, float]:
        """One step. Returns both losses, how many of the teacher's answers counted, and their mean entropy."""
        device, images, classes = self.model.device, self.data.images, self.data.classes
        known = torch.cat([replayed, labelled])
        reference = self._half_strong(images[replayed].to(device), generator)
        field = [self._half_strong(images[labelled].to(device), generator)]
        answers: Tensor | None = None
        if len(unlabelled):
            inputs = images[unlabelled].to(device)
            with self.precision.autocast():
                beside = reference if self.field_reads_better_mixed and len(reference) else None
                answers = self.teacher.answers(self.views.weak(inputs, generator), beside)
            field.append(self._strong(inputs, generator))
        with self.precision.autocast():
            # One batch norm for both worlds where both are to be served; else each is normalised by its own.
            if len(replayed) == 0:
                logits = self.model.logits(torch.cat(field))
            elif self.keeping.shared_statistics:
                logits = self.model.logits(torch.cat([reference, *field]))
            else:
                logits = torch.cat([self.model.logits(reference), self.model.logits(torch.cat(field))])
        told = classes[known].to(device)
        smoothing = self.own.label_smoothing
        loss = F.cross_entropy(logits[len(replayed) : len(known)], told[len(replayed) :], label_smoothing=smoothing)
        if len(replayed):
            loss = loss + F.cross_entropy(logits[: len(replayed)], told[: len(replayed)], label_smoothing=smoothing)
        total, lesson, counted, entropy = loss, loss.new_zeros(()), 0.0, 0.0
        if answers is not None:
            lesson, counted = self.teacher.lesson(logits[len(known) :], answers, self.own.targets)
            total, entropy = loss + lesson, float(normalised_entropy(answers).mean())
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        self.optimizer.step()
        self.teacher.follow(self.model.module)
        return float(loss.detach()), float(lesson.detach()), counted, entropy

    def finish(self) -> None:
        """Step 6: from the average back towards the old weights, and the statistics of the worlds that are kept."""
        module, keeping = self.model.module, self.keeping
        module.load_state_dict(between(self.champion, self.teacher.weights, keeping.weight))
        module.zero_grad(set_to_none=True)
        generator = generator_for(self.settings.seed, "statistics")
        share = keeping.reference_share
        measure_statistics(self.model, self.field, self.training, share, 256, generator)
        if self.choice is None or self.settings.keep_reference == "off":
            return
        for more in _more_reference(share):
            lost = self._reference_lost()
            if lost <= self.own.reference_margin:
                break
            if self.choice.objects(share, more, self.own.objection):
                log.info("up to %.1f %% of the training inputs lost; labels want the field's statistics", 100 * lost)
                break
            measure_statistics(self.model, self.field, self.training, more, 256, generator)

    def _choose_statistics(self, answered: Tensor) -> None:
        """Step 3."""
        share = self.keeping.reference_share
        self.choice = StatisticsChoice.of(
            self.model,
            self.field,
            self.training,
            (self.data.images[answered], self.data.classes[answered]),
            {0.0, _MIXED, 1.0, share, *_more_reference(share)},
            generator_for(self.settings.seed, "labels choose"),
        )
        best = self.choice.best(_MIXED, self.own.evidence)
        self.field_reads_better_mixed = best >= _MIXED
        if best >= _MIXED and (self.settings.keep_reference == "off" or best > share):
            self.keeping = replace(self.keeping, shared_statistics=True, reference_share=best)
        log.info("labels right by share of the reference in the statistics: %s; best %.2f", self.choice.shares, best)

    def _reference_lost(self) -> float:
        """Upper bound (one-sided, 95 %) of the accuracy lost on training inputs, of the model as it is."""
        some = torch.randperm(self.data.first, generator=generator_for(self.settings.seed, "reference"))[:_CHECKED]
        inputs, classes = self.data.images[some], self.data.classes[some]
        if self.right_before is None:
            after = {name: value.detach().clone() for name, value in self.model.module.state_dict().items()}
            self.model.module.load_state_dict(self.champion)
            self.right_before = answered_right(self.model, inputs, classes)
            self.model.module.load_state_dict(after)
        lost = self.right_before.float() - answered_right(self.model, inputs, classes).float()
        return float(lost.mean() + _ONE_SIDED * lost.std(correction=0) / math.sqrt(len(lost)))

    def snapshot(self, fingerprint: str) -> Checkpoint:
        """All that the next epoch starts from; randomness is drawn anew by each epoch."""
        return Checkpoint(
            fingerprint,
            self.model.module.state_dict(),
            self.optimizer.state_dict(),
            self.teacher.confidence,
            [vars(record) for record in self.records],
            self.teacher.weights,
            len(self.records),
        )

    def restore(self, saved: Checkpoint) -> None:
        """Go on from a snapshot."""
        self.model.module.load_state_dict(saved.module)
        self.optimizer.load_state_dict(saved.optimizer)
        self.records = [EpochRecord(**record) for record in saved.records]
        device = self.model.device
        self.teacher.weights = {name: value.to(device) for name, value in saved.best.items()}
        self.teacher.confidence = saved.unsmooth
        self.teacher.steps = len(self.records) * self.steps

    def _set_learning_rate(self, step: int) -> None:
        total = self.settings.epochs * self.steps
        warm = min(1.0, (step + 1) / max(1.0, 0.05 * total))
        cosine = 0.5 * (1 + math.cos(math.pi * step / total))
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * warm * (0.02 + 0.98 * cosine)

    def _half_strong(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        if len(inputs) == 0:
            return inputs
        half = len(inputs) // 2
        weak, strong = self.views.weak(inputs[:half], generator), self._strong(inputs[half:], generator)
        return torch.cat([weak, strong])

    def _strong(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        return (self.views.strong if self.own.strong_views else self.views.weak)(inputs, generator)


def _more_reference(share: float) -> tuple[float, ...]:
    """Shares on the way from one to the reference alone."""
    return tuple(share + step * (1 - share) for step in (0.5, 0.75, 1.0))


def _shuffled(items: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` of the items in random order; round after round where there are fewer."""
    rounds = math.ceil(count / len(items))
    return torch.cat([items[torch.randperm(len(items), generator=generator)] for _ in range(rounds)])[:count]
