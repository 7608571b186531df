"""What the field did to light, sharpness and noise, found without labels: reference images can then be shown alike.

An image's spectrum says how much contrast it has at each scale. The field's mean spectrum against the reference's is a
filter: less contrast, a blur, or another lens (after Yang and Soatto, "FDA: Fourier domain adaptation", CVPR 2020, who
swap amplitudes between single images; a mean leaves an image's own content alone). Noise cannot be filtered in, so it
is measured apart, and added.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from fieldrepair_plugin.repairable import blocks

_IMAGES = 1000
"""Images of each world that are looked at."""
_AT_A_TIME = 100
_LARGE_SCALE = 0.1
"""Frequencies (cycles per pixel) up to which noise is nothing beside what the image shows."""
_STRONGEST = 3.0
"""Most that a frequency is strengthened or weakened by."""
_MEDIAN_OF_NORMAL = 0.6745
"""Median of the absolute value of a standard normal number."""


@dataclass(frozen=True)
class FieldLook:
    """From how the reference looks to how the field looks. Pixels are 0..255."""

    reference_mean: Tensor
    """``(channels, 1, 1)``."""
    field_mean: Tensor
    """``(channels, 1, 1)``."""
    gain: Tensor
    """``(channels, height, width // 2 + 1)``, of each frequency."""
    noise: Tensor
    """``(channels, 1, 1)``, standard deviation of the noise to add."""

    @classmethod
    def of(cls, training: Tensor, field: Tensor, generator: torch.Generator) -> FieldLook:
        """Compare two worlds.

        Args:
            training: ``(r, channels, height, width)`` reference pixels.
            field: ``(n, channels, height, width)``.
            generator: which images, where there are many.
        """
        worlds = [part[torch.randperm(len(part), generator=generator)[:_IMAGES]] for part in (training, field)]
        means = [_mean_of(world, torch.clone).mean(dim=(1, 2), keepdim=True) for world in worlds]
        before, after = (_power(world, mean) for world, mean in zip(worlds, means, strict=True))
        noisy = [_mean_of(world, _noise) for world in worlds]
        height, width = training.shape[2:]
        large = _frequencies(height, width) <= _LARGE_SCALE
        contrast = (after[:, large].sum(dim=1) / before[:, large].sum(dim=1).clamp_min(1e-6)).view(-1, 1, 1)
        added = (noisy[1] - contrast * noisy[0]).clamp_min(0.0)
        gain = ((after - added * height * width).clamp_min(0.0) / before.clamp_min(1e-6)).sqrt()
        return cls(means[0], means[1], gain.clamp(1 / _STRONGEST, _STRONGEST), added.sqrt())

    def show(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Reference images as the field shows them, each somewhere on the way there.

        Args:
            images: ``(n, channels, height, width)`` pixels, float32.
            generator: the source of randomness.

        Returns:
            As many, pixels.
        """
        there = torch.rand(len(images), 1, 1, 1, generator=generator).mul(0.75).add(0.5).to(images.device)
        here = [part.to(images.device) for part in (self.reference_mean, self.field_mean, self.gain, self.noise)]
        reference_mean, field_mean, gain, noise = here
        spectrum = _spectrum(images - reference_mean) * gain**there
        shown = cast(Tensor, torch.fft.irfft2(spectrum, s=images.shape[2:])) + torch.lerp(
            reference_mean.expand(len(images), -1, 1, 1), field_mean.expand(len(images), -1, 1, 1), there
        )
        drawn = torch.randn(images.shape, generator=generator).to(images.device)
        return (shown + drawn * noise * there).clamp(0, 255)


def _mean_of(images: Tensor, measure: Callable[[Tensor], Tensor]) -> Tensor:
    """The mean over images of what is measured on each, a few at a time: photographs are large."""
    return torch.stack([measure(block.float()).sum(dim=0) for block in blocks(images, _AT_A_TIME)]).sum(dim=0) / len(
        images
    )


def _power(images: Tensor, mean: Tensor) -> Tensor:
    return _mean_of(images, lambda each: _spectrum(each - mean).abs().square())


def _spectrum(images: Tensor) -> Tensor:
    return cast(Tensor, torch.fft.rfft2(images))


def _frequencies(height: int, width: int) -> Tensor:
    """In cycles per pixel, of each place of a spectrum: ``(height, width // 2 + 1)``."""
    down, right = cast(Tensor, torch.fft.fftfreq(height)), cast(Tensor, torch.fft.rfftfreq(width))
    return torch.hypot(down.view(-1, 1), right.view(1, -1))


def _noise(images: Tensor) -> Tensor:
    """Variance of white noise, by the median of the finest diagonal wavelet coefficients (Donoho and Johnstone, 1994):
    what an image shows is in few of them, noise is in all. ``(n, channels, 1, 1)``."""
    height, width = (length - length % 2 for length in images.shape[2:])
    images = images[:, :, :height, :width]
    diagonal = (images[..., ::2, ::2] - images[..., ::2, 1::2] - images[..., 1::2, ::2] + images[..., 1::2, 1::2]) / 2
    medians = diagonal.abs().flatten(2).median(dim=2).values / _MEDIAN_OF_NORMAL
    return medians.square()[..., None, None]
