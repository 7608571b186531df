"""Step 1: how much a model's answer depends on changes of the input that should not matter."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fieldrepair_plugin.pool_copies import PoolCopies
from fieldrepair_plugin.precision import Precision
from fieldrepair_plugin.repairable import RepairableModel, inference

FloatVector = npt.NDArray[np.float64]


def normalised_entropy(probabilities: Tensor) -> Tensor:
    """Entropy as a share of the largest possible one.

    The paper divides by the largest value in the pool; we divide by log C, so that a value means the same in every
    pool and an outlier does not rescale all others.

    Args:
        probabilities: ``(n, classes)``, rows sum to 1.

    Returns:
        ``(n,)`` in 0..1; 0 log 0 counts as 0.
    """
    terms = cast(Tensor, torch.special.entr(probabilities))
    return terms.sum(dim=1) / math.log(probabilities.shape[1])


def mean_prediction(model: RepairableModel, views: Tensor) -> Tensor:
    """The mean of a model's softmax over several views of each image, in whatever mode the module is.

    Args:
        model: the model; gradients flow unless the caller stops them.
        views: ``(views, n, *form.shape)`` on the module's device.

    Returns:
        ``(n, classes)``, rows sum to 1.
    """
    logits = model.logits(views.flatten(0, 1))
    return logits.softmax(dim=1).reshape(*views.shape[:2], -1).mean(dim=0)


def with_original(pixels: Tensor, copies: Tensor) -> Tensor:
    """The K+1 views of each image: itself first, then its copies."""
    return torch.cat([pixels.unsqueeze(0), copies])


def unsmoothness(
    model: RepairableModel,
    pool: PoolCopies,
    heard: Callable[[int, int], None] | None = None,
    precision: Precision | None = None,
) -> FloatVector:
    """Normalised entropy of the mean prediction over each input and its varied copies, in eval mode.

    Args:
        model: the model to measure.
        pool: the inputs and their copies.
        heard: called after each batch with inputs done and their total.
        precision: what is computed in; the model's own by default.

    Returns:
        ``(n,)`` in 0..1; 0 is a sure answer that no copy changes.
    """
    values: list[Tensor] = []
    done = 0
    precision = precision or Precision(model.device.type, bfloat16=False)
    with inference(model.module):
        for inputs, copies in pool:
            with precision.autocast():
                mean = mean_prediction(model, with_original(inputs, copies))
            values.append(normalised_entropy(mean.double()).cpu())
            done += len(inputs)
            if heard is not None:
                heard(done, len(pool))
    return cast(FloatVector, torch.cat(values).numpy())
