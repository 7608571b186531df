"""ResNet8, the small network of the benchmark cases, with the attribute names that their checkpoints use."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, and a shortcut around them."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        changes = stride != 1 or channels_in != channels_out
        self.shortcut = nn.Sequential(
            *([nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)] * changes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(n, channels_in, h, w)`` to ``(n, channels_out, h / stride, w / stride)``."""
        hidden = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(hidden)) + self.shortcut(x))


class ResNet8(nn.Module):
    """A stem and three basic blocks: ``(n, channels, h, w)`` to ``(n, classes)`` logits."""

    def __init__(self, channels: int, classes: int, width: int = 32) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(
            BasicBlock(width, width, 1), BasicBlock(width, 2 * width, 2), BasicBlock(2 * width, 4 * width, 2)
        )
        self.linear = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch."""
        return self.linear(self.blocks(F.relu(self.bn(self.conv(x)))).mean(dim=(2, 3)))
