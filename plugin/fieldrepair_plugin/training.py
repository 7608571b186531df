"""Steps 5-7: fine-tune a copy of the model, choose anew each epoch what to learn from, keep the smoothest epoch."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from fieldrepair_plugin.checkpoint import Checkpoint, fingerprint_of
from fieldrepair_plugin.errors import TrainingError
from fieldrepair_plugin.exemplars import NONE_OF_THESE, Selection, outside_classes
from fieldrepair_plugin.passes import Heard, Passes, RepairData
from fieldrepair_plugin.pool_copies import MOST_KEPT, PoolCopies
from fieldrepair_plugin.precision import Precision
from fieldrepair_plugin.progress import Progress, ProgressEvent
from fieldrepair_plugin.randomness import derive_seed, generator_for, own_global_state
from fieldrepair_plugin.recipe import HybridSettings
from fieldrepair_plugin.repairable import IntArray, RepairableModel, Served, TrainingSet, weights_of
from fieldrepair_plugin.unsmoothness import unsmoothness

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch did. Losses are means over the pass's steps."""

    epoch: int
    """From 1."""
    supervised_loss: float
    ssl_loss: float
    """Cross-entropy plus the weighted squared error."""
    total_unsmoothness: float
    """Sum over the pool, after the epoch; the smallest decides which epoch is kept."""
    selected_unlabelled: int
    """Inputs without a label, own or propagated, that were smooth enough to take part."""
    replayed: int
    """Training inputs the model got right at the epoch's start."""
    seconds: float = field(compare=False)


@dataclass(frozen=True)
class RoundRecord:
    """What one round of questions brought."""

    round: int
    """From 1."""
    asked: int
    """Questions of this round."""
    agreement: float | None
    """Cohen's kappa of the models before and after this round on the pool; none where there was no model before."""


@dataclass(frozen=True)
class RepairResult:
    """A repaired model and how it came about."""

    module: nn.Module
    """The trained copy, in eval mode, on the given module's device."""
    epochs: list[EpochRecord]
    kept_epoch: int
    """The epoch whose weights ``module`` has, from 1."""
    labels_used: int
    """Questions that people answered for this repair, with a class or with "none of these"."""
    propagated: int
    """Inputs that got their label from their region's exemplar."""
    labels_known: int = 0
    """Labels that existed before, and were used too."""
    labels_left: int = 0
    """Labels of the budget that were not asked for, because more would not have helped."""
    outside: tuple[int, ...] = ()
    """Pool indices that people answered with "none of these": the field has a class there that the model lacks."""
    rounds: tuple[RoundRecord, ...] = ()
    """One per round of questions, where there were several."""
    strategy: str = "hybridrepair"
    """Who chose and trained."""
    recipe: str = "paper"
    """By which recipe."""


def fine_tune(
    model: RepairableModel,
    reference: TrainingSet,
    pool: Served,
    selection: Selection,
    labels: Mapping[int, int],
    labelled: tuple[IntArray, IntArray],
    settings: HybridSettings,
    tell: Progress,
    checkpoint: Path | None,
) -> RepairResult:
    """Train a copy of the model.

    Args:
        model: the model under repair; it is not changed.
        reference: its training data.
        pool: ``(n, *shape)`` field inputs.
        selection: unsmoothness before repair, and tau.
        labels: what people answered.
        labelled: pool indices and classes of the answers and of what was propagated from them.
        settings: the paper's numbers and the seed.
        tell: told of each pass and epoch.
        checkpoint: written after each epoch, continued from if it is of this very repair.

    Raises:
        InputError: for a class the model does not have, or data it cannot take.
        TrainingError: if there is nothing to train, or training diverges.
    """
    if not any(parameter.requires_grad for parameter in model.module.parameters()):
        raise TrainingError("the model has nothing to train: no parameter requires a gradient")
    model = model.working_copy()
    data = RepairData.gather(model, reference, pool, *labelled)
    copies = PoolCopies(model, data.field, settings, most_kept=MOST_KEPT)
    state = _State(model.module, settings, torch.from_numpy(selection.unsmoothness))
    answered_outside, outside = outside_classes(selection, labels)
    precision = Precision.of(model, settings.bfloat16)
    identity = (settings, precision.bfloat16)
    fingerprint = fingerprint_of(identity, labels, selection, data.images, data.classes, model.module.state_dict())
    if checkpoint is not None and (saved := Checkpoint.load(checkpoint, fingerprint)) is not None:
        state.restore(saved)
        log.info("continuing the repair after epoch %d of %d", len(state.records), settings.epochs)

    for epoch in range(len(state.records) + 1, settings.epochs + 1):
        record = _one_epoch(
            model, data, copies, state, selection.tau, torch.from_numpy(outside), settings, precision, epoch, tell
        )
        state.finish(record)
        if checkpoint is not None:
            state.snapshot(fingerprint).save(checkpoint)
        tell(ProgressEvent("training", epoch, settings.epochs, _metrics(record)))

    model.module.load_state_dict(state.best)
    model.module.zero_grad(set_to_none=True)
    module = model.module.to(memory_format=torch.contiguous_format).eval()
    known = sum(int(index) in labels for index in selection.known)
    classed = sum(label != NONE_OF_THESE for label in labels.values())
    return RepairResult(
        module,
        state.records,
        state.kept_epoch,
        labels_used=len(labels) - known,
        propagated=len(data.labelled) - classed,
        labels_known=known,
        outside=tuple(int(index) for index in answered_outside),
        strategy=selection.strategy,
        recipe=selection.recipe,
    )


