"""Images seen through affine maps, each through one of its own."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def seen_through(images: Tensor, maps: Tensor) -> Tensor:
    """What is seen of each image, interpolated between its pixels; black where there is nothing to see.

    Args:
        images: ``(n, channels, height, width)`` float32.
        maps: ``(n, 2, 3)``: where to look for what is shown at (x, y, 1), in halves of the side from the middle.

    Returns:
        As many images of that size.
    """
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images.contiguous(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
