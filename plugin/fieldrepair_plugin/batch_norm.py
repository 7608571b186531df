"""Batch norms and two worlds: layers that keep running statistics, and how they are measured anew."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fieldrepair_plugin.repairable import RepairableModel, inference

_BATCHES = 20
"""Batches that statistics are averaged over, at most."""


def norm_layers(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:  # pyright: ignore[reportPrivateUsage]
    """Batch norms with running statistics, in the order of the module."""
    return [
        layer
        for layer in module.modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is not None  # pyright: ignore[reportPrivateUsage]
    ]


def measure_statistics(
    model: RepairableModel,
    field: Tensor,
    training: Tensor,
    reference_share: float,
    batch: int,
    seed: torch.Generator,
    most: int = _BATCHES,
) -> int:
    """Replace the running statistics by those of a mixture of two worlds.

    Every batch is the mixture, so that its variance has the distance between the worlds' means in it, as the served
    model's inputs will.

    Args:
        model: a working copy; its module's statistics are changed, and it is left in eval mode.
        field: ``(n, *form.shape)``.
        training: ``(r, *form.shape)``.
        reference_share: share of training inputs in a batch, 0..1.
        batch: inputs per batch; fewer where there are fewer.
        seed: which inputs, where there are more than ``most`` batches.
        most: batches.

    Returns:
        Layers measured; 0 leaves the module as it was.
    """
    layers = norm_layers(model.module)
    if not layers:
        return 0
    size = max(2, min(batch, len(field) + len(training)))
    of_training = round(size * reference_share)
    of_field = size - of_training
    longest = max(len(field) if of_field else 0, len(training) if of_training else 0)
    batches = max(1, min(most, longest // max(1, of_field, of_training)))
    shuffled = [torch.randperm(len(part), generator=seed) for part in (field, training)]
    momenta = [layer.momentum for layer in layers]
    model.module.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the plain mean over batches
        layer.train()
    with torch.no_grad():
        for number in range(batches):
            parts = [
                part[order[torch.arange(number * count, (number + 1) * count) % len(part)]]
                for part, order, count in zip((field, training), shuffled, (of_field, of_training), strict=True)
                if count
            ]
            model.logits(torch.cat(parts).to(model.device))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    model.module.eval()
    return len(layers)


@contextmanager
def batch_statistics(module: nn.Module) -> Generator[None]:
    """Without gradients, in eval mode, but batch norms use the batch's own statistics, and keep none."""
    layers = norm_layers(module)
    kept = [(layer.running_mean, layer.running_var, layer.num_batches_tracked) for layer in layers]
    with inference(module):
        for layer in layers:
            layer.running_mean = layer.running_var = layer.num_batches_tracked = None
        try:
            yield
        finally:
            for layer, (mean, variance, count) in zip(layers, kept, strict=True):
                layer.running_mean, layer.running_var, layer.num_batches_tracked = mean, variance, count
