"""Steps 5 and 6 of the default recipe: what is learned, from whom, and under which statistics."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from fieldrepair_plugin.batch_norm import norm_layers
from fieldrepair_plugin.checkpoint import Checkpoint
from fieldrepair_plugin.default_settings import DefaultSettings
from fieldrepair_plugin.errors import TrainingError
from fieldrepair_plugin.field_findings import FieldFindings
from fieldrepair_plugin.passes import RepairData
from fieldrepair_plugin.precision import Precision
from fieldrepair_plugin.progress import Progress, ProgressEvent
from fieldrepair_plugin.randomness import derive_seed, generator_for, own_global_state
from fieldrepair_plugin.recipe import HybridSettings
from fieldrepair_plugin.repairable import RepairableModel, blocks
from fieldrepair_plugin.teacher import Teacher
from fieldrepair_plugin.training import EpochRecord
from fieldrepair_plugin.unsmoothness import normalised_entropy


class DefaultTraining:
    """What changes from epoch to epoch; it can leave for a checkpoint and come back."""

    def __init__(
        self,
        model: RepairableModel,
        data: RepairData,
        outside: Tensor,
        findings: FieldFindings,
        settings: HybridSettings,
        own: DefaultSettings,
    ) -> None:
        """Nothing is trained yet.

        Args:
            model: the copy to train.
            data: reference, pool and labels.
            outside: pool indices of inputs that the model has no class for.
            findings: what is known of the field.
            settings: the user's.
            own: the recipe's.
        """
        self.model, self.data, self.findings, self.settings, self.own = model, data, findings, settings, own
        views, normed = findings.views, len(norm_layers(model.module)) > 0
        only_field = settings.keep_reference == "off"
        self.alike_batch = own.replay_batch // 2 if views.look is not None or views.pose is not None else 0
        self.replay_batch = own.replay_batch - (self.alike_batch if only_field else 0)
        self.old: RepairableModel | None = None
        if not only_field and own.replay_old_answers > 0 and self.replay_batch > 0:
            self.old = replace(model, module=copy.deepcopy(model.module).eval())
        unlabelled = data.classes[data.first :] < 0
        unlabelled[outside] = False  # of a class that the model lacks, every answer of its is wrong
        self.unlabelled = torch.nonzero(unlabelled).flatten() + data.first
        batch = own.unlabelled_batch if normed else own.unlabelled_batch_without_batch_norm
        self.unlabelled_batch = max(2, batch) if batch and len(self.unlabelled) > 0 else 0
        steps = math.ceil(own.epoch_passes * len(self.unlabelled) / max(1, self.unlabelled_batch))
        self.steps = min(max(steps, own.steps_least), own.steps_most)
        self.teacher = Teacher(model, model.module, own.average, own.teacher_weight, findings.class_shares)
        self.precision = Precision.of(model, settings.bfloat16)
        self.learning_rate = own.learning_rate if normed else own.learning_rate_without_batch_norm
        self.optimizer = torch.optim.SGD(
            [parameter for parameter in model.module.parameters() if parameter.requires_grad],
            lr=self.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=settings.momentum > 0,
        )
        self.records: list[EpochRecord] = []

    def epoch(self, epoch: int, tell: Progress) -> EpochRecord:
        """Steps 5 and 6: go over the unlabelled inputs, with as much of the rest beside it."""
        started, own, steps, generator = (
            time.monotonic(),
            self.own,
            self.steps,
            generator_for(self.settings.seed, "default epoch", epoch),
        )
        queues = [
            list(blocks(_shuffled(items, steps * size, generator), size)) if size else [items[:0]] * steps
            for items, size in (
                (torch.arange(self.data.first), self.replay_batch),
                (torch.arange(self.data.first), self.alike_batch),
                (self.data.labelled, own.labelled_batch),
                (self.unlabelled, self.unlabelled_batch),
            )
        ]
        supervised = consistency = counted = unsure = 0.0
        self.model.module.train()
        with own_global_state(derive_seed(self.settings.seed, "dropout", epoch), self.model.device):
            for step, (replayed, alike, labelled, unlabelled) in enumerate(zip(*queues, strict=True)):
                self._set_learning_rate((epoch - 1) * steps + step)
                loss, lesson, count, entropy = self._step(replayed, alike, labelled, unlabelled, generator)
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
            unsure / steps * len(self.data.field),
            round(counted),
            steps * (self.replay_batch + self.alike_batch),
            time.monotonic() - started,
        )
        self.records.append(record)
        return record

    def _step(
        self, replayed: Tensor, alike: Tensor, labelled: Tensor, unlabelled: Tensor, generator: torch.Generator
    ) -> tuple[float, float, float, float]:
        """One step. Returns both losses, how many of the teacher's answers counted, and their mean entropy."""
        device, images, classes = self.model.device, self.data.images, self.data.classes
        plain = self._half_strong(images[replayed].to(device), generator)
        reference = [plain, self._strong(images[alike].to(device), generator, like_field=True)]
        field = [self._half_strong(images[labelled].to(device), generator)]
        answers: Tensor | None = None
        if len(unlabelled):
            inputs = images[unlabelled].to(device)
            with self.precision.autocast():
                beside = torch.cat(reference) if self.findings.reads_better_mixed else None
                answers = self.teacher.answers(self.findings.views.weak(inputs, generator), beside)
            field.append(self._strong(inputs, generator))
        # One batch norm for both worlds where both are to be served; else each is normalised by its own.
        together = self.findings.keeping.shared_statistics or len(replayed) == 0
        worlds = [[*reference, *field]] if together else [reference[:1], [*reference[1:], *field]]
        with self.precision.autocast():
            logits = torch.cat([self.model.logits(torch.cat(world)) for world in worlds])
        old, shown, told, rest = torch.split(logits, [len(replayed), len(alike), len(labelled), len(unlabelled)])
        smoothing, offsets = self.own.label_smoothing, self.findings.class_offsets.to(device)
        loss = F.cross_entropy(told, classes[labelled].to(device), label_smoothing=smoothing)
        if len(replayed) + len(alike):
            targets = F.one_hot(classes[torch.cat([replayed, alike])].to(device), logits.shape[1]).to(logits.dtype)
            if self.old is not None:
                with self.precision.autocast(), torch.no_grad():
                    was = self.old.logits(plain).softmax(dim=1)
                targets[: len(plain)].lerp_(was.to(targets), self.own.replay_old_answers)
            replay = torch.cat([old, shown]) + offsets
            losses = F.cross_entropy(replay, targets, label_smoothing=smoothing, reduction="sum")
            loss = loss + losses / self.own.replay_batch
        total, lesson, counted, entropy = loss, loss.new_zeros(()), 0.0, 0.0
        if answers is not None:
            lesson, counted = self.teacher.lesson(rest, answers, self.own.targets)
            total, entropy = loss + lesson, float(normalised_entropy(answers).mean())
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        self.optimizer.step()
        self.teacher.follow(self.model.module)
        return float(loss.detach()), float(lesson.detach()), counted, entropy

    def snapshot(self, fingerprint: str) -> Checkpoint:
        """All that the next epoch starts from; randomness is drawn anew by each epoch."""
        return Checkpoint(
            fingerprint,
            self.model.module.state_dict(),
            self.optimizer.state_dict(),
            torch.cat([self.teacher.confidence, self.teacher.said.double()]),
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
        self.teacher.confidence, self.teacher.said = saved.unsmooth[:2], saved.unsmooth[2:].to(self.teacher.said)
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
        weak, strong = self.findings.views.weak(inputs[:half], generator), self._strong(inputs[half:], generator)
        return torch.cat([weak, strong])

    def _strong(self, inputs: Tensor, generator: torch.Generator, *, like_field: bool = False) -> Tensor:
        if len(inputs) == 0 or not self.own.strong_views:
            return inputs if len(inputs) == 0 else self.findings.views.weak(inputs, generator)
        return (self.findings.views.like_field if like_field else self.findings.views.strong)(inputs, generator)


def _shuffled(items: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` of the items in random order; round after round where there are fewer."""
    rounds = math.ceil(count / len(items))
    return torch.cat([items[torch.randperm(len(items), generator=generator)] for _ in range(rounds)])[:count]
