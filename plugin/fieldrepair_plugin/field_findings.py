"""Steps 3 and 4 of the default recipe: what labels and pool tell about the field before anything is trained."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fieldrepair_plugin.batch_norm import norm_layers
from fieldrepair_plugin.class_shares import ClassShares
from fieldrepair_plugin.default_settings import DefaultSettings, Keeping
from fieldrepair_plugin.field_look import FieldLook
from fieldrepair_plugin.field_pose import FieldPose
from fieldrepair_plugin.passes import RepairData
from fieldrepair_plugin.randomness import generator_for
from fieldrepair_plugin.recipe import HybridSettings
from fieldrepair_plugin.repairable import RepairableModel
from fieldrepair_plugin.statistics_choice import StatisticsChoice
from fieldrepair_plugin.views import Views
from fieldrepair_service.inputs import ImageInput

log = logging.getLogger(__name__)

_MIXED = 0.5
"""Share of the reference in mixed statistics: what is taken where labels do not say better."""


@dataclass(frozen=True)
class FieldFindings:
    """What training goes by."""

    keeping: Keeping
    """What the user chose, with the statistics that the labels chose."""
    choice: StatisticsChoice | None
    """What the labels say about statistics; None without batch norm, or where they have no say."""
    reads_better_mixed: bool
    """Whether the unrepaired model reads the field better beside reference inputs than by itself."""
    views: Views
    """How inputs are varied, and how the field shows them."""
    class_shares: Tensor | None
    """``(classes,)`` of the field, where they are others than the reference's."""
    class_offsets: Tensor
    """``(classes,)`` what is added to a replayed input's logits, so that the model learns to expect the field's shares
    (Menon et al., "Long-tail learning via logit adjustment", ICLR 2021)."""

    @classmethod
    def of(
        cls, model: RepairableModel, data: RepairData, answered: Tensor, settings: HybridSettings, own: DefaultSettings
    ) -> FieldFindings:
        """Look at the field with the unrepaired model.

        Args:
            model: a working copy with the old weights; it is afterwards as it was.
            data: reference, pool and labels.
            answered: pool indices of the inputs that people gave a class.
            settings: what to keep, and the seed.
            own: which of this is to be looked at.
        """
        labelled = answered + data.first
        keeping, choice, mixed = _statistics(model, data, labelled, settings, own)
        views = _views(model, data, labelled, settings, own)
        shares, offsets = _class_shares(model, data, labelled, settings, own)
        return cls(keeping, choice, mixed, views, shares, offsets)


def more_reference(share: float) -> tuple[float, ...]:
    """Shares of the reference on the way from one to the reference alone."""
    return tuple(share + step * (1 - share) for step in (0.5, 0.75, 1.0))


def _statistics(
    model: RepairableModel, data: RepairData, labelled: Tensor, settings: HybridSettings, own: DefaultSettings
) -> tuple[Keeping, StatisticsChoice | None, bool]:
    """Step 3."""
    keeping = own.keeping(settings.keep_reference)
    if not own.labels_choose_statistics or not norm_layers(model.module):
        return keeping, None, False
    share = keeping.reference_share
    choice = StatisticsChoice.of(
        model,
        data.field,
        data.training,
        (data.images[labelled], data.classes[labelled]),
        {0.0, _MIXED, 1.0, share, *more_reference(share)},
        generator_for(settings.seed, "labels choose"),
    )
    best = choice.best(_MIXED, own.evidence)
    log.info("labels right by share of the reference in the statistics: %s; best %.2f", choice.shares, best)
    if best >= _MIXED and (settings.keep_reference == "off" or best > share):
        keeping = replace(keeping, shared_statistics=True, reference_share=best)
    return keeping, choice, best >= _MIXED


def _views(
    model: RepairableModel, data: RepairData, labelled: Tensor, settings: HybridSettings, own: DefaultSettings
) -> Views:
    """Step 4: how the field looks and lies."""
    views = Views.of(model, data.training, data.classes[: data.first], settings)
    if not isinstance(model.input, ImageInput):
        return views
    if own.replay_field_look:
        views = replace(views, look=FieldLook.of(data.training, data.field, generator_for(settings.seed, "look")))
    if own.replay_field_pose:
        told = (data.images[labelled], data.classes[labelled])
        pose = FieldPose.of(model, data.field, told, generator_for(settings.seed, "pose"))
        views = replace(views, pose=pose)
    return views


def _class_shares(
    model: RepairableModel, data: RepairData, labelled: Tensor, settings: HybridSettings, own: DefaultSettings
) -> tuple[Tensor | None, Tensor]:
    """Step 4: how often its classes come."""
    count = model.logits_and_embeddings(data.training[:1], 1)[0].shape[1]
    shares = ClassShares.of(data.classes[: data.first], data.classes[labelled], count, own.class_chance)
    if shares is None:
        return None, torch.zeros(count)
    log.info("classes come in other shares than in the reference, by the labels: %s", shares.field)
    only_field = settings.keep_reference == "off"
    return shares.field, (shares.reference / shares.field).log() if only_field else torch.zeros(count)
