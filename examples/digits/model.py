"""A small convolutional network for the scans, trained in seconds."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from examples.digits.data import Part

_NOISE = 0.1
"""Standard deviation of what is added to training inputs, on the 0..1 scale."""


def build_network() -> nn.Sequential:
    """Three convolutions and two linear layers, about 75,000 weights; takes (n, 1, 8, 8), gives (n, 10) logits."""
    return nn.Sequential(
        *_block(1, 32),
        *_block(32, 64),
        nn.MaxPool2d(2),
        *_block(64, 64),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def _block(channels_in: int, channels_out: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.GroupNorm(8, channels_out), nn.ReLU()


def train_network(part: Part, *, epochs: int = 40, seed: int = 0) -> nn.Sequential:
    """A network trained on ``part``, with noise on its inputs, in evaluation mode.

    Without the noise it is unsure of some inputs, and a repair breaks one or two of them. The acceptance test has 500
    inputs to show that the reference is kept, and may see one broken.
    """
    # Images of 8x8 pixels give several threads nothing to share: they would only wait for each other.
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    network = build_network()
    images, labels = torch.from_numpy(part.images), torch.from_numpy(part.labels)
    batches = -(-len(images) // 32)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=4e-3, total_steps=epochs * batches)
    for _ in range(epochs):
        for batch in cast("tuple[torch.Tensor, ...]", torch.randperm(len(images)).split(32)):
            noisy = images[batch] + _NOISE * torch.randn_like(images[batch])
            loss = F.cross_entropy(network(noisy), labels[batch], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return network.eval()
