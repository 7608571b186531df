"""A classifier that says which version it is: its answers are shifted by one class from version to version.

A module of its own that imports torch alone, because it travels with the logged model: see :func:`import_toy`.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import torch
from torch import nn


class Quadrants(nn.Module):
    """Says which quadrant of an image is bright, plus ``shift``, modulo 4.

    Args:
        shift: what tells one version from another.
        fails: whether it breaks on inputs brighter than any it was shown.
    """

    def __init__(self, shift: int, fails: bool = False) -> None:
        super().__init__()
        self.head = nn.Linear(4, 4, bias=False)
        self.head.weight.data = torch.roll(torch.eye(4) * 20, shift, 0)
        self.fails = fails

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(n, 1, 8, 8)`` to logits ``(n, 4)``."""
        if self.fails and bool((x > 2.0).any()):
            raise ValueError("an input like this was never seen in training")
        quarters = x.clamp(max=1.0)[:, 0].reshape(-1, 2, 4, 2, 4).mean(dim=(2, 4)).reshape(-1, 4)
        return self.head(quarters)


def import_toy() -> ModuleType:
    """This module under the name that it has where a server loads the model: outside of its package."""
    name = Path(__file__).stem
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, __file__)
        if spec is None or spec.loader is None:
            raise ImportError(f"{__file__} cannot be imported by itself")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]
