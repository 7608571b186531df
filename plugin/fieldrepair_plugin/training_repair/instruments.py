"""Instruments on a network in training: what the first batch of an epoch does to gradients, and to units."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from fieldrepair_plugin.training_repair.layout import RELUS, WEIGHTED, named


@dataclass(frozen=True)
class Reading:
    """What the instruments said at one batch."""

    zero_share: float
    """Share of exactly zero numbers among the gradients of all weights and biases, in 0..1."""
    first_norm: float
    """Euclidean norm of the gradient of the first layer's weights, in the order of definition."""
    last_norm: float
    """The same of the last layer's."""
    finite: bool
    """No NaN and no infinity in gradients and weights."""
    dead_units: dict[str, float]
    """ReLU layer -> share of its units that gave 0 for every input of the batch, in 0..1."""

    @property
    def ratio(self) -> float:
        """First over last norm; 0 where there is no gradient at all: it has vanished on its way."""
        if self.last_norm > 0:
            return self.first_norm / self.last_norm
        return 0.0 if self.first_norm == 0 else math.inf

    @property
    def has_relu(self) -> bool:
        """Whether there is a unit that can die."""
        return bool(self.dead_units)


class Instruments:
    """Hooks on a module that listen to one batch at a time; off, they cost nothing.

    Args:
        module: it is watched, and not changed.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._dead: dict[str, float] = {}
        self._gradients: dict[int, Tensor] = {}
        self._weights = [part.weight for _, part in named(module) if isinstance(part, WEIGHTED)] or [
            part for part in module.parameters() if part.ndim > 1
        ]
        if isinstance(module, WEIGHTED):
            self._weights = [module.weight]

    @contextmanager
    def listening(self) -> Generator[None]:
        """Listen to what passes forward and backward inside the block."""
        self._dead.clear()
        self._gradients.clear()
        hooks: list[Any] = [
            part.register_forward_hook(self._units(name))
            for name, part in named(self._module)
            if isinstance(part, RELUS)
        ]
        hooks += [
            parameter.register_hook(self._gradient(id(parameter)))
            for parameter in self._module.parameters()
            if parameter.requires_grad
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def read(self) -> Reading:
        """What passed while listening."""
        gradients = list(self._gradients.values())
        size = sum(each.numel() for each in gradients)
        zeros = size - sum(int(each.count_nonzero()) for each in gradients)
        norms = [_length(self._gradients[id(each)]) for each in self._weights if id(each) in self._gradients]
        sums = [float(each.sum()) for each in gradients] + [
            float(each.detach().sum()) for each in self._module.parameters()
        ]
        return Reading(
            zero_share=zeros / size if size else 0.0,
            first_norm=norms[0] if norms else 0.0,
            last_norm=norms[-1] if norms else 0.0,
            finite=all(math.isfinite(each) for each in sums),
            dead_units=dict(self._dead),
        )

    def _units(self, name: str) -> Callable[..., None]:
        def hook(_: nn.Module, _given: object, made: object) -> None:
            outputs = cast(Tensor, made).detach()
            if outputs.ndim >= 2:
                # A unit is a column of rows, or a channel of images: over all else it has to stay silent.
                silent = (outputs.transpose(0, 1).flatten(1) == 0).all(dim=1)
                self._dead[name] = float(silent.float().mean())

        return hook

    def _gradient(self, key: int) -> Callable[[Tensor], None]:
        def hook(gradient: Tensor) -> None:
            self._gradients[key] = gradient.detach().clone()

        return hook


def _length(gradient: Tensor) -> float:
    return float(gradient.square().sum().sqrt())
