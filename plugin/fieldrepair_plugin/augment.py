"""AugMix copies of many images at once: each image has a chain of its own, and alike operations are done together."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fieldrepair_plugin.affine import seen_through

_LONGEST = 3
"""Operations in a chain, at most; at least one."""
_LEVELS = 10
"""Strengths that an operation comes in; AugMix draws from the weakest ones, as many as its severity."""

Operation = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Images ``(n, channels, height, width)`` uint8, the level of each in 0..9, and a sign of each (-1 or 1)."""
Row = tuple[Tensor | float, Tensor | float, Tensor | float]


def augmix_copies(pixels: Tensor, copies: int, generator: torch.Generator, *, severity: int) -> Tensor:
    """Augmented copies of images, as the paper makes them (Hendrycks et al., ICLR 2020).

    One chain (mixture width 1) of 1 to 3 of :data:`OPERATIONS`, mixed with the image by a weight from Beta(1, 1), in
    the strengths of torchvision's ``AugMix(all_ops=False)``. That one draws a chain per call; here every copy of every
    image has a chain of its own, and what many have at one place of their chains is done for all of them at once.

    Args:
        pixels: ``(n, 1 or 3, height, width)`` uint8.
        copies: copies per image.
        generator: the source of randomness, on the CPU; torch's global generators are neither read nor changed.
        severity: AugMix severity, 1..10.

    Returns:
        ``(copies, n, channels, height, width)`` uint8 on the same device.
    """
    images = pixels.repeat(copies, 1, 1, 1)
    count, device = len(images), pixels.device
    depths = torch.randint(1, _LONGEST + 1, (count,), generator=generator)
    chosen = torch.randint(len(OPERATIONS), (_LONGEST, count), generator=generator)
    levels = torch.randint(severity, (_LONGEST, count), generator=generator)
    signs = 2 * torch.randint(2, (_LONGEST, count), generator=generator) - 1
    weights = torch.rand(count, generator=generator).view(-1, 1, 1, 1).to(device)
    varied = images.clone()
    for place in range(_LONGEST):
        for number, operation in enumerate(OPERATIONS.values()):
            which = torch.nonzero((chosen[place] == number) & (depths > place)).flatten()
            if len(which):
                level, sign = levels[place, which].to(device), signs[place, which].to(device)
                which = which.to(device)
                varied[which] = operation(varied[which], level, sign)
    mixed = torch.lerp(varied.float(), images.float(), weights)
    return mixed.to(torch.uint8).reshape(copies, *pixels.shape)


def _strength(level: Tensor, first: float, last: float) -> Tensor:
    return first + (last - first) * level / (_LEVELS - 1)


def _shear_x(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    slope = sign * _strength(level, 0.0, 0.3)
    return _moved(images, x=(1.0, slope, slope * images.shape[2] / 2))  # the upper left corner stays where it is


def _shear_y(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    slope = sign * _strength(level, 0.0, 0.3)
    return _moved(images, y=(slope, 1.0, slope * images.shape[3] / 2))


def _translate_x(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    return _moved(images, x=(1.0, 0.0, -(sign * _strength(level, 0.0, images.shape[3] / 3)).trunc()))


def _translate_y(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    return _moved(images, y=(0.0, 1.0, -(sign * _strength(level, 0.0, images.shape[2] / 3)).trunc()))


def _rotate(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    turn = -sign * _strength(level, 0.0, math.radians(30.0))
    return _moved(images, x=(turn.cos(), turn.sin(), 0.0), y=(-turn.sin(), turn.cos(), 0.0))


def _posterize(images: Tensor, level: Tensor, _: Tensor) -> Tensor:
    bits = (4 - level * (4 / (_LEVELS - 1))).round().long()
    return images & (256 - (1 << (8 - bits))).to(torch.uint8).view(-1, 1, 1, 1)


def _solarize(images: Tensor, level: Tensor, _: Tensor) -> Tensor:
    return torch.where(images >= 255 * _strength(level, 1.0, 0.0).view(-1, 1, 1, 1), 255 - images, images)


def _auto_contrast(images: Tensor, _: Tensor, __: Tensor) -> Tensor:
    # Imported only where needed: torchvision loads all its models, three seconds that a waiting worker can do without.
    from torchvision.transforms.v2.functional import autocontrast

    return autocontrast(images)


def _equalize(images: Tensor, _: Tensor, __: Tensor) -> Tensor:
    from torchvision.transforms.v2.functional import equalize

    return equalize(images)


OPERATIONS: dict[str, Operation] = {
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateX": _translate_x,
    "TranslateY": _translate_y,
    "Rotate": _rotate,
    "Posterize": _posterize,
    "Solarize": _solarize,
    "AutoContrast": _auto_contrast,
    "Equalize": _equalize,
}
"""The paper's, by torchvision's names."""


def _moved(images: Tensor, x: Row = (1.0, 0.0, 0.0), y: Row = (0.0, 1.0, 0.0)) -> Tensor:
    """Each image as seen through an affine map of its own; black where nothing was seen.

    Args:
        images: ``(n, channels, height, width)`` uint8.
        x: where to look for what is shown at (x, y), in pixels from the middle: so many times x, so many times y, and
            so many pixels; each one number, or ``(n,)``.
        y: likewise, downwards.
    """
    height, width = images.shape[2:]
    rows = [[torch.as_tensor(each, device=images.device).expand(len(images)) for each in row] for row in (x, y)]
    maps = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
    # From pixels to halves of the side.
    scale = torch.tensor([[1, height / width, 2 / width], [width / height, 1, 2 / height]], device=images.device)
    return seen_through(images.float(), maps * scale).round().to(torch.uint8)
