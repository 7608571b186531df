"""Keep as much of the old world as was asked for, after a training that did not look at that itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from torch import nn

from fieldrepair_plugin.interpolation import KeepReference, interpolate
from fieldrepair_plugin.training import RepairResult


def keep_reference(
    champion: nn.Module, result: RepairResult, keep: Literal["strict", "balanced", "off"]
) -> RepairResult:
    """The result with its weights on the way from the champion's to the trained ones.

    Args:
        champion: the module that was repaired; it is not changed.
        result: of the training, with the trained weights.
        keep: how far to go; see :class:`fieldrepair_plugin.interpolation.KeepReference`.

    Returns:
        The result itself for ``off``; else a copy with another module.
    """
    weight = KeepReference(keep).weight
    return result if weight == 1.0 else replace(result, module=interpolate(champion, result.module, weight))
