"""Steps 3-7 of the default recipe: what is learned, from whom, under which statistics, and how far it is kept."""

from __future__ import annotations

import copy
import logging
import math
import time
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from fieldrepair_plugin.batch_norm import measure_statistics, norm_layers
from fieldrepair_plugin.checkpoint import Checkpoint
from fieldrepair_plugin.class_shares import ClassShares
from fieldrepair_plugin.default_settings import DefaultSettings
from fieldrepair_plugin.errors import TrainingError
from fieldrepair_plugin.field_look import FieldLook
from fieldrepair_plugin.field_pose import FieldPose
from fieldrepair_plugin.passes import RepairData
from fieldrepair_plugin.precision import Precision
from fieldrepair_plugin.progress import Progress, ProgressEvent
from fieldrepair_plugin.randomness import derive_seed, generator_for, own_global_state
from fieldrepair_plugin.recipe import HybridSettings
from fieldrepair_plugin.repairable import RepairableModel, blocks
from fieldrepair_plugin.statistics_choice import StatisticsChoice, answered_right
from fieldrepair_plugin.teacher import Teacher, between
from fieldrepair_plugin.training import EpochRecord
from fieldrepair_plugin.unsmoothness import normalised_entropy
from fieldrepair_plugin.views import Views
from fieldrepair_service.inputs import ImageInput

log = logging.getLogger(__name__)

_MIXED = 0.5
"""Share of the reference in mixed statistics: what is taken where labels do not say better."""
_CHECKED = 4000
"""Training inputs that tell how much of the reference was lost."""
_ONE_SIDED = 1.645
"""Standard errors of a one-sided 95 % bound."""


class DefaultTraining:
    """Steps 3-7, and what changes from epoch to epoch; it can leave for a checkpoint and come back."""

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
        self._look_at_field(answered + data.first)
        self.shares, self.class_offsets = self._class_shares(answered + data.first)
        only_field = settings.keep_reference == "off"
        self.alike_batch = own.replay_batch // 2 if self.views.look is not None or self.views.pose is not None else 0
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
        self.champion = {name: value.detach().clone() for name, value in model.module.state_dict().items()}
        self.teacher = Teacher(model, model.module, own.average, own.teacher_weight, self.shares)
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
            unsure / steps * len(self.field),
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
                beside = torch.cat(reference) if self.field_reads_better_mixed else None
                answers = self.teacher.answers(self.views.weak(inputs, generator), beside)
            field.append(self._strong(inputs, generator))
        # One batch norm for both worlds where both are to be served; else each is normalised by its own.
        together = self.keeping.shared_statistics or len(replayed) == 0
        worlds = [[*reference, *field]] if together else [reference[:1], [*reference[1:], *field]]
        with self.precision.autocast():
            logits = torch.cat([self.model.logits(torch.cat(world)) for world in worlds])
        old, shown, told, rest = torch.split(logits, [len(replayed), len(alike), len(labelled), len(unlabelled)])
        smoothing, offsets = self.own.label_smoothing, self.class_offsets.to(device)
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

    def finish(self) -> None:
        """Step 7: from the average back towards the old weights, and the statistics of the worlds that are kept."""
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

    def _look_at_field(self, answered: Tensor) -> None:
        """Step 4: half of what is replayed is shown as the field shows it."""
        if not isinstance(self.model.input, ImageInput):
            return
        if self.own.replay_field_look:
            look = FieldLook.of(self.training, self.field, generator_for(self.settings.seed, "look"))
            self.views = replace(self.views, look=look)
        if self.own.replay_field_pose:
            labelled = (self.data.images[answered], self.data.classes[answered])
            pose = FieldPose.of(self.model, self.field, labelled, generator_for(self.settings.seed, "pose"))
            self.views = replace(self.views, pose=pose)

    def _class_shares(self, answered: Tensor) -> tuple[Tensor | None, Tensor]:
        """Step 4: the field's class shares where they are others than the reference's; and what is added to a replayed
        input's logits, so that the model learns to expect the field's (Menon et al., "Long-tail learning via logit
        adjustment", ICLR 2021)."""
        count = self.model.logits_and_embeddings(self.training[:1], 1)[0].shape[1]
        classes = self.data.classes
        shares = ClassShares.of(classes[: self.data.first], classes[answered], count, self.own.class_chance)
        if shares is None:
            return None, torch.zeros(count)
        log.info("classes come in other shares than in the reference, by the labels: %s", shares.field)
        only_field = self.settings.keep_reference == "off"
        return shares.field, (shares.reference / shares.field).log() if only_field else torch.zeros(count)

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
        weak, strong = self.views.weak(inputs[:half], generator), self._strong(inputs[half:], generator)
        return torch.cat([weak, strong])

    def _strong(self, inputs: Tensor, generator: torch.Generator, *, like_field: bool = False) -> Tensor:
        if len(inputs) == 0 or not self.own.strong_views:
            return inputs if len(inputs) == 0 else self.views.weak(inputs, generator)
        return (self.views.like_field if like_field else self.views.strong)(inputs, generator)


def _more_reference(share: float) -> tuple[float, ...]:
    """Shares on the way from one to the reference alone."""
    return tuple(share + step * (1 - share) for step in (0.5, 0.75, 1.0))


def _shuffled(items: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` of the items in random order; round after round where there are fewer."""
    rounds = math.ceil(count / len(items))
    return torch.cat([items[torch.randperm(len(items), generator=generator)] for _ in range(rounds)])[:count]
