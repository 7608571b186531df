"""The teacher: averaged weights, on the way back to the old ones, answer for inputs that nobody labelled."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fieldrepair_plugin.batch_norm import batch_statistics
from fieldrepair_plugin.repairable import RepairableModel, weights_of

_MOMENTUM = 0.98
"""Of running means of the teacher's answers."""


class Teacher:
    """An exponential moving average of the student's weights (Tarvainen and Valpola, NeurIPS 2017), and its answers.

    Args:
        model: the student, a working copy, before training.
        champion: the old weights.
        average: share of the average that a step leaves as it was, once there are enough steps.
        weight: how far from the champion's weights to the averaged ones the weights stand that answer: halfway, both
            worlds' knowledge is in them, and their mistakes differ from the student's (WiSE-FT, as a teacher).
    """

    def __init__(
        self,
        model: RepairableModel,
        champion: nn.Module,
        average: float,
        weight: float,
        shares: Tensor | None = None,
    ) -> None:
        self._average, self._weight, self._shares = average, weight, shares
        self.old = weights_of(champion)
        """The weights before the repair."""
        self._speaker = replace(model, module=copy.deepcopy(model.module))
        self.weights = weights_of(model.module)
        self.confidence = torch.tensor([1.0 / 2, 1.0], dtype=torch.float64)
        """Running mean and variance of the largest probability."""
        self.said = torch.empty(0) if shares is None else shares.clone()
        """``(classes,)``, running mean of the answers before they are aligned."""
        self.steps = 0

    def follow(self, student: nn.Module) -> None:
        """Move the average towards the student's weights. Early on it is short, so that the start is forgotten."""
        self.steps += 1
        keep = min(self._average, self.steps / (self.steps + 9))
        for name, value in student.state_dict().items():
            if value.is_floating_point():
                self.weights[name].lerp_(value.detach(), 1 - keep)
            else:
                self.weights[name].copy_(value)

    def answers(self, views: Tensor, beside: Tensor | None = None) -> Tensor:
        """Probabilities ``(n, classes)`` of weak views, under the batch's own batch-norm statistics: the field's.

        Args:
            views: ``(n, *form.shape)``.
            beside: inputs of the reference that share the statistics, for a field that is read better so.
        """
        self._speaker.module.load_state_dict(between(self.old, self.weights, self._weight))
        with batch_statistics(self._speaker.module):
            inputs = views if beside is None else torch.cat([views, beside])
            answers = self._speaker.logits(inputs)[: len(views)].softmax(dim=1)
        if self._shares is None:
            return answers
        self.said.lerp_(answers.mean(dim=0).to(self.said), 1 - _MOMENTUM)
        aligned = answers * (self._shares / self.said.clamp_min(1e-4)).to(answers)
        return aligned / aligned.sum(dim=1, keepdim=True)

    def lesson(self, logits: Tensor, answers: Tensor, targets: Literal["soft", "confident"]) -> tuple[Tensor, float]:
        """The loss of a student's logits on strong views, and how many of the answers count.

        ``soft`` takes every answer whole. ``confident`` takes its first choice and weights it by SoftMatch (Chen et
        al., ICLR 2023): fully above the mean confidence, and below it by a Gaussian of half the deviation.

        Args:
            logits: ``(n, classes)`` of the student.
            answers: ``(n, classes)`` of :meth:`answers`.
            targets: which.
        """
        if targets == "soft":
            return F.cross_entropy(logits, answers), float(len(answers))
        sure, choice = answers.max(dim=1)
        measured = torch.stack([sure.mean(), sure.var(correction=0)]).double().cpu()
        self.confidence.lerp_(measured, 1 - _MOMENTUM)
        mean, variance = float(self.confidence[0]), float(self.confidence[1])
        below = (sure - mean).clamp_max(0.0)
        weights = torch.exp(-below.square() / (2 * variance / 4 + 1e-8))
        loss = (weights * F.cross_entropy(logits, choice, reduction="none")).mean()
        return loss, float(weights.sum())


def between(old: dict[str, Tensor], new: dict[str, Tensor], weight: float) -> dict[str, Tensor]:
    """State on the straight line between two; what is no fraction is the new one's."""
    return {
        name: torch.lerp(old[name].to(value), value, weight) if value.is_floating_point() else value
        for name, value in new.items()
    }