class _State:
    """Everything that changes from epoch to epoch; it can leave for a checkpoint and come back."""

    def __init__(self, module: nn.Module, settings: HybridSettings, unsmooth: Tensor) -> None:
        self.module = module
        self.settings = settings
        self.optimizer = torch.optim.SGD(
            [parameter for parameter in module.parameters() if parameter.requires_grad],
            lr=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
        self.unsmooth = unsmooth
        self.records: list[EpochRecord] = []
        self.best: dict[str, Tensor] = {}
        self.kept_epoch = 0

    def finish(self, record: EpochRecord) -> None:
        """Step 7: keep the weights of the epoch that is smoothest on the pool, of equals the first; or of the last."""
        self.records.append(record)
        smoothest = (
            self.kept_epoch == 0 or record.total_unsmoothness < self.records[self.kept_epoch - 1].total_unsmoothness
        )
        if smoothest or self.settings.kept == "last":
            self.kept_epoch = record.epoch
            self.best = weights_of(self.module)

    def snapshot(self, fingerprint: str) -> Checkpoint:
        return Checkpoint(
            fingerprint,
            self.module.state_dict(),
            self.optimizer.state_dict(),
            self.unsmooth,
            [vars(record) for record in self.records],
            self.best,
            self.kept_epoch,
        )

    def restore(self, saved: Checkpoint) -> None:
        self.module.load_state_dict(saved.module)
        self.optimizer.load_state_dict(saved.optimizer)
        self.unsmooth = saved.unsmooth
        self.records = [EpochRecord(**record) for record in saved.records]
        self.best = saved.best
        self.kept_epoch = saved.kept_epoch


def _one_epoch(
    model: RepairableModel,
    data: RepairData,
    copies: PoolCopies,
    state: _State,
    tau: float,
    outside: Tensor,
    settings: HybridSettings,
    precision: Precision,
    epoch: int,
    tell: Progress,
) -> EpochRecord:
    started = time.monotonic()

    def within(stage: str) -> Heard:
        return lambda done, total: tell(ProgressEvent(stage, done, total, {"epoch": float(epoch)}))

    with own_global_state(derive_seed(settings.seed, "dropout", epoch), model.device):
        generator = generator_for(settings.seed, "epoch", epoch)
        passes = Passes(model, data, state.optimizer, settings, generator, precision)
        replay = passes.answered_right(within("replay"))
        if len(replay) + len(data.labelled) == 0:
            raise TrainingError("nothing to train on: no label, and the model gets no training input right")
        smooth = state.unsmooth if settings.unlabelled == "smooth" else torch.zeros_like(state.unsmooth)
        weights, selected = selection_weights(smooth, tau, data.labelled - data.first, outside)
        model.module.train()
        supervised = passes.supervised(replay, within("supervised"))
        consistency = 0.0
        if settings.consistency and bool(weights.any()):
            consistency = passes.consistency(replay, weights, within("consistency"))
        else:
            selected = 0
        model.module.eval()
        # The copies are those of step 1 in every epoch, so that totals differ by the model only.
        after = unsmoothness(model, copies, within("unsmoothness"), precision)
        state.unsmooth = torch.from_numpy(after)
    for name, value in (("loss", supervised + consistency), ("unsmoothness", float(after.sum()))):
        if not math.isfinite(value):
            raise TrainingError(f"training diverged: {name} {value} in epoch {epoch}; try a smaller learning rate")
    return EpochRecord(
        epoch, supervised, consistency, float(after.sum()), selected, len(replay), time.monotonic() - started
    )


def selection_weights(
    unsmooth: Tensor, tau: float, labelled: Tensor, outside: Tensor | None = None
) -> tuple[Tensor, int]:
    """Step 5: the model's own answers are learned from where it is smooth; what a person said always is.

    Args:
        unsmooth: ``(n,)`` of the pool, by the model as it is now.
        tau: unsmoothness up to which an unlabelled input takes part.
        labelled: pool indices of the labelled and propagated inputs.
        outside: pool indices that take no part: of a class that the model lacks, every answer of its is wrong.

    Returns:
        ``(n,)`` weights to draw inputs with, and how many unlabelled inputs take part.
    """
    weights = torch.where(unsmooth <= tau, 1.0 - unsmooth, 0.0)
    weights[labelled] = 0.0
    if outside is not None:
        weights[outside] = 0.0
    selected = int((weights > 0).sum())
    weights[labelled] = 1.0
    return weights, selected


def _metrics(record: EpochRecord) -> dict[str, float]:
    return {name: float(value) for name, value in vars(record).items()}
