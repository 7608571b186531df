"""What the engine does with inputs of each kind: hold them as one tensor, vary them, mix them, serve them."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fieldrepair_plugin.augment import augmix_copies
from fieldrepair_plugin.recipe import HybridSettings
from fieldrepair_service.errors import InputError
from fieldrepair_service.inputs import ImageInput, InputSpec, TabularInput, TextInput

_STEP_SHARE = 1.0 / 30.0
"""What a step of severity adds to the share of dropped features or tokens, and to the jitter: a tenth at severity 3."""


class InputForm(Protocol):
    """One kind of input as the engine handles it. All randomness comes from the given CPU generator."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input in the engine's tensor."""
        ...

    def hold(self, served: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Tensor:
        """Served inputs ``(n, *served shape)``, finite, as the engine's tensor ``(n, *shape)`` on the CPU.

        Raises:
            InputError: if they have another shape, or values that this kind does not have.
        """
        ...

    def serve(self, inputs: Tensor, dtype: torch.dtype) -> Tensor:
        """The engine's tensor (fractions allowed where :meth:`mix` makes them) as the module takes it."""
        ...

    def copies(self, inputs: Tensor, settings: HybridSettings, generator: torch.Generator) -> Tensor:
        """``settings.copies`` varied copies that a person would give the same label: ``(copies, n, *shape)``."""
        ...

    def mix(self, inputs: Tensor, partners: Tensor, weight: float, generator: torch.Generator) -> Tensor:
        """Inputs of which a share ``weight`` is their own and the rest their partner's: ``(n, *shape)``."""
        ...


class ImageForm:
    """Pixels ``(channels, height, width)`` in uint8, varied by AugMix."""

    def __init__(self, spec: ImageInput) -> None:
        self._spec = spec
        self.shape = (spec.channels, spec.height, spec.width)

    def hold(self, served: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Tensor:
        """See :class:`InputForm`."""
        return torch.from_numpy(self._spec.to_pixels(served))

    def serve(self, inputs: Tensor, dtype: torch.dtype) -> Tensor:
        """See :class:`InputForm`; equals ``ImageInput.from_pixels`` (in the module's own precision)."""
        spec = self._spec
        # Whole pixels exactly as served; of varied images the float32 they are in is enough, and half the time.
        precise = torch.float32 if inputs.dtype == torch.float32 else torch.float64
        mean = torch.tensor(spec.mean, dtype=precise, device=inputs.device).reshape(1, -1, 1, 1)
        std = torch.tensor(spec.std, dtype=precise, device=inputs.device).reshape(1, -1, 1, 1)
        values = (inputs.to(precise) / 255.0 - mean) / std
        if spec.layout == "HWC":
            values = values.permute(0, 2, 3, 1)
        return values.reshape(-1, *spec.shape).to(dtype)

    def copies(self, inputs: Tensor, settings: HybridSettings, generator: torch.Generator) -> Tensor:
        """See :class:`InputForm`."""
        return augmix_copies(inputs, settings.copies, generator, severity=settings.severity)

    def mix(self, inputs: Tensor, partners: Tensor, weight: float, generator: torch.Generator) -> Tensor:
        """See :class:`InputForm`; pixel by pixel, in fractions."""
        return torch.lerp(partners.float(), inputs.float(), weight)


class TabularForm:
    """Rows of numbers, varied by jitter and by feature dropout.

    Dropout puts in a feature's place its value in another row of the batch: a value that does occur, as in SCARF (Bahri
    et al., ICLR 2022), where zero or the mean may be none. Jitter is normal, in units of the feature's standard
    deviation over the batch; categories and whole-number types are dropped but not jittered.
    """

    def __init__(self, spec: TabularInput) -> None:
        self._spec = spec
        self.shape = spec.shape
        whole = np.dtype(spec.dtype).kind in "iub"
        self._continuous = torch.tensor([not whole and name not in spec.categories for name in spec.features])

    def hold(self, served: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Tensor:
        """See :class:`InputForm`."""
        _check_shape(served, self.shape)
        return torch.from_numpy(np.ascontiguousarray(served, dtype=np.float64))

    def serve(self, inputs: Tensor, dtype: torch.dtype) -> Tensor:
        """See :class:`InputForm`."""
        return inputs.to(dtype)

    def copies(self, inputs: Tensor, settings: HybridSettings, generator: torch.Generator) -> Tensor:
        """See :class:`InputForm`."""
        share, count = settings.severity * _STEP_SHARE, len(inputs)
        shape = (settings.copies, count, *self.shape)
        spread = inputs.std(dim=0, correction=0) * self._continuous.to(inputs.device)
        noise = torch.randn(shape, generator=generator, dtype=torch.float64).to(inputs)
        varied = inputs + share * spread * noise
        dropped = (torch.rand(shape, generator=generator) < share).to(inputs.device)
        others = torch.randint(count, shape, generator=generator).to(inputs.device)
        return torch.where(dropped, inputs.expand(shape).gather(1, others), varied)

    def mix(self, inputs: Tensor, partners: Tensor, weight: float, generator: torch.Generator) -> Tensor:
        """See :class:`InputForm`: continuous features in fractions, each category whole from one or the other."""
        own = (torch.rand(inputs.shape, generator=generator) < weight).to(inputs.device)
        whole = torch.where(own, inputs, partners)
        return torch.where(self._continuous.to(inputs.device), torch.lerp(partners, inputs, weight), whole)


class TextForm:
    """Token numbers, varied by token dropout: a dropped token becomes padding; the last one that is left stays."""

    def __init__(self, spec: TextInput) -> None:
        self._spec = spec
        self.shape = spec.shape

    def hold(self, served: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Tensor:
        """See :class:`InputForm`."""
        _check_shape(served, self.shape)
        tokens = served.astype(np.int64)
        if not np.array_equal(tokens, served):
            raise InputError("expected tokens to be whole numbers, got fractions")
        return torch.from_numpy(tokens)

    def serve(self, inputs: Tensor, dtype: torch.dtype) -> Tensor:
        """See :class:`InputForm`."""
        return inputs.to(dtype)

    def copies(self, inputs: Tensor, settings: HybridSettings, generator: torch.Generator) -> Tensor:
        """See :class:`InputForm`."""
        shape = (settings.copies, len(inputs), *self.shape)
        chance = torch.rand(shape, generator=generator).to(inputs.device)
        # Of each copy the token with the highest draw stays: a text without a token says nothing.
        is_token = inputs != self._spec.padding
        last = torch.where(is_token, chance, -1.0).argmax(dim=-1, keepdim=True)
        dropped = (chance < settings.severity * _STEP_SHARE).scatter(-1, last, value=False)
        return torch.where(dropped, self._spec.padding, inputs)

    def mix(self, inputs: Tensor, partners: Tensor, weight: float, generator: torch.Generator) -> Tensor:
        """See :class:`InputForm`: token by token from one or the other; tokens have no fractions."""
        own = (torch.rand(inputs.shape, generator=generator) < weight).to(inputs.device)
        return torch.where(own, inputs, partners)


def form_of(spec: InputSpec) -> InputForm:
    """How the engine handles inputs of this layout."""
    if isinstance(spec, ImageInput):
        return ImageForm(spec)
    return TabularForm(spec) if isinstance(spec, TabularInput) else TextForm(spec)


def _check_shape(served: np.ndarray[tuple[int, ...], np.dtype[np.generic]], shape: tuple[int, ...]) -> None:
    if served.ndim == 0 or served.shape[1:] != shape:
        raise InputError(f"expected instances of shape {shape}, got an array of shape {served.shape}")
