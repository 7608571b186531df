"""AugMix copies of many images at once: torchvision's operations on uint8 batches, never image by image through PIL."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms import v2

from fieldrepair_plugin.randomness import own_global_state


def augmix_copies(
    pixels: Tensor, copies: int, generator: torch.Generator, *, severity: int, chain_share: int
) -> Tensor:
    """Augmented copies of images, as the paper makes them.

    One chain (mixture width 1) of 1 to 3 operations out of autocontrast, equalize, posterize, rotate, solarize,
    shear x/y and translate x/y (torchvision's ``all_ops=False``), mixed with the image by a weight from Beta(1, 1).
    Torchvision draws the mixing weight per image but one chain per call. So the images are cut into blocks of
    ``chain_share``, and every copy of every block gets a chain of its own: an image's copies always differ in chain,
    and only neighbours within a block share them.

    Args:
        pixels: ``(n, 1 or 3, height, width)`` uint8.
        copies: copies per image.
        generator: the source of randomness; torch's global generators are neither read nor changed.
        severity: AugMix severity, 1..10.
        chain_share: images per block.

    Returns:
        ``(copies, n, channels, height, width)`` uint8 on the same device.
    """
    augmix = v2.AugMix(severity=severity, mixture_width=1, chain_depth=-1, alpha=1.0, all_ops=False)
    result = torch.empty((copies, *pixels.shape), dtype=torch.uint8, device=pixels.device)
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    with own_global_state(seed, pixels.device):
        for copy in range(copies):
            for start in range(0, len(pixels), chain_share):
                block = slice(start, start + chain_share)
                result[copy, block] = augmix(pixels[block])
    return result
