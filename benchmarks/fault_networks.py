"""The networks of the benchmark of faulty trainings: small, and each with what a fault can change."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import nn

Build = Callable[[], nn.Module]
Draw = Callable[[nn.Module], None]


def mlp(
    sizes: Sequence[int],
    activation: Callable[[], nn.Module] | None = nn.ReLU,
    *,
    draw: Draw | None = None,
    softmax: bool = False,
    dropout: float | None = None,
    norm: bool = False,
) -> Build:
    """Linear layers of these sizes, with an activation between any two (or none), after flattening the input."""

    def build() -> nn.Module:
        layers: list[nn.Module] = [nn.Flatten()]
        for at, (before, after) in enumerate(pairwise(sizes)):
            layers.append(nn.Linear(before, after))
            if at < len(sizes) - 2:
                layers += [nn.BatchNorm1d(after)] if norm else []
                layers += [] if activation is None else [activation()]
                layers += [] if dropout is None else [nn.Dropout(dropout)]
        network = nn.Sequential(*layers, *([nn.Softmax(dim=1)] if softmax else []))
        if draw is not None:
            draw(network)
        return network

    return build


def cnn(
    channels: Sequence[int],
    size: int,
    classes: int = 10,
    activation: Callable[[], nn.Module] = nn.ReLU,
    *,
    draw: Draw | None = None,
) -> Build:
    """3x3 convolutions that halve the image, each with an activation, and a linear layer.

    Args:
        channels: of the image, and of each convolution.
        size: rows and columns of the image.
        classes: outputs.
        activation: what follows a convolution.
        draw: changes the weights as PyTorch draws them.
    """

    def build() -> nn.Module:
        layers: list[nn.Module] = []
        left = size
        for before, after in pairwise(channels):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), activation()]
            left = math.ceil(left / 2)
        network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels[-1] * left * left, classes))
        if draw is not None:
            draw(network)
        return network

    return build


def shrunk(factor: float) -> Draw:
    """Weights as PyTorch draws them, times ``factor``; biases 0."""

    def draw(network: nn.Module) -> None:
        for part in network.modules():
            if isinstance(part, nn.Linear | nn.Conv2d):
                with torch.no_grad():
                    part.weight.mul_(factor)
                    if part.bias is not None:
                        part.bias.zero_()

    return draw


def biased(bias: float) -> Draw:
    """Hidden biases of ``bias``: below zero, ReLU units have nothing to say from the start."""

    def draw(network: nn.Module) -> None:
        layers = [part for part in network.modules() if isinstance(part, nn.Linear | nn.Conv2d)]
        for part in layers[:-1]:
            if part.bias is not None:
                nn.init.constant_(part.bias, bias)

    return draw
