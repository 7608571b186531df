"""Counts inputs that pass forward and backward through a network, also through copies of it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class PassCount:
    """Inputs that passed so far."""

    forward: int = 0
    backward: int = 0


@contextmanager
def counted_passes(network: nn.Module) -> Generator[PassCount]:
    """Count inside the block.

    The engine works on deep copies of the network. A copy takes hooks along, and a plain function is not itself copied,
    so all copies count into one place.
    """
    count = PassCount()

    def after_forward(_module: nn.Module, _arguments: object, answer: object) -> None:
        if not isinstance(answer, Tensor):
            return
        size = len(answer)
        count.forward += size
        if torch.is_grad_enabled() and answer.requires_grad:

            def after_backward(_gradient: Tensor) -> None:
                count.backward += size

            answer.register_hook(after_backward)

    handle = network.register_forward_hook(after_forward)
    try:
        yield count
    finally:
        handle.remove()
