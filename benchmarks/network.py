"""How ResNet8, the network of the benchmark cases, is trained where a case comes without a checkpoint."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from fieldrepair_monitoring.resnet8 import ResNet8

__all__ = ["ResNet8", "train_resnet8"]


def train_resnet8(x: Tensor, y: Tensor, classes: int, *, epochs: int, crop: bool, flip: bool, seed: int = 0) -> ResNet8:
    """The cases' fixed recipe: SGD, one-cycle with peak 0.2, Nesterov momentum 0.9, weight decay 5e-4, batch 64.

    Args:
        x: ``(n, channels, h, w)`` normalised inputs.
        y: ``(n,)`` classes.
        classes: how many there are.
        epochs: 30 for colour and 12 for grey images.
        crop: random crops with padding 4 (one offset per batch).
        flip: random horizontal flips.
        seed: fixes weights and order.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ResNet8(x.shape[1], classes)
        optimiser = torch.optim.SGD(network.parameters(), lr=0.2, momentum=0.9, nesterov=True, weight_decay=5e-4)
        batches = -(-len(x) // 64)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=0.2, total_steps=epochs * batches)
        for _ in range(epochs):
            for batch in cast("tuple[Tensor, ...]", torch.randperm(len(x)).split(64)):
                inputs = _augmented(x[batch], crop=crop, flip=flip)
                loss = F.cross_entropy(network(inputs), y[batch])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
    return network.eval()


def _augmented(x: Tensor, *, crop: bool, flip: bool) -> Tensor:
    if crop:
        height, width = x.shape[2:]
        top, left = (int(offset) for offset in torch.randint(0, 9, (2,)))
        x = F.pad(x, (4, 4, 4, 4))[:, :, top : top + height, left : left + width]
    if flip:
        mirrored = torch.rand(len(x)) < 0.5
        x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
    return x
