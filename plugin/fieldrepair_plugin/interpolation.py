"""Between the old weights and the repaired ones: what the field gains, without giving up what the model knew.

Fine-tuning on a shifted field moves a network away from its old world a little, even when that world is replayed. The
straight line between the two sets of weights stays good in both worlds (Wortsman et al., "Robust fine-tuning of
zero-shot models", CVPR 2022, WiSE-FT); its middle is the authors' choice where no data is set aside to tune it, and
none is here: the validation set is for the verdict alone.
"""

from __future__ import annotations

import copy
from enum import Enum

import torch
from torch import nn

from fieldrepair_service.errors import InputError


class KeepReference(str, Enum):
    """How much of the old world a repair must keep: which world matters is the user's choice."""

    STRICT = "strict"
    """Halfway: the old accuracy is to stay; the acceptance test's margin of one point is within reach."""
    BALANCED = "balanced"
    """Three quarters of the way: more of the field, a little less of the old world."""
    OFF = "off"
    """The repaired weights as they are: only the field matters."""

    @property
    def weight(self) -> float:
        """How far to go from the old weights (0) to the repaired ones (1)."""
        return {"strict": 0.5, "balanced": 0.75, "off": 1.0}[self.value]


def interpolate(champion: nn.Module, repaired: nn.Module, weight: float) -> nn.Module:
    """A network on the straight line between two networks of one architecture.

    Args:
        champion: the old network; it is not changed.
        repaired: the fine-tuned copy of it; it is not changed.
        weight: 0 gives the champion, 1 the repaired network.

    Returns:
        A new network in evaluation mode. Floating-point parameters and buffers (batch-norm statistics among them) are
        interpolated; whole numbers (such as a count of batches) are the repaired network's.

    Raises:
        InputError: if the weight is outside 0..1, or the networks differ in names or shapes.
    """
    if not 0.0 <= weight <= 1.0:
        raise InputError(f"the interpolation weight must be in 0..1, got {weight}")
    old, new = champion.state_dict(), repaired.state_dict()
    unlike = sorted(name for name in old.keys() | new.keys() if name not in old or name not in new)
    unlike += sorted(name for name in old.keys() & new.keys() if old[name].shape != new[name].shape)
    if unlike:
        raise InputError(f"expected two networks of one architecture; these entries differ: {', '.join(unlike[:5])}")
    result = copy.deepcopy(repaired)
    result.load_state_dict(
        {
            name: torch.lerp(old[name].to(value.device), value, weight) if value.is_floating_point() else value
            for name, value in new.items()
        }
    )
    return result.eval()
