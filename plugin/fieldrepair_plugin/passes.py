"""Step 6: the two passes over the data that make an epoch, and which inputs each of them sees."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fieldrepair_plugin.mixmatch import field_targets, mix_up
from fieldrepair_plugin.precision import Precision
from fieldrepair_plugin.recipe import HybridSettings
from fieldrepair_plugin.repairable import IntArray, RepairableModel, Served, TrainingSet, blocks
from fieldrepair_plugin.unsmoothness import with_original
from fieldrepair_service.errors import InputError

Heard = Callable[[int, int], None]
"""Called with batches (or inputs) done and their total."""


@dataclass(frozen=True)
class RepairData:
    """Training data and pool as one list of inputs: training inputs first, then the pool from ``first`` on."""

    images: Tensor
    """``(m + n, *form.shape)`` on the CPU; of images pixels."""
    classes: Tensor
    """``(m + n,)``; -1 where no label is known."""
    first: int

    @classmethod
    def gather(
        cls, model: RepairableModel, reference: TrainingSet, pool: Served, labelled: IntArray, classes: IntArray
    ) -> RepairData:
        """Bring training data, pool, and the labels of some of the pool together.

        Raises:
            InputError: for inputs the model cannot take, or a class it does not have.
        """
        images = torch.cat([model.pixels(reference.x, "training data"), model.pixels(pool, "field pool")])
        first = len(reference.y)
        known = torch.full((len(images),), -1, dtype=torch.int64)
        known[:first] = torch.from_numpy(reference.y.astype("int64"))
        known[torch.from_numpy(labelled) + first] = torch.from_numpy(classes)
        count = model.logits_and_embeddings(images[:1], 1)[0].shape[1]
        for name, part in (("training data", known[:first]), ("labels", known[first:])):
            if int(part.max()) >= count:
                raise InputError(f"{name}: the model has {count} classes, got class number {int(part.max())}")
        return cls(images, known, first)

    @property
    def training(self) -> Tensor:
        """The training inputs."""
        return self.images[: self.first]

    @property
    def field(self) -> Tensor:
        """The pool's inputs."""
        return self.images[self.first :]

    @property
    def labelled(self) -> Tensor:
        """Numbers of the labelled and propagated pool inputs, counted in ``images``."""
        return torch.nonzero(self.classes[self.first :] >= 0).flatten() + self.first


@dataclass(frozen=True)
class Passes:
    """One epoch's passes; each returns the mean loss of its steps."""

    model: RepairableModel
    data: RepairData
    optimizer: torch.optim.Optimizer
    settings: HybridSettings
    generator: torch.Generator
    precision: Precision

    def answered_right(self, heard: Heard) -> Tensor:
        """Numbers of the training inputs the model gets right now: replaying these keeps what it knows."""
        training, classes = self.data.training, self.data.classes[: self.data.first]
        logits, _ = self.model.logits_and_embeddings(training, self.settings.inference_batch_size, heard)
        return torch.nonzero(torch.from_numpy(logits).argmax(dim=1) == classes).flatten()

    def supervised(self, replay: Tensor, heard: Heard) -> float:
        """Step 6a: cross-entropy with label smoothing on replayed, labelled and propagated inputs."""
        items = torch.cat([replay, self.data.labelled])
        size = min(self.settings.batch_size, max(2, len(items)))
        # The last, smaller batch is dropped: batch norm cannot train on one input. Each epoch drops other inputs.
        batches = max(1, len(items) // size)
        total = 0.0
        for step, batch in enumerate(blocks(self._shuffled(items, batches * size), size), start=1):
            with self.precision.autocast():
                logits = self.model.logits(self.data.images[batch].to(self.model.device))
            targets = self.data.classes[batch].to(logits.device)
            total += self._descend(F.cross_entropy(logits, targets, label_smoothing=self.settings.label_smoothing))
            heard(step, batches)
        return total / batches

    def consistency(self, replay: Tensor, weights: Tensor, heard: Heard) -> float:
        """Step 6b, after MixMatch: sharpened mean guesses as targets, everything mixed with everything, two losses.

        As in the paper's code: each field input stands in the batch K+1 times, in all its views; labelled and
        propagated inputs are drawn too, with their (smoothed) label in place of the guess; the cross-entropy is on
        replayed training inputs, whose targets stay their own though they are mixed (see ``mixed_targets``).

        Args:
            replay: numbers of the training inputs to replay.
            weights: ``(n,)`` of the pool: how likely each input is to be drawn.
            heard: told of each step.
        """
        settings, data, device = self.settings, self.data, self.model.device
        anchors = replay if len(replay) > 0 else data.labelled
        size, field_size = settings.batch_size, settings.unlabelled_batch_size
        batches = max(1, len(anchors) // size, len(weights) // field_size)
        draws = torch.multinomial(weights, batches * field_size, replacement=True, generator=self.generator)
        anchor_batches = blocks(self._shuffled(anchors, batches * size), size)
        total = 0.0
        for step, (anchor, drawn) in enumerate(
            zip(anchor_batches, blocks(draws + data.first, field_size), strict=True), start=1
        ):
            pixels = data.images[drawn].to(device)
            copies = self.model.form.copies(pixels, settings, self.generator)
            views = with_original(pixels, copies)
            with self.precision.autocast():
                targets = field_targets(self.model, views, data.classes[drawn].to(device), settings)
            anchor_targets = F.one_hot(data.classes[anchor], targets.shape[1]).to(targets)
            mixed, mixed_targets = mix_up(
                torch.cat([data.images[anchor].to(device), views.flatten(0, 1)]),
                torch.cat([anchor_targets, targets.repeat(len(views), 1)]),
                settings.mixup_alpha,
                self.generator,
                self.model.form.mix,
            )
            with self.precision.autocast():
                logits = self.model.logits(mixed)
            replayed_targets = mixed_targets[:size] if settings.mixed_targets else anchor_targets
            labelled_loss = F.cross_entropy(logits[:size], replayed_targets)
            unlabelled_loss = F.mse_loss(logits[size:].softmax(dim=1), mixed_targets[size:])
            total += self._descend(labelled_loss + settings.unlabelled_weight * unlabelled_loss)
            heard(step, batches)
        return total / batches

    def _shuffled(self, items: Tensor, count: int) -> Tensor:
        """``count`` of the items in random order; round after round where there are fewer."""
        rounds = math.ceil(count / len(items))
        return torch.cat([items[torch.randperm(len(items), generator=self.generator)] for _ in range(rounds)])[:count]

    def _descend(self, loss: Tensor) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())
