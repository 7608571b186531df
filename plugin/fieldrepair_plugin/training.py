"""Steps 5-7: fine-tune a copy of the model, choose anew each epoch what to learn from, keep the smoothest epoch."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fieldrepair_plugin.augment import augmix_copies
from fieldrepair_plugin.checkpoint import Checkpoint, fingerprint_of
from fieldrepair_plugin.errors import TrainingError
from fieldrepair_plugin.exemplars import Selection
from fieldrepair_plugin.progress import Progress, ProgressEvent
from fieldrepair_plugin.randomness import derive_seed, generator_for, own_global_state
from fieldrepair_plugin.recipe import HybridSettings
from fieldrepair_plugin.repairable import IntArray, RepairableModel, Served, TrainingSet, blocks
from fieldrepair_plugin.unsmoothness import mean_prediction, unsmoothness, with_original
from fieldrepair_service.errors import InputError

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
class RepairResult:
    """A repaired model and how it came about."""

    module: nn.Module
    """The trained copy, in eval mode, on the given module's device."""
    epochs: list[EpochRecord]
    kept_epoch: int
    """The epoch whose weights ``module`` has, from 1."""
    labels_used: int
    """Labels a person gave."""
    propagated: int
    """Inputs that got their label from their region's exemplar."""


@dataclass
class _Data:
    """Training data and pool as one list of images: training inputs first, then the pool from ``first`` on."""

    images: Tensor
    """``(m + n, channels, height, width)`` uint8 on the CPU."""
    classes: Tensor
    """``(m + n,)``; -1 where no label is known."""
    first: int

    @property
    def field(self) -> Tensor:
        return self.images[self.first :]

    @property
    def labelled(self) -> Tensor:
        """Numbers of the labelled and propagated pool inputs, counted in ``images``."""
        return torch.nonzero(self.classes[self.first :] >= 0).flatten() + self.first


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
    data = _gather(model, reference, pool, labelled)
    _check_classes(model, data)
    state = _State(model.module, settings, torch.from_numpy(selection.unsmoothness))
    fingerprint = fingerprint_of(settings, labels, selection, data.images, data.classes, model.module.state_dict())
    if checkpoint is not None and (saved := Checkpoint.load(checkpoint, fingerprint)) is not None:
        state.restore(saved)
        log.info("continuing the repair after epoch %d of %d", len(state.records), settings.epochs)

    for epoch in range(len(state.records) + 1, settings.epochs + 1):
        record = _one_epoch(model, data, state, selection.tau, settings, epoch, tell)
        state.finish(record)
        if checkpoint is not None:
            state.snapshot(fingerprint).save(checkpoint)
        tell(ProgressEvent("training", epoch, settings.epochs, _metrics(record)))

    model.module.load_state_dict(state.best)
    model.module.zero_grad(set_to_none=True)
    module = model.module.to(memory_format=torch.contiguous_format).eval()
    return RepairResult(module, state.records, state.kept_epoch, len(labels), len(data.labelled) - len(labels))


class _State:
    """Everything that changes from epoch to epoch; it can leave for a checkpoint and come back."""

    def __init__(self, module: nn.Module, settings: HybridSettings, unsmooth: Tensor) -> None:
        self.module = module
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
        """Step 7: keep the weights of the epoch that is smoothest on the pool; of equals the first."""
        self.records.append(record)
        if self.kept_epoch == 0 or record.total_unsmoothness < self.records[self.kept_epoch - 1].total_unsmoothness:
            self.kept_epoch = record.epoch
            self.best = {name: value.detach().clone() for name, value in self.module.state_dict().items()}

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
    model: RepairableModel, data: _Data, state: _State, tau: float, settings: HybridSettings, epoch: int, tell: Progress
) -> EpochRecord:
    started = time.monotonic()
    generator = generator_for(settings.seed, "epoch", epoch)
    with own_global_state(derive_seed(settings.seed, "dropout", epoch), model.device):
        replay = _answered_right(model, data, settings, _within(tell, "replay", epoch))
        # Step 5: the model's own answers are learned from where it is smooth; what a person said always is.
        weights = torch.where(state.unsmooth <= tau, 1.0 - state.unsmooth, 0.0)
        weights[data.labelled - data.first] = 0.0
        selected = int((weights > 0).sum())
        weights[data.labelled - data.first] = 1.0
        model.module.train()
        supervised = _supervised_pass(
            model, data, state, replay, settings, generator, _within(tell, "supervised", epoch)
        )
        consistency = _consistency_pass(
            model, data, state, replay, weights, settings, generator, _within(tell, "consistency", epoch)
        )
        model.module.eval()
        # The copies are those of step 1 in every epoch, so that totals differ by the model only.
        again = generator_for(settings.seed, "unsmoothness")
        after = unsmoothness(model, data.field, settings, again, _within(tell, "unsmoothness", epoch))
        state.unsmooth = torch.from_numpy(after)
    for name, value in (("loss", supervised + consistency), ("unsmoothness", float(after.sum()))):
        if not math.isfinite(value):
            raise TrainingError(f"training diverged: {name} {value} in epoch {epoch}; try a smaller learning rate")
    return EpochRecord(
        epoch, supervised, consistency, float(after.sum()), selected, len(replay), time.monotonic() - started
    )


