"""Which layers a module has, in the order in which they run: found by running it once with hooks on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

ACTIVATION_MODULES = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid,
    nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Softplus, nn.Softsign, nn.PReLU, nn.LogSigmoid, nn.Softmax,
)  # fmt: skip
RELUS = (nn.ReLU, nn.ReLU6)
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d)
WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
Weighted = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
_PASSING = (
    "View",
    "Reshape",
    "Unsafe",
    "Pool",
    "Dropout",
    "BatchNorm",
    "Mul",
    "Div",
    "Mean",
    "Squeeze",
    "Permute",
    "Transpose",
)
"""Steps of autograd between two layers that keep what lies between them linear in each input."""


@dataclass(frozen=True)
class Layout:
    """The layers of one module."""

    weighted: tuple[str, ...]
    """Linear layers and convolutions, in the order of use."""
    activations: tuple[str, ...]
    """Activation modules between layers, in the order of use; what follows the last weighted layer is the head's."""
    bare: tuple[str, ...]
    """Weighted layers whose outputs go into the next one with no activation between."""
    without_norm: tuple[str, ...]
    """Of activations and bare layers those without a norm: in front, or for a bare layer behind."""
    widths: dict[str, nn.Module]
    """For each of these a batch norm that fits."""
    dropouts: tuple[str, ...]
    """Dropout layers."""
    any_activation: bool
    """Whether any activation runs, also one that is no module: then the answer bends in some input."""
    first_weighted: bool
    """Whether a weighted layer is the first one with parameters."""


@dataclass(frozen=True)
class _Use:
    name: str
    part: nn.Module
    given: Tensor
    made: Tensor


def named(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every submodule with its dotted name, the module itself left out."""
    return ((name, part) for name, part in cast(Iterator[tuple[str, nn.Module]], module.named_modules()) if name)


def layout_of(module: nn.Module, example: Tensor) -> Layout:
    """Run the module once, in eval mode, and see.

    Args:
        module: left as it is.
        example: ``(n, *shape)``, as the module takes them.
    """
    uses = _uses(module, example)
    counts = {use.name: sum(other.name == use.name for other in uses) for use in uses}
    weighted = [use for use in uses if isinstance(use.part, WEIGHTED)]
    last = max((at for at, use in enumerate(uses) if isinstance(use.part, WEIGHTED)), default=-1)
    between = [
        use
        for use in uses[: max(last, 0)]
        # A softmax over other than rows is attention's, not an activation between layers.
        if isinstance(use.part, ACTIVATION_MODULES) and not (isinstance(use.part, nn.Softmax) and use.given.ndim != 2)
    ]
    norms = [use for use in uses if isinstance(use.part, NORMS)]
    bare = [
        before
        for before, after in pairwise(weighted)
        if counts[before.name] == 1 and _flows_on(before.made, after.given)
    ]
    unnormed = [use for use in between if not any(use.given is norm.made for norm in norms)]
    unnormed += [use for use in bare if not any(norm.given is use.made for norm in norms)]
    widths: dict[str, nn.Module] = {}
    for use in unnormed:
        tensor = use.made if isinstance(use.part, WEIGHTED) else use.given
        maker = {2: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}.get(tensor.ndim)
        if maker is not None and counts[use.name] == 1:
            widths[use.name] = maker(tensor.shape[1])
    parametric = [use for use in uses if any(True for _ in use.part.parameters(recurse=False))]
    return Layout(
        weighted=tuple(dict.fromkeys(use.name for use in weighted)),
        activations=tuple(dict.fromkeys(use.name for use in between)),
        bare=tuple(use.name for use in bare),
        without_norm=tuple(name for name in dict.fromkeys(use.name for use in unnormed) if name in widths),
        widths=widths,
        dropouts=tuple(name for name, part in named(module) if isinstance(part, DROPOUTS)),
        any_activation=bool(between) or len(bare) + 1 < len(weighted),
        first_weighted=bool(parametric) and isinstance(parametric[0].part, WEIGHTED),
    )


def _uses(module: nn.Module, example: Tensor) -> list[_Use]:
    uses: list[_Use] = []

    def note(name: str) -> Any:
        def hook(part: nn.Module, given: tuple[Any, ...], made: object) -> None:
            if given and isinstance(given[0], Tensor) and isinstance(made, Tensor):
                uses.append(_Use(name, part, given[0], made))

        return hook

    leaves = [(name, part) for name, part in named(module) if not any(True for _ in part.children())]
    modes = {part: part.training for part in module.modules()}
    hooks = [part.register_forward_hook(note(name)) for name, part in leaves]
    try:
        module.eval()
        with torch.enable_grad():  # the way from layer to layer is read from autograd
            module(example)
    finally:
        for hook in hooks:
            hook.remove()
        for part, training in modes.items():
            part.training = training
    return uses


def _flows_on(made: Tensor, given: Tensor) -> bool:
    """Whether a layer's output became the next one's input by steps that bend nothing."""
    node = given.grad_fn
    while node is not None:
        if node is made.grad_fn:
            return True
        if not any(word in type(node).__name__ for word in _PASSING):
            return False
        node = next((before for before, _ in node.next_functions if before is not None), None)
    return False
