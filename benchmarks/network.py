"""ResNet8, the network of the benchmark cases, with the attribute names that their checkpoints use."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, and a shortcut around them."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        changes = stride != 1 or channels_in != channels_out
        self.shortcut = nn.Sequential(
            *([nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)] * changes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(n, channels_in, h, w)`` to ``(n, channels_out, h / stride, w / stride)``."""
        hidden = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(hidden)) + self.shortcut(x))


class ResNet8(nn.Module):
    """A stem and three basic blocks: ``(n, channels, h, w)`` to ``(n, classes)`` logits."""

    def __init__(self, channels: int, classes: int, width: int = 32) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(
            BasicBlock(width, width, 1), BasicBlock(width, 2 * width, 2), BasicBlock(2 * width, 4 * width, 2)
        )
        self.linear = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch."""
        return self.linear(self.blocks(F.relu(self.bn(self.conv(x)))).mean(dim=(2, 3)))


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
