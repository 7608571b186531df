"""The losses of a plan, and the logits that a module's answers mean."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def loss_of(name: str, outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean loss of a batch.

    Args:
        name: as in :class:`~fieldrepair_plugin.training_repair.plan.TrainingPlan`.
        outputs: ``(n, classes)`` what the module gives: logits for ``cross_entropy``, probabilities for ``nll``.
        targets: ``(n,)`` class numbers.
    """
    if name == "cross_entropy":
        return F.cross_entropy(outputs, targets)
    if name == "nll":
        # Of something else than probabilities, the logarithm may not exist: that is what a user's loss would give, too.
        return F.nll_loss(outputs.clamp_min(torch.finfo(outputs.dtype).tiny).log(), targets)
    return F.mse_loss(outputs, F.one_hot(targets, outputs.shape[1]).to(outputs.dtype))


def fitting_loss(output: str) -> str:
    """The loss that is right for a module that gives ``logits``, ``log_probabilities`` or ``probabilities``."""
    return "nll" if output == "probabilities" else "cross_entropy"
