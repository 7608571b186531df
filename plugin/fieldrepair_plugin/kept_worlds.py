"""Step 7 of the default recipe: how far the repair goes, and whose batch-norm statistics it is served with."""

from __future__ import annotations

import logging
import math

import torch
from torch import Tensor

from fieldrepair_plugin.batch_norm import measure_statistics
from fieldrepair_plugin.default_settings import DefaultSettings
from fieldrepair_plugin.field_findings import FieldFindings, more_reference
from fieldrepair_plugin.passes import RepairData
from fieldrepair_plugin.randomness import generator_for
from fieldrepair_plugin.recipe import HybridSettings
from fieldrepair_plugin.repairable import RepairableModel, weights_of
from fieldrepair_plugin.statistics_choice import answered_right
from fieldrepair_plugin.teacher import Teacher, between

log = logging.getLogger(__name__)

_CHECKED = 4000
"""Training inputs that tell how much of the reference was lost."""
_ONE_SIDED = 1.645
"""Standard errors of a one-sided 95 % bound."""


def keep_worlds(
    model: RepairableModel,
    data: RepairData,
    teacher: Teacher,
    findings: FieldFindings,
    settings: HybridSettings,
    own: DefaultSettings,
) -> None:
    """Give a model weights between the old and the trained ones, and the statistics of the worlds to be kept.

    Args:
        model: becomes the repaired one.
        data: to measure statistics on.
        teacher: has the old weights, and the average that training ended with.
        findings: what the labels chose.
        settings: what the user wants kept, and the seed.
        own: how much may be lost before more of the reference is taken.
    """
    share = findings.keeping.reference_share
    model.module.load_state_dict(between(teacher.old, teacher.weights, findings.keeping.weight))
    model.module.zero_grad(set_to_none=True)
    generator = generator_for(settings.seed, "statistics")
    measure_statistics(model, data.field, data.training, share, 256, generator)
    if findings.choice is None or settings.keep_reference == "off":
        return
    loss = _ReferenceLoss(model, data, teacher.old, settings.seed)
    for more in more_reference(share):
        lost = loss.bound()
        if lost <= own.reference_margin:
            break
        if findings.choice.objects(share, more, own.objection):
            log.info("up to %.1f %% of the training inputs lost; labels want the field's statistics", 100 * lost)
            break
        measure_statistics(model, data.field, data.training, more, 256, generator)


class _ReferenceLoss:
    """How much of the training inputs a model has lost since it had the old weights."""

    def __init__(self, model: RepairableModel, data: RepairData, old: dict[str, Tensor], seed: int) -> None:
        some = torch.randperm(data.first, generator=generator_for(seed, "reference"))[:_CHECKED]
        self._model, self._inputs, self._classes = model, data.images[some], data.classes[some]
        now = weights_of(model.module)
        model.module.load_state_dict(old)
        self._before = answered_right(model, self._inputs, self._classes).float()
        model.module.load_state_dict(now)

    def bound(self) -> float:
        """Upper bound (one-sided, 95 %) of the accuracy lost, of the model as it is."""
        lost = self._before - answered_right(self._model, self._inputs, self._classes).float()
        return float(lost.mean() + _ONE_SIDED * lost.std(correction=0) / math.sqrt(len(lost)))
