"""Turns a module into the one a plan asks for: other activations, added batch norms, new weights, scaled inputs.

Activations that are modules are replaced where they stand; those that are calls (``F.relu``) after tracing with
``torch.fx``. Names and weights of all other layers stay, so that what refers to a layer by name still finds it.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from fieldrepair_plugin.randomness import own_global_state
from fieldrepair_plugin.repairable import inference
from fieldrepair_plugin.training_repair.layout import (
    ACTIVATION_MODULES,
    DROPOUTS,
    WEIGHTED,
    Layout,
    Weighted,
    layout_of,
    named,
)
from fieldrepair_plugin.training_repair.plan import TrainingPlan
from fieldrepair_service.errors import InputError

log = logging.getLogger(__name__)

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.1),
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
}
_CALLS: dict[object, str] = {
    torch.relu: "relu",
    torch.tanh: "tanh",
    torch.sigmoid: "sigmoid",
    F.relu: "relu",
    F.tanh: "tanh",
    F.sigmoid: "sigmoid",
    F.leaky_relu: "leaky_relu",
    F.elu: "elu",
    F.selu: "selu",
    F.gelu: "gelu",
    F.silu: "silu",
    F.softmax: "softmax",
    torch.softmax: "softmax",
}
_METHODS = ("relu", "tanh", "sigmoid", "softmax")


@dataclass(frozen=True)
class Network:
    """A module with two of its inputs, and what of it a plan can change."""

    module: nn.Module
    example: Tensor
    """``(2, *shape)``, as the module takes them."""

    @cached_property
    def open(self) -> nn.Module:
        """A copy whose activations are all modules, so that they can be replaced; the copy as it is if it has none."""
        own = copy.deepcopy(self.module)
        if any(isinstance(part, ACTIVATION_MODULES) for _, part in named(own)):
            return own
        traced = _with_activation_modules(own, self.example)
        return own if traced is None else traced

    @cached_property
    def layout(self) -> Layout:
        """The layers of :attr:`open`."""
        return layout_of(self.open, self.example)

    @property
    def can_activate(self) -> bool:
        """Whether there is an activation to replace, or a place between two layers that lacks one."""
        return bool(self.layout.activations or self.layout.bare)

    @property
    def can_norm(self) -> bool:
        """Whether a batch norm can be added somewhere."""
        return bool(self.layout.without_norm)

    @cached_property
    def scalable(self) -> bool:
        """Whether the first layer can take over a scaling of the inputs."""
        if not self.example.is_floating_point():
            return False
        try:
            scaling = Scaling(torch.zeros(()), torch.tensor(2.0))
            scaling.fold_into(copy.deepcopy(self.module), self.example)
        except InputError as error:
            log.info("inputs cannot be scaled: %s", error)
            return False
        return True

    def by(self, plan: TrainingPlan, seed: int) -> nn.Module:
        """A new module as the plan says, in training mode; the given one is not changed.

        Args:
            plan: its ``activation``, ``norm``, ``dropout`` and ``initialisation`` are followed.
            seed: of weights that are drawn.
        """
        activate = plan.activation != "keep" and self.can_activate
        norm = plan.norm == "batch" and self.can_norm
        own = copy.deepcopy(self.open if activate or norm else self.module)
        if activate or norm:
            for name in self.layout.activations:
                given = own.get_submodule(name)
                own.set_submodule(
                    name, _chain(*self._norm(name, plan), ACTIVATIONS[plan.activation]() if activate else given)
                )
            for name in self.layout.bare:
                added = [*self._norm(name, plan), *([ACTIVATIONS[plan.activation]()] if activate else [])]
                own.set_submodule(name, _chain(own.get_submodule(name), *added))
        if plan.dropout is not None:
            for _, part in named(own):
                if isinstance(part, DROPOUTS):
                    part.p = plan.dropout
        own.to(next((each.device for each in self.module.parameters()), torch.device("cpu")))
        if plan.initialisation != "keep":
            with own_global_state(seed, self.example.device):
                initialise(own, plan.initialisation)
        own.zero_grad(set_to_none=True)
        return own.train()

    def _norm(self, name: str, plan: TrainingPlan) -> list[nn.Module]:
        wanted = plan.norm == "batch" and name in self.layout.without_norm
        return [copy.deepcopy(self.layout.widths[name])] if wanted else []


@dataclass(frozen=True)
class Scaling:
    """Inputs minus ``centre``, divided by ``scale``."""

    centre: Tensor
    scale: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Scaling:
        """What brings these inputs to the scale of 1.

        Rows of numbers are brought to mean 0 and deviation 1, column by column. All else is divided by its largest
        size: then zero stays zero, which a convolution's padding relies on.
        """
        if x.ndim == 2 and not _looks_like_pixels(x):
            spread = x.std(dim=0)
            return cls(x.mean(dim=0), torch.where(spread > 0, spread, torch.ones_like(spread)))
        return cls(torch.zeros((), dtype=x.dtype), x.abs().max().clamp_min(torch.finfo(x.dtype).tiny))

    def apply(self, x: Tensor) -> Tensor:
        """Scaled inputs."""
        return (x - self.centre) / self.scale

    @torch.no_grad()
    def fold_into(self, module: nn.Module, example: Tensor) -> None:
        """Let the first layer take the scaling over: the module then gives for inputs what it gave for scaled ones.

        Raises:
            InputError: if it cannot, because the first layer with weights is of another kind, or is not first.
        """
        modes = {part: part.training for part in module.modules()}
        module.eval()
        wanted = module(self.apply(example))
        layers = layout_of(module, example)
        if not layers.first_weighted:
            raise InputError("the model's first layer with weights is neither linear nor a convolution")
        first = cast(Weighted, module.get_submodule(layers.weighted[0]))
        if isinstance(first, nn.Linear) and self.scale.ndim == 1:
            weight = first.weight / self.scale
            shift = weight @ self.centre
            if bool(self.centre.any()):
                if cast(Tensor | None, first.bias) is None:
                    raise InputError("the model's first layer has no bias that could take over the inputs' mean")
                first.bias.sub_(shift)
            first.weight.copy_(weight)
        elif self.scale.ndim == 0 and not bool(self.centre.any()):
            first.weight.div_(self.scale)
        else:
            raise InputError("the model's first layer cannot take over a scaling by column")
        if not torch.allclose(module(example), wanted, rtol=1e-3, atol=1e-4):
            raise InputError("something before the model's first layer depends on the inputs' scale")
        for part, training in modes.items():
            part.training = training


def initialise(module: nn.Module, rule: str) -> None:
    """Draw all weights anew: each layer's own way, and where a rule is named linear and convolution layers by it."""
    for part in module.modules():
        reset = getattr(part, "reset_parameters", None)
        if callable(reset):
            reset()
    if rule == "default":
        return
    draw: dict[str, Callable[[Tensor], object]] = {
        "he": lambda weight: nn.init.kaiming_uniform_(weight, nonlinearity="relu"),
        "glorot": nn.init.xavier_uniform_,
        "orthogonal": nn.init.orthogonal_,
    }
    for part in module.modules():
        if isinstance(part, WEIGHTED):
            draw[rule](part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def gives_probabilities(outputs: Tensor) -> bool:
    """Whether rows ``(n, classes)`` look like probabilities: none negative, each summing to 1."""
    rows = outputs.detach().double()
    return bool(rows.min() >= -1e-6) and bool(((rows.sum(dim=1) - 1).abs() < 1e-3).all())


def _chain(*parts: nn.Module) -> nn.Module:
    return parts[0] if len(parts) == 1 else nn.Sequential(*parts)


def _with_activation_modules(module: nn.Module, example: Tensor) -> nn.Module | None:
    """The module traced, each call of an activation turned into a module; none if it cannot be traced or has none."""
    try:
        traced = fx.symbolic_trace(module)
        with inference(module), inference(traced):
            same = torch.equal(module(example), traced(example))
    except Exception as error:  # noqa: BLE001 - tracing runs the model's own code on stand-ins: anything may come of it
        log.info("activations cannot be replaced, the model cannot be traced: %s", error)
        return None
    if not same:
        return None
    replaced = 0
    makers: dict[str, Callable[[], nn.Module]] = {
        **ACTIVATIONS, "sigmoid": nn.Sigmoid, "selu": nn.SELU, "silu": nn.SiLU, "softmax": lambda: nn.Softmax(dim=1),
    }  # fmt: skip
    for node in list(traced.graph.nodes):
        word = _CALLS.get(node.target) if node.op == "call_function" else None
        if node.op == "call_method" and node.target in _METHODS:
            word = str(node.target)
        if word is None or not node.args or not isinstance(node.args[0], fx.Node):
            continue
        name = f"activation_{replaced}"
        traced.add_submodule(name, makers[word]())
        with traced.graph.inserting_after(node):
            new = traced.graph.call_module(name, (node.args[0],))
        node.replace_all_uses_with(new)
        traced.graph.erase_node(node)
        replaced += 1
    if not replaced:
        return None
    traced.recompile()
    with inference(module), inference(traced):
        if not torch.allclose(module(example), traced(example), atol=1e-5):
            log.info("activations cannot be replaced: the traced model answers otherwise")
            return None
    return traced


def _looks_like_pixels(x: Tensor) -> bool:
    """Whole numbers from 0 to at most 255 in every column: a flattened image, whose columns share one scale."""
    return bool(x.min() >= 0) and 1 < float(x.max()) <= 255 and torch.equal(x.round(), x)
