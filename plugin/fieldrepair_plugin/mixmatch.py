"""The parts of MixMatch (Berthelot et al., NeurIPS 2019) that step 6b is made of: guess, sharpen, mix."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from fieldrepair_plugin.randomness import own_global_state
from fieldrepair_plugin.recipe import HybridSettings
from fieldrepair_plugin.repairable import RepairableModel
from fieldrepair_plugin.unsmoothness import mean_prediction

Blend = Callable[[Tensor, Tensor, float, torch.Generator], Tensor]
"""Inputs, their partners and the share that stays their own; see ``InputForm.mix``."""


def field_targets(model: RepairableModel, views: Tensor, classes: Tensor, settings: HybridSettings) -> Tensor:
    """What field inputs are trained towards: their smoothed label if there is one, else the sharpened mean guess.

    Args:
        model: the model in train mode, as in the paper's code: batch norm sees the field and adapts to it.
        views: ``(views, n, *form.shape)`` on the module's device.
        classes: ``(n,)``, -1 where no label is known.
        settings: temperature and label smoothing.

    Returns:
        ``(n, classes)``, rows sum to 1, without gradients.
    """
    with torch.no_grad():
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


def mix_up(
    inputs: Tensor, targets: Tensor, alpha: float, generator: torch.Generator, blend: Blend | None = None
) -> tuple[Tensor, Tensor]:
    """Each input and its target mixed with another one's, by one weight for the batch.

    The weight is max(m, 1 - m) with m from Beta(alpha, alpha): at least half stays what it was, as MixMatch needs.

    Args:
        inputs: ``(n, ...)`` in the engine's form.
        targets: ``(n, classes)``.
        alpha: the Beta distribution's parameter.
        generator: the source of randomness.
        blend: how inputs of this kind are mixed; as pixels are, in fractions, by default.

    Returns:
        ``(n, ...)``, pixels in float32, and ``(n, classes)``.
    """
    # A Dirichlet of two parameters is a Beta; torch.distributions takes no generator, so a stream of its own is used.
    with own_global_state(int(torch.randint(2**63 - 1, (), generator=generator)), torch.device("cpu")):
        weight = float(torch.distributions.Beta(alpha, alpha).sample())
    weight = max(weight, 1.0 - weight)
    partner = torch.randperm(len(inputs), generator=generator).to(inputs.device)
    pixels = inputs if blend is not None else inputs.float()
    mixed = (blend or _as_pixels)(pixels, pixels[partner], weight, generator)
    return mixed, torch.lerp(targets[partner], targets, weight)


def _as_pixels(inputs: Tensor, partners: Tensor, weight: float, _: torch.Generator) -> Tensor:
    return torch.lerp(partners, inputs, weight)