def _supervised_pass(
    model: RepairableModel,
    data: _Data,
    state: _State,
    replay: Tensor,
    settings: HybridSettings,
    generator: torch.Generator,
    heard: Callable[[int, int], None],
) -> float:
    """Step 6a: cross-entropy with label smoothing on replayed, labelled and propagated inputs."""
    items = torch.cat([replay, data.labelled])
    size = min(settings.batch_size, max(2, len(items)))
    # The last, smaller batch is dropped: batch norm cannot train on one input. Each epoch drops other inputs.
    batches = max(1, len(items) // size)
    total = 0.0
    for step, batch in enumerate(blocks(_shuffled(items, batches * size, generator), size), start=1):
        logits = model.logits(data.images[batch].to(model.device))
        targets = data.classes[batch].to(logits.device)
        loss = F.cross_entropy(logits, targets, label_smoothing=settings.label_smoothing)
        total += _descend(state.optimizer, loss)
        heard(step, batches)
    return total / batches


def _consistency_pass(
    model: RepairableModel,
    data: _Data,
    state: _State,
    replay: Tensor,
    weights: Tensor,
    settings: HybridSettings,
    generator: torch.Generator,
    heard: Callable[[int, int], None],
) -> float:
    """Step 6b, after MixMatch: sharpened mean guesses as targets, everything mixed with everything, two losses.

    As in the paper's code: each field input stands in the batch K+1 times, in all its views; labelled and propagated
    inputs are drawn too, with their (smoothed) label in place of the guess; the cross-entropy is on replayed training
    inputs. Unlike it: the targets of that cross-entropy are mixed like the inputs.
    """
    anchors = replay if len(replay) > 0 else data.labelled
    size, views = settings.batch_size, settings.copies + 1
    batches = max(1, len(anchors) // size, len(weights) // settings.unlabelled_batch_size)
    draws = torch.multinomial(weights, batches * settings.unlabelled_batch_size, replacement=True, generator=generator)
    anchor_batches = blocks(_shuffled(anchors, batches * size, generator), size)
    total = 0.0
    for step, (anchor, drawn) in enumerate(
        zip(anchor_batches, blocks(draws, settings.unlabelled_batch_size), strict=True), start=1
    ):
        batch = drawn + data.first
        pixels = data.images[batch].to(model.device)
        copies = augmix_copies(
            pixels, settings.copies, generator, severity=settings.severity, chain_share=settings.chain_share
        )
        all_views = with_original(pixels, copies)
        targets = _guess(model, all_views, data.classes[batch].to(pixels.device), settings)
        anchor_targets = F.one_hot(data.classes[anchor], targets.shape[1]).to(targets)
        inputs = torch.cat([data.images[anchor].to(model.device), all_views.flatten(0, 1)])
        mixed, mixed_targets = mix_up(
            inputs, torch.cat([anchor_targets, targets.repeat(views, 1)]), settings.mixup_alpha, generator
        )
        logits = model.logits(mixed)
        labelled_loss = F.cross_entropy(logits[:size], mixed_targets[:size])
        unlabelled_loss = F.mse_loss(logits[size:].softmax(dim=1), mixed_targets[size:])
        total += _descend(state.optimizer, labelled_loss + settings.unlabelled_weight * unlabelled_loss)
        heard(step, batches)
    return total / batches


def _guess(model: RepairableModel, views: Tensor, classes: Tensor, settings: HybridSettings) -> Tensor:
    """Targets ``(n, classes)`` of field inputs: their smoothed label if there is one, else the sharpened mean guess."""
    with torch.no_grad():  # in train mode, like the paper's code: batch norm sees the field and adapts to it
        guess = sharpen(mean_prediction(model, views), settings.temperature)
    known = classes >= 0
    count = guess.shape[1]
    smoothed = (
        F.one_hot(classes.clamp_min(0), count) * (1 - settings.label_smoothing) + settings.label_smoothing / count
    )
    return torch.where(known.unsqueeze(1), smoothed.to(guess), guess)


def sharpen(probabilities: Tensor, temperature: float) -> Tensor:
    """Rows raised to 1/T and scaled to sum to 1 again: closer to one class for T < 1. ``(n, classes)``."""
    powered = probabilities ** (1.0 / temperature)
    return powered / powered.sum(dim=1, keepdim=True)


def mix_up(inputs: Tensor, targets: Tensor, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Each input and its target mixed with another one's, by one weight for the batch.

    The weight is max(m, 1 - m) with m from Beta(alpha, alpha): at least half stays what it was, as MixMatch needs.

    Args:
        inputs: ``(n, ...)`` pixels.
        targets: ``(n, classes)``.
        alpha: the Beta distribution's parameter.
        generator: the source of randomness.

    Returns:
        ``(n, ...)`` in float32 and ``(n, classes)``.
    """
    # A Dirichlet of two parameters is a Beta; torch.distributions takes no generator, so a stream of its own is used.
    with own_global_state(int(torch.randint(2**63 - 1, (), generator=generator)), torch.device("cpu")):
        weight = float(torch.distributions.Beta(alpha, alpha).sample())
    weight = max(weight, 1.0 - weight)
    partner = torch.randperm(len(inputs), generator=generator).to(inputs.device)
    pixels = inputs.float()
    return torch.lerp(pixels[partner], pixels, weight), torch.lerp(targets[partner], targets, weight)


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> float:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def _answered_right(
    model: RepairableModel, data: _Data, settings: HybridSettings, heard: Callable[[int, int], None]
) -> Tensor:
    """Numbers of the training inputs the model gets right now: replaying these keeps what it knows."""
    logits, _ = model.logits_and_embeddings(data.images[: data.first], settings.inference_batch_size, heard)
    return torch.nonzero(torch.from_numpy(logits).argmax(dim=1) == data.classes[: data.first]).flatten()


def _shuffled(items: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` of the items in random order; round after round where there are fewer."""
    rounds = math.ceil(count / len(items))
    return torch.cat([items[torch.randperm(len(items), generator=generator)] for _ in range(rounds)])[:count]


def _gather(model: RepairableModel, reference: TrainingSet, pool: Served, labelled: tuple[IntArray, IntArray]) -> _Data:
    images = torch.cat([model.pixels(reference.x, "training data"), model.pixels(pool, "field pool")])
    classes = torch.full((len(images),), -1, dtype=torch.int64)
    first = len(reference.y)
    classes[:first] = torch.from_numpy(reference.y.astype("int64"))
    classes[torch.from_numpy(labelled[0]) + first] = torch.from_numpy(labelled[1])
    return _Data(images, classes, first)


def _check_classes(model: RepairableModel, data: _Data) -> None:
    logits, _ = model.logits_and_embeddings(data.images[:1], 1)
    for name, classes in (("training data", data.classes[: data.first]), ("labels", data.classes[data.first :])):
        if int(classes.max()) >= logits.shape[1]:
            raise InputError(f"{name}: the model has {logits.shape[1]} classes, got class number {int(classes.max())}")


def _within(tell: Progress, stage: str, epoch: int) -> Callable[[int, int], None]:
    return lambda done, total: tell(ProgressEvent(stage, done, total, {"epoch": float(epoch)}))


def _metrics(record: EpochRecord) -> dict[str, float]:
    return {name: float(value) for name, value in vars(record).items()}
