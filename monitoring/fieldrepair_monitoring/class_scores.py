"""What comes out of a classifier and out of its last layers, whatever the network is built like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
HEADS: tuple[type[nn.Module], ...] = (nn.Linear, *_CONVOLUTIONS)
"""Layers that can turn an embedding into class scores."""


def scores_tensor(answer: object) -> Tensor | None:
    """The class scores in a module's answer: the answer itself, or what it calls ``logits``.

    HuggingFace's classifiers answer with a ``ModelOutput``, a mapping that has them under this name.

    Returns:
        The tensor, whatever its shape; None if there is none.
    """
    if isinstance(answer, Tensor):
        return answer
    if isinstance(answer, Mapping):
        found = cast("Mapping[str, object]", answer).get("logits")
    else:
        found = cast(object, getattr(answer, "logits", None))
    return found if isinstance(found, Tensor) else None


def embedding_of(value: Tensor, layer: nn.Module) -> Tensor:
    """One row of numbers per instance from the input of a layer.

    A convolution's input is averaged over its positions, and so is that of a linear layer which works on every token:
    what stands where in a picture or a text is no part of an embedding. Anything else is flattened.

    Args:
        value: ``(n, ...)`` as the layer was given it.
        layer: the layer.

    Returns:
        ``(n, dimensions)``.
    """
    if value.ndim > 2 and isinstance(layer, _CONVOLUTIONS):
        return value.flatten(2).mean(dim=2)
    if value.ndim > 2 and isinstance(layer, nn.Linear):
        return value.flatten(1, -2).mean(dim=1)
    return value.reshape(len(value), -1)


def to_float(tensor: Tensor) -> Tensor:
    """The values on the CPU in float32, without gradients."""
    return tensor.detach().to("cpu", torch.float32)
