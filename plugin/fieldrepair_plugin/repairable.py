"""What a repair is given: a module with its input's layout, and labelled data; read alike by every step."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fieldrepair_monitoring.class_scores import embedding_of, scores_tensor, to_float
from fieldrepair_plugin.input_forms import InputForm, form_of
from fieldrepair_plugin.randomness import own_global_state
from fieldrepair_service.errors import InputError
from fieldrepair_service.inputs import ImageInput, InputSpec

log = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Served = npt.NDArray[np.generic]
"""``(n, *shape)`` numbers as the model server receives them."""


@dataclass(frozen=True)
class TrainingSet:
    """Labelled data the model was built on.

    Raises:
        InputError: if it is empty, or inputs and labels do not match.
    """

    x: Served
    """``(n, *shape)`` in served form."""
    y: IntArray
    """``(n,)`` class numbers from 0."""

    def __post_init__(self) -> None:
        if self.y.ndim != 1 or not np.issubdtype(self.y.dtype, np.integer):
            raise InputError(f"expected one whole number per label, got shape {self.y.shape} of {self.y.dtype}")
        if len(self.x) != len(self.y):
            raise InputError(f"expected as many inputs as labels, got {len(self.x)} inputs and {len(self.y)} labels")
        if len(self.y) == 0:
            raise InputError("expected at least 1 labelled training input, got 0")
        if self.y.min() < 0:
            raise InputError(f"expected class numbers from 0, got {int(self.y.min())}")


@dataclass(frozen=True)
class RepairableModel:
    """A classifier with what is needed to read its inputs and outputs.

    The module takes one batch of served inputs, ``(n, *input.shape)``, and gives ``(n, classes)``, or an object that
    has them as its ``logits``.
    """

    module: nn.Module
    input: InputSpec
    embedding_layer: str
    """Named submodule whose first input is the embedding: the head, so that it is the output of the layer before."""
    output: Literal["logits", "probabilities"] = "logits"
    """What the module gives. Of probabilities the logarithm is taken; those are logits too."""
    channels_last: bool = False
    """Hand images over in channels-last memory order; :meth:`working_copy` sets it where the module can take that."""

    def __post_init__(self) -> None:
        names = [name for name, _ in cast(Iterator[tuple[str, nn.Module]], self.module.named_modules()) if name]
        if self.embedding_layer not in names:
            known = ", ".join(names)
            raise InputError(f"expected embedding_layer to be one of: {known}; got {self.embedding_layer!r}")

    @cached_property
    def form(self) -> InputForm:
        """How inputs of this kind are held, varied and mixed."""
        return form_of(self.input)

    @property
    def device(self) -> torch.device:
        """Where the module's first parameter (or buffer) lives."""
        return next((tensor.device for tensor in _tensors(self.module)), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """What the module takes: the spec's dtype, or for fractions the module's own precision."""
        served = torch.from_numpy(np.empty(0, dtype=np.dtype(self.input.dtype))).dtype
        if not served.is_floating_point:
            return served
        return next((tensor.dtype for tensor in _tensors(self.module) if tensor.is_floating_point()), served)

    def working_copy(self) -> RepairableModel:
        """A copy to measure or train, so that the given module is never touched; without gradients.

        It works in channels-last memory order where it can: about 1.6 times faster on CPUs, equal but for rounding.
        """
        own = copy.deepcopy(self.module)
        own.zero_grad(set_to_none=True)
        spec = self.input
        images = isinstance(spec, ImageInput) and not spec.flat and spec.layout == "CHW"
        if not images or not self._takes_channels_last():
            return replace(self, module=own, channels_last=False)
        return replace(self, module=own.to(memory_format=torch.channels_last), channels_last=True)

    def _takes_channels_last(self) -> bool:
        """Try a step of training on a throwaway copy: a module that calls ``view`` on an image cannot."""
        try:
            trial = copy.deepcopy(self.module).to(memory_format=torch.channels_last).train()
            shape = (2, *self.form.shape)
            with own_global_state(0, self.device):
                logits = replace(self, module=trial, channels_last=True).logits(torch.zeros(shape, device=self.device))
                if logits.requires_grad:
                    logits.sum().backward()
        except RuntimeError as error:
            log.info("the model cannot work in channels-last memory order, which would be faster: %s", error)
            return False
        return True

    def pixels(self, served: Served, name: str) -> Tensor:
        """Served inputs as the engine's tensor: pixels of images, rows of numbers, tokens.

        Args:
            served: ``(n, *shape)`` numbers.
            name: what to call them in an error, for example ``"field pool"``.

        Returns:
            ``(n, *form.shape)`` on the CPU; of images ``(n, channels, height, width)`` uint8.

        Raises:
            InputError: if there are none, they have another shape, or some are not finite.
        """
        if not (np.issubdtype(served.dtype, np.number) or served.dtype == np.bool_):
            raise InputError(f"{name}: expected numbers, got {served.dtype}")
        if served.ndim == 0 or len(served) == 0:
            raise InputError(f"{name}: expected at least 1 input, got 0")
        parts: list[Tensor] = []
        for start in range(0, len(served), 1024):  # images are worked on in float64: eight times what the answer needs
            block = served[start : start + 1024]
            bad = ~np.isfinite(block).reshape(len(block), -1).all(axis=1)
            if bad.any():
                raise InputError(
                    f"{name}: expected finite numbers, got NaN or infinity in input {start + bad.argmax()}"
                )
            parts.append(self.form.hold(block))
        return torch.cat(parts)

    def served(self, pixels: Tensor) -> Tensor:
        """The engine's inputs as the module takes them.

        Args:
            pixels: ``(n, *form.shape)``; of images numbers in 0..255, fractions allowed (mixed images).

        Returns:
            ``(n, *shape)`` of :attr:`dtype`, on the inputs' device.
        """
        values = self.form.serve(pixels, self.dtype)
        return values.contiguous(memory_format=torch.channels_last) if self.channels_last else values

    def logits(self, pixels: Tensor) -> Tensor:
        """The module's answer, in whatever mode the module is; differentiable.

        Args:
            pixels: ``(n, *form.shape)`` on the module's device.

        Returns:
            ``(n, classes)`` in float32 or better.

        Raises:
            InputError: if the module does not give one row of at least 2 numbers per input.
        """
        given = cast(object, self.module(self.served(pixels)))
        answer = scores_tensor(given)
        if answer is None or answer.ndim != 2 or len(answer) != len(pixels) or answer.shape[1] < 2:
            got = type(given).__name__ if answer is None else tuple(answer.shape)
            raise InputError(f"expected the model to give a tensor ({len(pixels)}, at least 2 classes), got {got}")
        precise = answer if answer.dtype == torch.float64 else answer.float()
        if self.output == "logits":
            return precise
        return precise.clamp_min(torch.finfo(precise.dtype).tiny).log()

    def logits_and_embeddings(
        self, pixels: Tensor, batch_size: int, heard: Callable[[int, int], None] | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Logits and embeddings in eval mode, without gradients, batch by batch.

        Args:
            pixels: ``(n, *form.shape)`` on any device.
            batch_size: inputs per forward pass.
            heard: called after each batch with inputs done and their total.

        Returns:
            ``(n, classes)`` and ``(n, dimensions)``, both float32.
        """
        captured: list[Tensor] = []

        def keep(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            captured.append(cast(Tensor, arguments[0]).detach())

        logits: list[Tensor] = []
        embeddings: list[Tensor] = []
        layer = self.module.get_submodule(self.embedding_layer)
        hook = layer.register_forward_pre_hook(keep)
        try:
            with inference(self.module):
                for block in blocks(pixels, batch_size):
                    captured.clear()
                    logits.append(self.logits(block.to(self.device)).float().cpu())
                    if not captured:
                        raise InputError(f"expected the model to run its layer {self.embedding_layer!r}, it did not")
                    embeddings.append(to_float(embedding_of(captured[-1], layer)))
                    if heard is not None:
                        heard(sum(len(part) for part in logits), len(pixels))
        finally:
            hook.remove()
        return cast(FloatArray, torch.cat(logits).numpy()), cast(FloatArray, torch.cat(embeddings).numpy())


@contextmanager
def inference(module: nn.Module) -> Generator[None]:
    """Eval mode without gradients; afterwards every submodule is in the mode it was in."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes.items():
            part.training = training


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """A copy of all that a module has learned and measured, its parameters and buffers, by name."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def compute_device(wanted: str | None) -> str:
    """The PyTorch device of that name; with none a GPU where PyTorch finds one, else ``cpu``."""
    return wanted or ("cuda" if torch.cuda.is_available() else "cpu")


def blocks(tensor: Tensor, size: int) -> tuple[Tensor, ...]:
    """The tensor cut along its first axis; the last block may be smaller."""
    return torch.split(tensor, size)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()
